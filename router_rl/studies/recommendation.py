"""Recommend the method to ship: the best on validation, or one expert if that is not significantly worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..problems.statistics import Interval

__all__ = ["recommend"]

_CONSTANT = ("best_single", "dense", "lru")  # the alternatives without a router

Difference = Callable[[str, str], "Interval | None"]


def recommend(
    summary: Sequence[dict[str, Any]],
    case: str,
    frontier: Mapping[str, Any],
    difference: Difference,
) -> dict[str, Any]:
    """Return the recommendation in one case.

    The method with the highest mean validation utility is selected, among those without extra inputs. The
    best constant baseline is recommended instead, unless the method's test utility is significantly higher
    (the 95% CI of the paired difference is above 0).

    Args:
        summary: of `results.json`.
        case: label of the case.
        frontier: of `results.json`; gives the cost saved, if known.
        difference: maps two methods to the paired difference of their test utilities in this case.
    """
    rows = {
        row["method"]: row
        for row in summary
        if row["case"] == case and row["family"] != "bound" and not row["extra_inputs"]
    }
    best = max(rows.values(), key=_validation)
    best = rows.get(best["same_as"], best)  # the same decisions without RL
    constants = [rows[name] for name in _CONSTANT if name in rows]
    constant = max(constants, key=_validation) if constants else None
    gain = None if constant is None or best is constant else difference(best["method"], constant["method"])
    pays = constant is None or (gain is not None and gain.low > 0.0)
    shipped = best if pays or constant is None else constant
    saved = frontier.get(shipped["method"], {}).get("cost_saved") if pays else None
    return {
        "method": shipped["method"],
        "family": shipped["family"],
        "case": case,
        "utility_mean": shipped["utility_mean"],
        "utility_ci95": shipped["utility_ci95"],
        "difference_to_constant": None
        if gain is None
        else {"mean": gain.mean, "ci95": [gain.low, gain.high]},
        "cost_saved": saved,
        "routing_pays": shipped is not constant,
        "sentence": _sentence(shipped, best, constant, gain, saved),
    }


def _sentence(
    shipped: dict[str, Any],
    best: dict[str, Any],
    constant: dict[str, Any] | None,
    gain: Interval | None,
    saved: dict[str, Any] | None,
) -> str:
    low, high = shipped["utility_ci95"]
    text = (
        f"Use {shipped['method']} ({shipped['case']}): utility {shipped['utility_mean']:.4f} "
        f"(95% CI {low:.4f} to {high:.4f})"
    )
    if constant is None or gain is None:
        return f"{text}."
    change = f"{gain.mean:+.4f} (95% CI {gain.low:+.4f} to {gain.high:+.4f})"
    if shipped is constant:
        return f"{text}. No method is significantly better: {best['method']} {change}."
    text += f", {change} over {constant['method']}"
    if saved is not None:
        share, low, high = (100.0 * value for value in (saved["value"], *saved["ci95"]))
        text += f"; it saves {share:.0f}% ({low:.0f} to {high:.0f}) of the cost at equal quality"
    return f"{text}."


def _validation(row: dict[str, Any]) -> float:
    return float(row["validation_utility_mean"])
