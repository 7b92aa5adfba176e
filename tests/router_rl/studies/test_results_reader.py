"""Results of this version and of version 1 are read as schema 2, and every report and view takes them."""

from __future__ import annotations

import copy
import json
import random
import runpy
from pathlib import Path
from typing import Any

import pytest
from json_edits import places, replaced
from rich.console import Console

from experts import InputError
from router_rl.reports.html_report import write_report
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import results_view
from router_rl.studies.results_reader import read_results

VERSION1 = Path(__file__).parents[2] / "fixtures" / "version1" / "results"
SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "reports" / "test_html_report.py"))
NAMES = ("static", "budget", "env_cascade", "env_caching")


def old(name: str) -> dict[str, Any]:
    return json.loads((VERSION1 / name / "results.json").read_text(encoding="utf-8"))


def shown(results: dict[str, Any]) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(results_view(results))
    return captured.get()


def test_schema_2_is_returned_unchanged(tmp_path: Path) -> None:
    results = SAMPLES["sample_results"]()
    assert read_results(results) == results
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    assert read_results(path) == read_results(tmp_path) == read_results(str(path)) == results


@pytest.mark.parametrize("name", NAMES)
def test_version_1_has_every_field_of_schema_2(name: str) -> None:
    before = old(name)
    kept = copy.deepcopy(before)
    results = read_results(before)
    assert before == kept
    assert results["schema_version"] == 2
    assert set(results) == set(SAMPLES["sample_results"]())
    assert set(results["problem"]) == set(SAMPLES["sample_results"]()["problem"])
    labels = {case["label"] for case in results["cases"]}
    assert {row["case"] for row in results["summary"]} == labels
    assert {row["case"] for row in results["rows"]} == labels
    assert len(results["summary"]) == len(before["summary"])
    assert len(results["rows"]) == len(before["rows"])
    assert results["n_trials"] == 1
    old_names = {"sees", "settings", "gate", "tries"}
    assert not old_names & {key for row in [*results["rows"], *results["summary"]] for key in row}


@pytest.mark.parametrize("name", NAMES)
def test_reports_and_views_show_the_numbers_of_version_1(name: str, tmp_path: Path) -> None:
    results = read_results(VERSION1 / name)
    write_report(results, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    text, document = shown(results), markdown(results, name)
    for row in results["summary"]:
        assert f"{row['utility_mean']:.4f}" in html
        assert f"{row['utility_mean']:.4f}" in document
        assert f"{row['utility_mean']:.3f}" in text
    for sentence in results["verdict"]:
        assert sentence in " ".join(text.split())


def test_a_comparison_on_a_table_keeps_its_sections() -> None:
    before, results = old("static"), read_results(VERSION1 / "static")
    assert results["problem"]["name"] == "routing"
    assert results["problem"]["experts"] == before["experts"]
    assert results["cases"][1] == {
        "label": "compute weight 0.4",
        "values": {"compute_weight": 0.4, "load_weight": 0.0},
    }
    sections = ("frontier", "zero_frontier", "singles", "table_facts", "verdict", "warnings")
    for name in (*sections, "versions", "commit", "seconds"):
        assert results[name] == before[name]
    (label,) = [row for row in results["summary"] if row["method"] == "group_label"][:1]
    assert label["extra_inputs"] == ["group"]
    assert label["paired_difference_to_best_gate"]["method"] == "softmax_gate"
    fitted = next(row for row in results["rows"] if row["method"] == "softmax_gate")
    assert fitted["hyperparameters"]["learning_rate"] > 0
    shares = results["shares_by_group"]
    assert shares["case"] == "compute weight 0.4"
    assert shares["methods"]["oracle"] == before["shares_by_group"]["methods"]["oracle"]["shares"]


def test_a_budget_names_its_case() -> None:
    results = read_results(VERSION1 / "budget")
    assert [case["label"] for case in results["cases"]] == ["budget 0.4"]
    assert results["cases"][0]["values"]["budget"] == 0.4
    assert results["problem"]["utility"] == "quality"


def test_an_environment_keeps_its_cases_and_its_rival() -> None:
    results = read_results(VERSION1 / "env_cascade")
    assert results["problem"]["environment"] == "RouterRL/Cascade-v0"
    assert results["problem"]["options"]["limit"] == 3
    assert results["cases"][0] == {"label": "compute weight 0.05", "values": {"compute_weight": 0.05}}
    rows = [row for row in results["rows"] if row["case"] == "compute weight 0.2"]
    assert {row["compute_weight"] for row in rows} == {0.2}
    assert "vs rival: paired difference to thresholds" in " ".join(shown(results).split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema_version": 3}, "has schema version 3"),
        ({"schema_version": 1}, "is not the result of a comparison"),
        ([1], r"the content is \[1\], not an object; give the results.json"),
    ],
)
def test_other_files_are_errors(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_results(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["new", *NAMES])
def test_an_edited_field_is_refused_or_reported(name: str, tmp_path: Path) -> None:
    content = SAMPLES["sample_results"]() if name == "new" else old(name)
    edits = [(at, value) for at in places(content) for value in (None, -1, 10**11, "x", [], {}, [["a"]], ...)]
    refused = 0
    for at, value in random.Random(0).sample(edits, 30):
        (tmp_path / "results.json").write_text(json.dumps(replaced(content, at, value)), encoding="utf-8")
        problem, results = "", None
        try:
            results = read_results(tmp_path)
        except InputError as error:
            problem = str(error)
        assert "\n" not in problem
        refused += results is None
        if results is not None:
            assert shown(results)
            assert markdown(results, "title")
    assert refused > 8


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path / "missing.json")
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be used: Expecting property name"):
        read_results(tmp_path)
