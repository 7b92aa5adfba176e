"""The table of a comparison: its columns, the references, the unit that a user pays in."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from router_rl.reports.results_table import by_case, columns_of, cost_unit_of, references_of

SAMPLES = runpy.run_path(str(Path(__file__).with_name("test_html_report.py")))


def routing() -> dict[str, Any]:
    return SAMPLES["sample_results"]()


def queueing() -> dict[str, Any]:
    return SAMPLES["environment_results"]()


def test_columns_are_those_that_the_summary_holds() -> None:
    assert [column.name for column in columns_of(routing())] == ["quality", "compute", "load_cv"]
    names = [column.name for column in columns_of(queueing())]
    assert names == ["quality", "compute", "cost", "missed", "p95_s"]


def test_version_1_is_compared_with_the_best_gate_and_environments_with_their_rival() -> None:
    (reference,) = references_of(routing())
    assert (reference.role, reference.name) == ("best gate", "best gate")
    assert set(reference.methods.values()) == {"softmax_gate"}
    results = routing()
    for row in results["summary"]:
        row["paired_difference_to_best_rival"] = {"method": "ridge", "mean": 0.0, "ci95": [0.0, 0.0]}
    assert [each.role for each in references_of(results)] == ["best rival", "best gate"]
    (first,) = references_of(queueing())
    assert (first.role, first.name) == ("rival", "index_rule")
    holding = [row["method"] for row in queueing()["summary"] if first.holds(row)]
    assert holding == ["index_rule", "index_rule"]


def test_the_best_gate_is_no_column_where_it_is_the_best_rival_itself() -> None:
    results = routing()
    for row in results["summary"]:
        row["paired_difference_to_best_rival"] = row["paired_difference_to_best_gate"]
    assert [reference.role for reference in references_of(results)] == ["best rival"]


def test_without_a_rival_the_best_rival_is_the_reference_and_without_any_there_is_none() -> None:
    results = queueing()
    for row in results["summary"]:
        row["paired_difference_to_rival"] = None
    assert [reference.role for reference in references_of(results)] == ["best rival", "best gate"]
    for row in results["summary"]:
        row["paired_difference_to_best_rival"] = row["paired_difference_to_best_gate"] = None
    assert references_of(results) == []


@pytest.mark.parametrize(
    ("unit", "scale", "text"),
    [
        ("usd", 0.0157, "US$ 15.7 per 1,000 queries"),
        ("flops", 2e9, "2 G FLOPs per query"),
        ("seconds", 0.5, "0.5 seconds per query"),
    ],
)
def test_compute_in_the_unit_that_a_user_pays_in(unit: str, scale: float, text: str) -> None:
    results = routing()
    results["table_facts"] |= {"cost_unit": unit, "compute_unit": scale}
    in_unit = cost_unit_of(results)
    assert in_unit is not None
    assert in_unit.text(1.0) == text
    (cost,) = [column for column in columns_of(results) if column.name == "cost"]
    assert cost.value({"compute_mean": 0.5}) == pytest.approx(0.5 * in_unit.per_compute)
    assert cost.value({"compute_mean": None}) is None


def test_an_unknown_unit_has_no_column() -> None:
    results = routing()
    results["table_facts"] |= {"cost_unit": "unknown", "compute_unit": 2.0}
    assert cost_unit_of(results) is None


def test_cases_in_their_order_bounds_first_then_by_utility() -> None:
    cases = list(by_case(queueing()))
    assert [label for label, _ in cases] == ["load 0.5", "load 0.9"]
    names = [row["method"] for row in cases[0][1]]
    assert names == ["hindsight", "rollout", "best_rule", "index_rule", "gate"]
