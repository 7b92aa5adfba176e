"""The verdict and the warnings, from made-up summaries and diagnoses."""

from __future__ import annotations

from typing import Any

import pytest

from router_rl.studies.collapse import Collapse
from router_rl.studies.verdict import rl_verdict, same_policies, savings_of, verdict_of, warnings_of

AT = "compute weight 0.1"


def line(method: str, family: str, validation: float, **changes: Any) -> dict[str, Any]:
    difference = {"method": "good_gate", "mean": 0.01, "ci95": [-0.001, 0.02]}
    return {
        "method": method,
        "family": family,
        "case": AT,
        "extra_inputs": [],
        "same_as": None,
        "utility_mean": 0.5,
        "validation_utility_mean": validation,
        "paired_difference_to_best_rival": None if method == "good_gate" else difference,
    } | changes


SUMMARY = [
    line("good_rl", "rl", 0.8),
    line(  # better on test, and not picked for that
        "lucky_rl",
        "rl",
        0.7,
        utility_mean=0.9,
        paired_difference_to_best_rival={"method": "good_gate", "mean": 0.4, "ci95": [0.3, 0.5]},
    ),
    line("told_rl", "rl", 0.9, extra_inputs=["group"]),
    line("good_gate", "gate", 0.8),
    line("poor_gate", "gate", 0.1, utility_mean=0.95),
    line("told_lookup", "baseline", 0.9, extra_inputs=["group"]),
    line("lucky_baseline", "baseline", 0.2, utility_mean=0.99),
    line("oracle", "bound", 0.99),
]


def test_one_rule_selects_both_sides_the_highest_validation_utility() -> None:
    for rows in (SUMMARY, SUMMARY[::-1]):
        found = rl_verdict(rows, AT)
        assert found is not None
        assert (found["rl"], found["rival"]) == ("good_rl", "good_gate")
        assert (found["mean"], found["ci95"]) == (0.01, [-0.001, 0.02])
        assert found["outcome"] == "no significant difference"
        assert verdict_of(rows, [found], AT) == (
            "Compute weight 0.1: good_rl (0.500), the best RL method on validation, is not significantly "
            "different from good_gate (0.500), the best other method: +0.0100 utility (95% CI -0.0010 to "
            "+0.0200)."
        )


def test_a_baseline_is_the_rival_where_validation_selects_it() -> None:
    rows = [*SUMMARY, line("kernel", "baseline", 0.85)]
    found = rl_verdict(rows, AT)
    assert found is not None
    assert found["rival"] == "kernel"


def test_kills_the_rl_method_of_the_verdict_chosen_by_test_utility() -> None:
    found = rl_verdict(SUMMARY, AT)
    assert found is not None
    assert found["rl"] == "good_rl"  # lucky_rl has the higher test mean and the higher test interval


def test_kills_the_rival_of_the_verdict_chosen_by_test_utility_or_the_worst() -> None:
    for rows in (SUMMARY, SUMMARY[::-1]):
        found = rl_verdict(rows, AT)
        assert found is not None
        assert found["rival"] == "good_gate"


def test_kills_the_best_method_of_the_verdict_chosen_by_test_utility() -> None:
    """Without RL there is no comparison, and the sentence names the method that validation selects."""
    rows = [row for row in SUMMARY if row["family"] != "rl"]
    assert verdict_of(rows, [], AT) == "Compute weight 0.1: good_gate has a mean utility of 0.500."


@pytest.mark.parametrize(
    ("ci95", "outcome", "words"),
    [
        ([0.0001, 0.02], "better", "is significantly better than"),
        ([0.0, 0.02], "no significant difference", "is not significantly different from"),
        ([-0.02, -0.0001], "worse", "is significantly worse than"),
    ],
)
def test_the_interval_decides(ci95: list[float], outcome: str, words: str) -> None:
    difference = {"method": "good_gate", "mean": 0.0, "ci95": ci95}
    rows = [line("good_rl", "rl", 0.8, paired_difference_to_best_rival=difference), SUMMARY[3]]
    found = rl_verdict(rows, AT)
    assert found is not None
    assert found["outcome"] == outcome
    assert words in verdict_of(rows, [found], AT)


def test_a_copy_of_a_gate_is_no_result_of_rl() -> None:
    """Even if the gate is not the rival, and the difference to the rival is significant."""
    better = {"method": "good_gate", "mean": 0.1, "ci95": [0.05, 0.2]}
    copy = line("warm", "rl", 0.9, same_as="poor_gate", paired_difference_to_best_rival=better)
    found = rl_verdict([*SUMMARY, copy], AT)
    assert found is not None
    assert (found["rl"], found["outcome"]) == ("warm", "same policy")
    assert verdict_of([*SUMMARY, copy], [found], AT) == (
        "Compute weight 0.1: warm (0.500), the best RL method on validation, makes the decisions of "
        "poor_gate."
    )
    other = copy | {"case": "compute weight 0.4"}
    assert same_policies([*SUMMARY, copy, other], []) == [
        "warm makes the decisions of poor_gate at compute weight 0.1, compute weight 0.4: it is not a result "
        "of RL there."
    ]
    (sentence,) = same_policies([*SUMMARY, copy, other], [found])  # the verdict of 0.1 says it already
    assert sentence.startswith("warm makes the decisions of poor_gate at compute weight 0.4:")


def test_without_both_sides_there_is_no_comparison() -> None:
    assert rl_verdict(SUMMARY[:3], AT) is None
    assert rl_verdict(SUMMARY[3:], AT) is None
    assert rl_verdict(SUMMARY, "compute weight 0.2") is None
    assert verdict_of(SUMMARY[:2], [], AT) == "Compute weight 0.1: good_rl has a mean utility of 0.500."


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
    verdict = {"rl": "good_rl", "rival": "good_gate"}
    later = [*SUMMARY, line("good_rl", "rl", 0.8, case="compute weight 0.2")]
    told = savings_of(later, [verdict, verdict], frontier, singles)
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
    found = rl_verdict(rows, within)
    assert found is not None
    assert found["case"] == within
    assert verdict_of(rows, [found], within).startswith("Budget 0.3: good_rl")
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
