"""A comparison whose best choice on tuning rows is the worst on test rows: two gates and two RL methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import toy_methods
from toy_methods import skill

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem, compare

SPLITS = {"validation": "tuning", "test": "test"}  # of `results.json`, and of the rows measured


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Any]]:
    """Return the results; the best trials use the experts b, d, e and f."""
    names = ["toy_gate_one", "toy_gate_two", "toy_rl_one", "toy_rl_two", "toy_seeded"]
    with toy_methods.installed():
        problem = RoutingProblem(toy_methods.disagreeing_table(), Objective(compute_weight=0.1))
        yield compare(problem, names, seeds=2, n_trials=2).results


@pytest.fixture(scope="module")
def lines(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["method"]: line for line in results["summary"]}


def _utility(results: dict[str, Any], method: str, split: str) -> list[float]:
    return [row["utility"] for row in results["rows"] if row["method"] == method and row["split"] == split]


@pytest.mark.parametrize("split", SPLITS)
def test_kills_a_split_measured_on_the_rows_of_another(results: dict[str, Any], split: str) -> None:
    experts = {"toy_gate_one": (1, 1), "toy_gate_two": (3, 3), "toy_rl_one": (4, 4), "toy_rl_two": (5, 5)}
    for method, by_seed in experts.items():
        expected = [skill(SPLITS[split], expert, 0.1) for expert in by_seed]
        assert _utility(results, method, split) == pytest.approx(expected, abs=1e-6)


def test_kills_a_bound_measured_on_the_rows_of_another_split(results: dict[str, Any]) -> None:
    """The oracle's choice is b or f on tuning rows, a or c on test rows."""
    table = toy_methods.disagreeing_table()
    for split, rows in SPLITS.items():
        best = float(table.part(rows).quality.max(axis=1).mean()) - 0.1
        assert _utility(results, "oracle", split) == pytest.approx([best, best], abs=1e-6)


def test_kills_every_seed_0(results: dict[str, Any]) -> None:
    assert results["seeds"] == [0, 1]
    for split, rows in SPLITS.items():
        by_seed = {
            row["seed"]: row["utility"]
            for row in results["rows"]
            if row["method"] == "toy_seeded" and row["split"] == split
        }
        assert by_seed == pytest.approx({seed: skill(rows, seed, 0.1) for seed in (0, 1)}, abs=1e-6)


def test_kills_the_best_gate_chosen_by_test_utility_or_the_worst(lines: dict[str, dict[str, Any]]) -> None:
    assert lines["toy_gate_two"]["utility_mean"] > lines["toy_gate_one"]["utility_mean"]
    for name in ("toy_gate_two", "toy_rl_one", "toy_rl_two", "toy_seeded", "random"):
        assert lines[name]["paired_difference_to_best_gate"]["method"] == "toy_gate_one"


def test_kills_the_best_rival_chosen_by_test_utility_or_the_worst(lines: dict[str, dict[str, Any]]) -> None:
    """The best single expert, c, is better on test rows."""
    assert lines["best_single"]["utility_mean"] > lines["toy_gate_one"]["utility_mean"]
    for name in ("toy_gate_two", "toy_rl_one", "toy_rl_two", "toy_seeded", "random"):
        assert lines[name]["paired_difference_to_best_rival"]["method"] == "toy_gate_one"


def test_kills_a_summary_of_validation_on_test_rows(lines: dict[str, dict[str, Any]]) -> None:
    assert lines["toy_gate_one"]["validation_utility_mean"] == pytest.approx(skill("tuning", 1, 0.1))
    assert lines["toy_gate_one"]["utility_mean"] == pytest.approx(skill("test", 1, 0.1), abs=1e-6)


def test_kills_differences_on_tuning_rows(lines: dict[str, dict[str, Any]]) -> None:
    difference = lines["toy_rl_two"]["paired_difference_to_best_gate"]
    assert difference["mean"] == pytest.approx(skill("test", 5, 0.0) - skill("test", 1, 0.0), abs=1e-6)


def test_kills_the_rl_method_of_the_verdict_chosen_by_test_utility(results: dict[str, Any]) -> None:
    """By test utility it would be toy_rl_one, and its rival the best single expert."""
    (verdict,) = results["rl_verdicts"]
    assert (verdict["rl"], verdict["rival"]) == ("toy_rl_two", "toy_gate_one")
    assert verdict["mean"] == pytest.approx(skill("test", 5, 0.0) - skill("test", 1, 0.0), abs=1e-6)


def test_kills_the_recommendation_chosen_by_test_utility(results: dict[str, Any]) -> None:
    """The best method on tuning rows is significantly worse than the best single expert on test rows."""
    assert results["recommendation"]["method"] == "best_single"
    assert "toy_gate_one, the best method on validation, -" in results["recommendation"]["sentence"]


def test_kills_the_rival_of_the_frontier_chosen_by_test_utility() -> None:
    """At two costs there is an AIQ, and it is compared with the best gate on tuning rows."""
    table = toy_methods.disagreeing_table((1.0, 1.0, 0.9, 1.0, 1.0, 1.0))
    with toy_methods.installed():
        problem = RoutingProblem(table, Objective(compute_weight=0.1))
        results = compare(problem, ["toy_gate_one", "toy_gate_two"], seeds=1, n_trials=2).results
    assert results["frontier"]["toy_gate_two"]["aiq_rival"] == "toy_gate_one"


def test_kills_cpt80_that_is_cpt50_in_the_results() -> None:
    """The router ranks ten rows by their feature; the strong expert gains on rows 0, 1, 4, 6 and 9."""
    gains = np.isin(np.arange(40) % 10, [0, 1, 4, 6, 9])
    table = OutcomeTable(
        experts=("weak", "strong"),
        query_id=range(40),
        features=-(np.arange(40.0) % 10)[:, None],
        quality=np.column_stack([np.zeros(40), gains]),
        cost=np.tile([0.1, 1.0], (40, 1)),
        split=np.repeat(["train", "validation", "tuning", "test"], 10),
    )
    with toy_methods.installed():
        problem = RoutingProblem(table, Objective(compute_weight=0.05))
        results = compare(problem, ["toy_ranking"], seeds=1, n_trials=1).results
    ranks = results["frontier"]["toy_ranking"]
    # Half of the gap, 2.5 of 5 gains, is recovered after 5 rows; four fifths, 4 gains, after 7.
    assert ranks["cpt50"]["value"] == pytest.approx(0.5)
    assert ranks["cpt80"]["value"] == pytest.approx(0.7)
    assert ranks["cpt80"]["ci95"] != ranks["cpt50"]["ci95"]
