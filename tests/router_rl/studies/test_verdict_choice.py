"""The verdict's methods are selected on validation: rows with a higher test utility are not."""

from __future__ import annotations

from typing import Any

import pytest

from router_rl.studies.verdict import rl_verdict, verdict_of

AT = "compute weight 0.1"


def _row(method: str, family: str, validation: float, test: float) -> dict[str, Any]:
    difference = {"method": "good_gate", "mean": test - 0.5, "ci95": [test - 0.6, test - 0.4]}
    return {
        "method": method,
        "family": family,
        "case": AT,
        "extra_inputs": [],
        "same_as": None,
        "utility_mean": test,
        "validation_utility_mean": validation,
        "paired_difference_to_best_rival": None if method == "good_gate" else difference,
        "paired_difference_to_best_gate": None if method == "good_gate" else difference,
    }


ROWS = [
    _row("poor_rl", "rl", 0.1, 0.6),
    _row("good_rl", "rl", 0.8, 0.5),
    _row("lucky_rl", "rl", 0.7, 0.9),
    _row("poor_gate", "gate", 0.1, 0.95),
    _row("good_gate", "gate", 0.75, 0.5),
    _row("lucky_baseline", "baseline", 0.2, 0.99),
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[::-1]], ids=["in order", "reversed"])
def test_kills_the_rl_method_of_the_verdict_chosen_by_test_utility(rows: list[dict[str, Any]]) -> None:
    verdict = rl_verdict(rows, AT)
    assert verdict is not None
    assert (verdict["rl"], verdict["rl_utility"]) == ("good_rl", 0.5)


@pytest.mark.parametrize("rows", [ROWS, ROWS[::-1]], ids=["in order", "reversed"])
def test_kills_the_gate_of_the_verdict_chosen_by_test_utility_or_the_worst(
    rows: list[dict[str, Any]],
) -> None:
    verdict = rl_verdict(rows, AT)
    assert verdict is not None
    assert (verdict["rival"], verdict["rival_utility"]) == ("good_gate", 0.5)


def test_kills_the_best_method_of_the_verdict_chosen_by_test_utility() -> None:
    """Without RL, the sentence names the method that validation selects."""
    rows = [row for row in ROWS if row["family"] != "rl"]
    assert verdict_of(rows, [], AT) == "Compute weight 0.1: good_gate has a mean utility of 0.500."
