"""Which method to ship: the best on validation, unless one expert for everything is as good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..problems.problem import Problem

__all__ = ["recommend"]

_CONSTANT = ("best_single", "dense", "lru")  # what a user has without a router, first found first


def recommend(
    summary: Sequence[dict[str, Any]], problem: Problem, frontier: Mapping[str, Any]
) -> dict[str, Any]:
    """The recommendation in the middle case.

    A method is chosen by mean validation utility among those that need no extra inputs; test rows only
    measure it. If its test utility is not significantly above that of the constant baseline (the 95% CI of
    the paired difference includes 0), the baseline is recommended.

    Args:
        summary: of `results.json`.
        problem: the problem, with all its cases.
        frontier: of `results.json`; gives the cost saved, where it is known.
    """
    case = problem.cases[(len(problem.cases) - 1) // 2]
    rows = {
        row["method"]: row
        for row in summary
        if row["case"] == case.label and row["family"] != "bound" and not row["extra_inputs"]
    }
    best = max(rows.values(), key=lambda row: row["validation_utility_mean"])
    constant = next((rows[name] for name in _CONSTANT if name in rows), None)
    separate = constant is None or best["utility_ci95"][0] > constant["utility_ci95"][1]
    pays = constant is None or (best is not constant and (separate or _significant(best, constant)))
    chosen = best if pays or constant is None else constant
    saved = frontier.get(chosen["method"], {}).get("cost_saved")
    low, high = chosen["utility_ci95"]
    at = f"{chosen['method']} ({case.label}): utility {chosen['utility_mean']:.4f}"
    sentence = f"Use {at} (95% CI {low:.4f} to {high:.4f})"
    if constant is not None and chosen is not constant:
        sentence += f", against {constant['utility_mean']:.4f} of {constant['method']}"
        if saved is not None:
            share, least, most = (100.0 * value for value in (saved["value"], *saved["ci95"]))
            sentence += f"; it saves {share:.0f}% ({least:.0f} to {most:.0f}) of the cost at equal quality"
    elif best is not chosen:
        sentence += f": no method is significantly better ({best['method']}: {best['utility_mean']:.4f})"
    return {
        "method": chosen["method"],
        "family": chosen["family"],
        "case": case.label,
        "utility_mean": chosen["utility_mean"],
        "utility_ci95": chosen["utility_ci95"],
        "cost_saved": saved if chosen is not constant else None,
        "routing_pays": chosen is not constant,
        "sentence": sentence + ".",
    }


def _significant(row: dict[str, Any], constant: dict[str, Any]) -> bool:
    """Whether a method is significantly better than the constant, by a paired interval where there is one."""
    for name in ("paired_difference_to_rival", "paired_difference_to_best_rival"):
        back = row[name]
        if back is not None and back["method"] == constant["method"]:
            return bool(back["ci95"][0] > 0.0)
    return False
