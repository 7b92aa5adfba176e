"""The goal and the warnings, from made-up summaries and diagnoses."""

from __future__ import annotations

from typing import Any

import pytest

from router_rl.reports.markdown import goal_line
from router_rl.studies.collapse import Collapse
from router_rl.studies.verdict import goal_of, savings_of, verdict_of, warnings_of

AT = "compute weight 0.1"


def line(method: str, family: str, validation: float, **changes: Any) -> dict[str, Any]:
    difference = {"method": "good_gate", "mean": 0.01, "ci95": [-0.001, 0.02]}
    return {
        "method": method,
        "family": family,
        "case": AT,
        "extra_inputs": [],
        "utility_mean": 0.5,
        "validation_utility_mean": validation,
        "paired_difference_to_best_gate": None if method == "good_gate" else difference,
        "validation_difference_to_best_gate": {"method": "good_gate", "mean": 0.0, "ci95": [validation, 1.0]},
    } | changes


SUMMARY = [
    line("good_rl", "rl", 0.8),
    line("lucky_rl", "rl", 0.7, utility_mean=0.9),  # better on test, and not picked for that
    line("told_rl", "rl", 0.9, extra_inputs=["group"]),
    line(  # the highest mean, and less sure to beat the gate
        "bold_rl", "rl", 0.95, validation_difference_to_best_gate={"method": "good_gate", "ci95": [0.1, 2.0]}
    ),
    line("good_gate", "gate", 0.8),
    line("poor_gate", "gate", 0.1),
]


def test_validation_picks_the_gate_by_its_mean_and_the_rl_method_that_surely_beats_it() -> None:
    found = goal_of(SUMMARY, AT)
    assert found is not None
    assert (found["rl"], found["gate"]) == ("good_rl", "good_gate")
    assert (found["mean"], found["ci95"], found["margin"]) == (0.01, [-0.001, 0.02], -0.002)
    assert found["reached"]
    assert verdict_of(SUMMARY, [found], AT).startswith(
        "Compute weight 0.1: the RL method that validation selects (good_rl, 0.500) is not significantly "
        "different "
    )


@pytest.mark.parametrize(("low", "reached"), [(-0.0019, True), (-0.002, False), (-0.01, False)])
def test_the_lower_end_decides(low: float, reached: bool) -> None:
    difference = {"method": "good_gate", "mean": 0.0, "ci95": [low, 0.02]}
    rows = [line("good_rl", "rl", 0.8, paired_difference_to_best_gate=difference), SUMMARY[4]]
    found = goal_of(rows, AT)
    assert found is not None
    assert found["reached"] is reached


def test_without_both_sides_there_is_no_goal() -> None:
    assert goal_of(SUMMARY[:4], AT) is None
    assert goal_of(SUMMARY, "compute weight 0.2") is None
    assert verdict_of(SUMMARY[:3], [], AT) == "Compute weight 0.1: good_rl has a mean utility of 0.500."


def test_savings_of_the_picked_are_told_with_their_intervals() -> None:
    def facts(saved: dict[str, Any] | None) -> dict[str, Any]:
        gained = {"value": 0.004, "ci95": [-0.001, 0.0104]}
        above = {"value": 0.02, "ci95": [0.01, 0.03]}
        return {"aiq": 0.75, "aiq_above_zero": above, "cost_saved": saved, "quality_gained": gained}

    singles = [{"expert": "small", "quality": 0.6}, {"expert": "large", "quality": 0.8}]
    frontier = {
        "good_rl": facts({"value": 0.124, "ci95": [0.04, 0.24]}),
        "good_gate": facts(None),
    }
    goal = {"rl": "good_rl", "gate": "good_gate"}
    later = [*SUMMARY, line("good_rl", "rl", 0.8, case="compute weight 0.2")]
    told = savings_of(later, [goal, goal], frontier, singles)
    assert told == [
        "good_rl over 2 compute weights, compared with large for every query: 12% of the cost saved (4% to "
        "24%) at equal quality; +0.004 (-0.001 to +0.010) quality at equal cost; AIQ 0.750, +0.020 (+0.010 "
        "to +0.030) over the zero router.",
        "good_gate over 2 compute weights, compared with large for every query: no significant saving at "
        "equal quality; +0.004 (-0.001 to +0.010) quality at equal cost; AIQ 0.750, +0.020 (+0.010 to "
        "+0.030) over the zero router.",
    ]
    (alone,) = savings_of(SUMMARY[:3], [], frontier, singles)
    assert alone.startswith("good_rl at one compute weight, compared with large for every query: ")
    assert savings_of(SUMMARY[:1], [], {"good_rl": {"aiq": None}}, singles) == []


def test_warnings_count_seeds_and_say_each_reason_once() -> None:
    def found(reason: str, *, one_expert: bool = False) -> Collapse:
        return Collapse(
            one_expert=one_expert,
            below_best_single=not one_expert,
            entropy=0.0,
            largest_share=1.0,
            never_chosen=(),
            regret_to_best_single=0.1,
            reasons=(reason,) if reason else (),
        )

    other = "compute weight 0.4"
    fits = [
        ("a", AT, found("overfitting: 0.9 against 0.5")),
        ("a", AT, found("overfitting: 0.8 against 0.5")),
        ("a", other, found("", one_expert=True)),
        ("b", AT, found("")),
        ("ridge", AT, None),
    ]
    first, second = warnings_of(fits)
    assert first == (
        "a sends nearly all queries to one expert while the oracle uses several, at compute weight 0.4 (1) "
        "and is below the best single expert on validation at compute weight 0.1 (2) (number of "
        "seeds in brackets). Likely: overfitting: 0.9 against 0.5."
    )
    assert second.endswith("None of the known causes applies.")
    assert warnings_of(fits[-1:]) == []


def test_a_budget_takes_the_weights_place() -> None:
    within = "budget 0.3"
    rows = [row | {"case": within} for row in SUMMARY]
    found = goal_of(rows, within)
    assert found is not None
    assert found["case"] == within
    assert goal_line(found).startswith("Goal at budget 0.3 ")
    assert verdict_of(rows, [found], within).startswith("Budget 0.3: the RL method")
    collapse = Collapse(
        one_expert=True,
        below_best_single=False,
        entropy=0.0,
        largest_share=1.0,
        never_chosen=(),
        regret_to_best_single=0.0,
        reasons=(),
    )
    (warning,) = warnings_of([("a", within, collapse)])
    assert "uses several, at budget 0.3 (1) (number of seeds in brackets)" in warning
