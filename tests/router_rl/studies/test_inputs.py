"""What routers read is said once for all methods, and for those that differ, in every table."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experts import OutcomeTable
from router_rl import CascadeProblem, Objective, RoutingProblem, compare
from router_rl.problems.feature_config import FeatureConfig
from router_rl.reports.html_report import write_report
from router_rl.reports.inputs_note import inputs_note
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import evaluation_view, results_view
from router_rl.routing import load
from router_rl.studies.runs import train_run


def prompt_table(rows: int = 60) -> OutcomeTable:
    """Prompts with groups; an expert is right on its group."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, rows)
    return OutcomeTable(
        experts=("small", "large"),
        query_id=np.array([f"q{row}" for row in range(rows)], dtype=object),
        features=None,
        quality=(rng.random((rows, 2)) < np.where(np.arange(2) == kind[:, None], 0.9, 0.3)).astype(float),
        cost=np.tile([1.0, 2.0], (rows, 1)),
        split=np.resize(["train", "train", "validation", "validation", "test"], rows),
        prompt=np.array(
            [f"{('red', 'blue')[each]} thing {row}" for row, each in enumerate(kind)], dtype=object
        ),
        group=np.array([("red", "blue")[each] for each in kind], dtype=object),
    )


def compared(**features: Any) -> dict[str, Any]:
    """Results of one comparison with a group lookup."""
    config = FeatureConfig(dimensions=2, **features)
    problem = RoutingProblem(prompt_table(), Objective(compute_weight=0.1), features=config)
    return compare(problem, ["ridge", "group_label"], seeds=1, n_trials=1).results


def extra_inputs(results: dict[str, Any]) -> dict[str, list[str]]:
    return {row["method"]: row["extra_inputs"] for row in results["summary"] if row["extra_inputs"]}


def printed(view: Any) -> str:
    console = Console(file=io.StringIO(), width=500)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_tables_name_the_shared_inputs_and_the_methods_that_differ(tmp_path: Path) -> None:
    results = compared()
    assert results["inputs"]["shared"] == ["prompt"]
    assert results["inputs"]["methods"]["group_label"] == ["prompt", "group"]
    assert results["inputs"]["methods"]["oracle"] == ["outcomes"]
    assert "ridge" not in results["inputs"]["methods"]
    assert extra_inputs(results) == {"group_label": ["group"]}
    note = "prompt; group_label: prompt, group; oracle: outcomes"
    assert inputs_note(results) == note
    write_report(results, tmp_path / "report.html")
    for text in (
        printed(results_view(results)),
        markdown(results, "A title"),
        (tmp_path / "report.html").read_text(encoding="utf-8"),
    ):
        assert note in text
        assert "Inputs of a call" in text


@pytest.mark.slow
def test_where_every_method_reads_the_group_no_method_has_extra_inputs() -> None:
    results = compared(group=True)
    assert results["inputs"]["shared"] == ["prompt", "group"]
    assert set(results["inputs"]["methods"]) == {"oracle"}
    assert extra_inputs(results) == {}
    assert "†" not in printed(results_view(results))


def test_results_of_earlier_versions_say_nothing() -> None:
    results = compared()
    del results["inputs"]
    assert inputs_note(results) is None
    assert "Inputs of a call" not in printed(results_view(results)) + markdown(results, "A title")


@pytest.mark.parametrize("group", [False, True])
def test_a_run_names_the_inputs_of_its_router(group: bool, tmp_path: Path) -> None:
    config = FeatureConfig(dimensions=2, group=group)
    problem = RoutingProblem(prompt_table(), Objective(compute_weight=0.1), features=config)
    run = train_run(problem, "ridge", tmp_path / "run")
    expected = ["prompt", "group"] if group else ["prompt"]
    assert run.facts["inputs"] == expected
    assert list(load(tmp_path / "run" / "router").inputs) == expected  # type: ignore[union-attr]
    line = next(line for line in printed(evaluation_view(run.facts)).splitlines() if "inputs" in line)
    assert line.split(maxsplit=1)[1].strip() == ", ".join(expected)


def test_other_problems_say_what_policies_observe() -> None:
    table = prompt_table()
    rng = np.random.default_rng(1)
    own = OutcomeTable(
        experts=table.experts,
        query_id=table.query_id,
        features=rng.random((60, 3)),
        quality=table.quality,
        cost=table.cost,
        split=table.split,
        confidence=rng.random((60, 2)),
    )
    assert CascadeProblem(own).inputs == ("features", "confidence")
    assert CascadeProblem(own, use_features=False).inputs == ("confidence",)
    assert RoutingProblem(own).inputs == ("features",)
