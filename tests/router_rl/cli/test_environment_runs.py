"""`train`, `compare`, `evaluate` and `export` on environments, as a person at a terminal uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from environment_tables import made_cascade, topics

from experts import OutcomeTable
from router_rl import CascadeProblem, RoutingProblem
from router_rl.routing import load
from train_router import main

Said = Callable[..., dict[str, Any]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Return a function that runs a command with --json; it returns what was printed."""

    def command(*words: object) -> dict[str, Any]:
        assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return command


def queues() -> OutcomeTable:
    """Two experts: a slow one that is right, and a fast one that is right half of the time."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 3)).astype(np.float32)
    return OutcomeTable(
        experts=["slow", "fast"],
        query_id=range(80),
        features=features,
        quality=np.column_stack([np.ones(80), features[:, 0] > 0]),
        cost=np.array([[4.0, 1.0]] * 80),
        latency_s=rng.exponential(1.0, (80, 2)) * [1.0, 0.2] + 1e-3,
        split=["train"] * 40 + ["validation"] * 20 + ["test"] * 20,
    )


def rows_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows without seconds, which differ from run to run, and without paths."""
    return [
        {name: value for name, value in row.items() if name not in ("fit_seconds", "router")}
        for row in results["rows"]
    ]


@pytest.mark.slow
def test_other_data_under_the_same_path_are_fitted_anew(said: Said, tmp_path: Path) -> None:
    """Version 1 keyed trials on an environment by the path, and printed the results of the old data."""
    path = tmp_path / "table.parquet"
    words = ["compare", "--env", "cascade", "--methods", "thresholds", "--seeds", "1", "--n-trials", "1"]
    words += ["--compute-weights", "0.1", "--table", str(path), "--out"]
    made_cascade(seed=3, rows=80).write(path)
    before = said(*words, tmp_path / "out")
    path.unlink()
    made_cascade(seed=4, rows=80).write(path)
    after = said(*words, tmp_path / "out")
    fresh = said(*words, tmp_path / "fresh")
    assert (before["reused"], after["reused"]) == (0, 0)
    assert rows_of(after) == rows_of(fresh)
    assert rows_of(after) != rows_of(before)
    again = said(*words, tmp_path / "out")
    # Every rule that stands in all comparisons, and thresholds; the oracle is a bound.
    assert again["reused"] == len({*CascadeProblem.always, "thresholds"} - {"oracle"})
    assert rows_of(again) == rows_of(after)


@pytest.mark.slow
def test_one_compute_weight_is_one_case(said: Said, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    made_cascade(rows=80).write(path)
    words = ["compare", "--env", "cascade", "--methods", "thresholds", "--seeds", "1", "--n-trials", "1"]
    words += ["--table", str(path)]
    for number, option in enumerate(("--compute-weights", "--objective.compute-weight")):
        results = said(*words, option, "0.1", "--out", tmp_path / str(number))
        assert [case["label"] for case in results["cases"]] == ["compute weight 0.1"]
        assert {row["compute_weight"] for row in results["rows"]} == {0.1}
    whole = said(*words, "--out", tmp_path / "whole")
    assert len(whole["cases"]) == 5


@pytest.mark.slow
def test_a_resumed_comparison_says_how_many_trials_were_reused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.parquet"
    made_cascade(rows=80).write(path)
    words = ["compare", "--table", str(path), "--methods", "ridge", "--compute-weights", "0.1,0.4"]
    words += ["--n-trials", "3", "--out", str(tmp_path / "out")]
    assert main([*words, "--seeds", "1"]) == 0
    assert "reused" not in capsys.readouterr().out
    assert main([*words, "--seeds", "2"]) == 0
    # Of all rules but those of groups, which the table lacks, at two weights; the oracle is a bound.
    rules = set(RoutingProblem.always) - {"oracle", "group_label", "inferred_group"}
    assert f"{2 * len(rules)} trials reused from the earlier run." in capsys.readouterr().out
    folder = tmp_path / "out" / "tensorboard"
    events = [str(path.parent.relative_to(folder)) for path in folder.rglob("events*")]
    assert len(events) == len(set(events))
    events = [name for name in events if name.startswith("ridge/")]
    assert len(events) == 2 * (3 + 1)
    first = {f"ridge/c={weight:g}/seed=0/trial={trial}" for weight in (0.1, 0.4) for trial in range(3)}
    assert first < set(events)
    assert {name.rpartition("/trial=")[0] for name in set(events) - first} == {
        "ridge/c=0.1/seed=1",
        "ridge/c=0.4/seed=1",
    }


RUNS = {
    "cascade": (
        lambda: made_cascade(rows=80),
        "--method exact_pg --method.steps 4 --method.members 1 --method.hidden 8"
        " --objective.compute-weight 0.05,0.2 --problem.max-experts 2",
    ),
    "caching": (
        topics,
        "--method cross_entropy --method.population 4 --method.elite 2 --method.generations 2"
        " --method.streams 2 --objective.compute-weight 0.3"
        " --problem.episodes 4 --problem.window 16 --problem.resident-shares [0.5]",
    ),
    "queueing": (
        queues,
        "--method index_rule --objective.compute-weight 0.7"
        " --problem.episodes 4 --problem.window 40 --problem.loads [0.8,1.1]",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("env", RUNS)
def test_a_run_is_evaluated_and_exported(
    env: str, said: Said, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, options = RUNS[env]
    table, run = tmp_path / "table.parquet", tmp_path / "run"
    make().write(table)
    words = ["train", "--env", env, "--table", table, *options.split(), "--out", run]
    facts = said(*words)
    found = said("evaluate", run, "--table", table)
    earned = {case["label"]: case["test"] for case in found["cases"]}
    assert earned == {
        case["label"]: pytest.approx(case["test"], abs=1e-6, nan_ok=True) for case in facts["cases"]
    }
    exported = said("export", run, "--out", tmp_path / "router", "--table", table)
    assert exported["passed"]
    assert tuple(load(tmp_path / "router").experts) == tuple(make().experts)
    assert main(["evaluate", str(run), "--table", str(table)]) == 0
    assert env in capsys.readouterr().out
    for option in (["--at", "0.1"], ["--distil"]):
        assert main(["export", str(run), "--out", str(tmp_path / "x"), "--table", str(table), *option]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_prompt_router_is_read_with_its_text_pipeline(said: Said, tmp_path: Path) -> None:
    """Version 1 attached the pipeline after the export: the run's README showed `router(features)`."""
    table = replace(
        made_cascade(rows=120),
        features=None,
        prompt=np.array([f"{'sum' if row % 2 else 'proof'} of {row}" for row in range(120)], dtype=object),
    )
    table.write(tmp_path / "table.parquet")
    for env in ("routing", "cascade"):
        run = tmp_path / env
        words = ["train", "--env", env, "--table", tmp_path / "table.parquet", "--method", "softmax_gate"]
        said(*words, "--method.epochs", "2", "--out", run)
        assert "router.route(" in (run / "router" / "README.md").read_text()
        parity = json.loads((run / "router" / "parity.json").read_text())
        assert parity["text"]["passed"]
        assert parity["text"]["prompts_from"] == "table"
        router = load(run / "router")
        routing = router.route(["sum of 3", "proof of 4"])
        assert routing.experts.shape == (2, 1)
        assert torch.isfinite(routing.logits).all()
        assert not routing.fallback.any()
