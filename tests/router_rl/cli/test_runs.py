"""`runs list` and `runs diff` say what the files of runs and comparisons say, and nothing crashes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train_router
from experts import OutcomeTable
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.statistics import paired_difference
from router_rl.studies.stored_trials import stored_trials

FIXTURES = Path(__file__).parents[2] / "fixtures" / "version1"

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def runs(kinds: OutcomeTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four training runs and a comparison, on one table whose costs are dollars."""
    folder = tmp_path_factory.mktemp("runs")
    table = str(folder / "kinds.parquet")
    replace(kinds, cost_unit="usd").write(table)
    other = str(folder / "other.parquet")
    replace(kinds, cost_unit="usd", quality=1.0 - kinds.quality).write(other)
    lines = {
        "single": ("train", "--table", table, "--method", "zero_router"),
        "ridge": ("train", "--table", table, "--method", "ridge"),
        "costly": ("train", "--table", table, "--method", "ridge", "--objective.compute-weight", "0.4"),
        "topk": ("train", "--table", table, "--method", "ridge", "--problem.select", "topk"),
        "other": ("train", "--table", other, "--method", "ridge"),
        "study": ("compare", "--table", table, "--methods", "ridge", "--seeds", "2", "--n-trials", "2"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoutingProblem, "always", ("oracle", "random", "best_single"))
        for name, words in lines.items():
            assert train_router.main([*words, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command and returns its JSON."""

    def command(*words: str) -> Any:
        capsys.readouterr()
        status = train_router.main(["runs", *words, "--json"])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return json.loads(captured.out)

    return command


def test_each_run_is_listed_with_what_its_file_says(runs: Path, run: Run) -> None:
    listed = {Path(entry["folder"]).name: entry for entry in run("list", str(runs))["runs"]}
    assert set(listed) == {"single", "ridge", "costly", "topk", "other", "study"}
    for name in ("ridge", "topk"):
        entry, facts = listed[name], json.loads((runs / name / "run.json").read_text())
        assert (entry["kind"], entry["state"], entry["problem"]) == ("run", "finished", "routing")
        assert (entry["digest"], entry["table"]) == (facts["digest"], "four kinds")
        assert entry["methods"] == [facts["method"]]
        assert entry["versions"] == facts["versions"]
        (outcome,) = entry["outcomes"]
        for split in ("validation", "test"):
            for part in ("utility", "quality", "compute"):
                assert outcome[split][part] == facts[split][part]
            assert outcome[split]["cost"] == facts[split]["compute"] * facts["compute_unit"]
    assert listed["ridge"]["digest"] != listed["topk"]["digest"]
    assert listed["ridge"]["test_rows"] == listed["topk"]["test_rows"] != listed["other"]["test_rows"]


def test_a_comparison_is_listed_with_its_means(runs: Path, run: Run) -> None:
    (entry,) = run("list", str(runs / "study"))["runs"]
    results = json.loads((runs / "study" / "results.json").read_text())
    assert entry["digest"] == results["digest"] == json.loads((runs / "ridge/run.json").read_text())["digest"]
    assert entry["recommended"] == [results["recommendation"][name] for name in ("method", "case")]
    assert set(entry["methods"]) == {"ridge", "oracle", "random", "best_single"}
    assert len(entry["outcomes"]) == len(results["summary"]) == 4 * 3
    for outcome, summary in zip(entry["outcomes"], results["summary"], strict=True):
        assert outcome["test"]["quality"] == pytest.approx(summary["quality_mean"])
        assert outcome["validation"]["utility"] == pytest.approx(summary["validation_utility_mean"])
        assert len(outcome["fits"]) == 2


def test_a_difference_is_paired_by_test_row(runs: Path, run: Run) -> None:
    found = run("diff", str(runs / "ridge"), str(runs / "single"))
    (result,) = found["results"]
    trials = [stored_trials(runs / name)[0].measured("compute weight 0.1") for name in ("ridge", "single")]
    for row in result["means"]:
        unit = json.loads((runs / "ridge/run.json").read_text())["compute_unit"]
        name, factor = ("compute", unit) if row["name"] == "cost" else (row["name"], 1.0)
        one, two = (factor * trial[name][np.newaxis] for trial in trials)
        expected = paired_difference(two, one)
        assert expected.mean != 0.0
        assert row["difference"] == pytest.approx(expected.mean)
        assert row["ci95"] == pytest.approx([expected.low, expected.high])
        assert (row["a"], row["b"]) == (pytest.approx(one.mean()), pytest.approx(two.mean()))
    assert [row["name"] for row in result["means"]] == ["utility", "quality", "compute", "cost"]
    facts = {fact["name"]: (fact["a"], fact["b"]) for fact in found["facts"]}
    assert facts["methods"] == (["ridge"], ["zero_router"])
    assert facts["method.penalty"][1] is None
    assert not {"digest", "table", "router-rl", "seed"} & set(facts)


def test_other_options_on_the_same_rows_are_paired_too(runs: Path, run: Run) -> None:
    found = run("diff", str(runs / "ridge"), str(runs / "topk"))
    assert {"digest", "problem.select"} <= {fact["name"] for fact in found["facts"]}
    assert all(row["ci95"] for row in found["results"][0]["means"])


def test_utilities_of_two_objectives_are_not_subtracted(runs: Path, run: Run) -> None:
    (result,) = run("diff", str(runs / "ridge"), str(runs / "costly"))["results"]
    rows = {row["name"]: row for row in result["means"]}
    assert rows["utility"]["difference"] is rows["utility"]["ci95"] is None
    assert rows["quality"]["ci95"] is not None


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("other", lambda folder: None, "the test rows differ"),
        ("single", lambda folder: shutil.rmtree(folder / "trials"), "no finished trial of zero_router"),
        (
            "single",
            lambda folder: next(folder.glob("trials/*/measured.safetensors")).unlink(),
            "cannot be used",
        ),
        ("single", lambda folder: next(folder.glob("trials/*/trial.json")).write_text("{"), "cannot be used"),
    ],
)
def test_what_is_not_paired_says_why(
    runs: Path, tmp_path: Path, run: Run, name: str, spoil: Callable[[Path], None], reason: str
) -> None:
    copy = tmp_path / name
    shutil.copytree(runs / name, copy)
    spoil(copy)
    (result,) = run("diff", str(runs / "ridge"), str(copy))["results"]
    assert reason in result["unpaired"]
    assert all(row["ci95"] is None for row in result["means"])
    assert result["means"][0]["difference"] == result["means"][0]["b"] - result["means"][0]["a"]


def test_a_run_is_compared_with_its_method_in_a_comparison(runs: Path, run: Run) -> None:
    found = run("diff", str(runs / "ridge"), str(runs / "study"))
    (result,) = found["results"]
    assert result["methods"] == ["ridge", "ridge"]
    assert result["cases"] == ["compute weight 0.1"] * 2
    assert result["paired_seeds"] == 1
    assert found["notes"] == []
    found = run("diff", str(runs / "single"), str(runs / "study"))
    assert found["results"] == []
    assert found["notes"] == [f"only in {runs / 'single'}: zero_router (1 case)"]


def test_trials_of_other_data_in_the_same_folder_are_not_taken(runs: Path, tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "ridge"
    shutil.copytree(runs / "ridge", copy)
    shutil.copytree(runs / "other" / "trials", copy / "trials", dirs_exist_ok=True)
    (result,) = run("diff", str(runs / "ridge"), str(copy))["results"]
    assert [row["ci95"] for row in result["means"]] == [[0.0, 0.0]] * 4


def test_a_comparison_equals_itself(runs: Path, run: Run) -> None:
    found = run("diff", str(runs / "study"), str(runs / "study"))
    assert found["facts"] == []
    assert len(found["results"]) == 4 * 3
    for result in found["results"]:
        assert {row["difference"] for row in result["means"]} == {0.0}
        assert (result["unpaired"] is not None) == (result["methods"][0] == "oracle")  # a bound has no trial
        assert result["paired_seeds"] == (None if result["methods"][0] == "oracle" else 2)


def test_unfinished_damaged_and_foreign_folders_are_one_line_each(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    for name in ("ridge", "study"):
        shutil.copytree(runs / name, f"{name}-killed")
        next(Path(f"{name}-killed").glob("r*s.json" if name == "study" else "run.json")).unlink()
        shutil.copytree(runs / name, f"{name}-torn")
        file = Path(f"{name}-torn") / ("results.json" if name == "study" else "run.json")
        file.write_text(file.read_text()[:-20])
    Path("foreign").mkdir()
    Path("foreign/results.json").write_text('{"accuracy": 1.0}')
    Path("empty").mkdir()
    shutil.copytree(FIXTURES / "runs" / "static", "old")
    assert train_router.main(["runs", "list", ".", "empty", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    states = {entry["folder"]: entry["state"] for entry in found["runs"]}
    assert states == {
        "ridge-killed": "interrupted",
        "study-killed": "interrupted",
        "ridge-torn": "unreadable",
        "study-torn": "unreadable",
        "foreign": "unreadable",
        "old": "finished",
    }
    assert found["notes"] == ["empty: no training run or comparison"]
    killed = next(entry for entry in found["runs"] if entry["folder"] == "study-killed")
    assert killed["trials"] == len(list(Path("study-killed").glob("trials/*/trial.json"))) > 0
    assert killed["digest"] == json.loads((runs / "study/results.json").read_text())["digest"]
    assert train_router.main(["runs", "list", "."]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert sum(line.startswith("foreign  comparison, unreadable: ") for line in shown) == 1
    for words in (["diff", "old", "foreign"], ["diff", "old", "empty"], ["diff", "old"], ["list", "nowhere"]):
        assert train_router.main(["runs", *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_runs_and_results_of_version_1_are_listed(run: Run) -> None:
    listed = run("list", str(FIXTURES / "runs"), str(FIXTURES / "results"))["runs"]
    assert len(listed) == 12
    assert {entry["state"] for entry in listed} == {"finished"}
    found = run("diff", str(FIXTURES / "runs" / "static"), str(FIXTURES / "runs" / "prompts"))
    assert "an earlier release" in found["results"][0]["unpaired"]
    assert (
        "did not keep them"
        in run("diff", str(FIXTURES / "runs" / "static"), str(FIXTURES / "runs" / "env_cascade"))["notes"][0]
    )


def test_a_run_that_is_being_written_is_running(
    runs: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from router_rl.cli.outputs import reserved
    from router_rl.cli.train_command import COMMAND

    shutil.copytree(runs / "ridge", tmp_path / "ridge")
    (tmp_path / "ridge" / "run.json").unlink()
    with reserved(COMMAND, {"out": tmp_path / "ridge"}):
        assert run("list", str(tmp_path))["runs"][0]["state"] == "running"
    assert run("list", str(tmp_path))["runs"][0]["state"] == "interrupted"


def test_lists_and_differences_fit_80_columns(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(runs)
    assert train_router.main(["runs", "list", "."]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "US$" in shown
    assert "per 1,000 queries" in shown
    assert train_router.main(["runs", "diff", "ridge", "study"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "US$ per 1,000 queries" in shown
    assert train_router.main(["runs", "diff", "ridge", "ridge"]) == 0
    assert "Options, data and versions are the same." in capsys.readouterr().out
