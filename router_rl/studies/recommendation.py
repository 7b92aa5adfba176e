"""Which method to ship: the best on validation, unless one expert for everything is as good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..problems.statistics import Interval

__all__ = ["recommend"]

_CONSTANT = ("best_single", "dense", "lru")  # what a user has without a router

Difference = Callable[[str, str], "Interval | None"]


def recommend(
    summary: Sequence[dict[str, Any]],
    case: str,
    frontier: Mapping[str, Any],
    difference: Difference,
) -> dict[str, Any]:
    """The recommendation in one case.

    A method is chosen by mean validation utility among those that need no extra inputs; test rows only
    measure it. Unless its test utility is significantly above that of the best constant baseline (the 95%
    CI of the paired difference is above 0), the baseline is recommended.

    Args:
        summary: of `results.json`.
        case: label of the case.
        frontier: of `results.json`; gives the cost saved, where it is known.
        difference: two methods to the paired difference of their test utilities in this case.
    """
    rows = {
        row["method"]: row
        for row in summary
        if row["case"] == case and row["family"] != "bound" and not row["extra_inputs"]
    }
    best = max(rows.values(), key=_validation)
    constants = [rows[name] for name in _CONSTANT if name in rows]
    constant = max(constants, key=_validation) if constants else None
    gain = None if constant is None or best is constant else difference(best["method"], constant["method"])
    pays = constant is None or (gain is not None and gain.low > 0.0)
    chosen = best if pays or constant is None else constant
    saved = frontier.get(chosen["method"], {}).get("cost_saved") if pays else None
    return {
        "method": chosen["method"],
        "family": chosen["family"],
        "case": case,
        "utility_mean": chosen["utility_mean"],
        "utility_ci95": chosen["utility_ci95"],
        "difference_to_constant": None
        if gain is None
        else {"mean": gain.mean, "ci95": [gain.low, gain.high]},
        "cost_saved": saved,
        "routing_pays": chosen is not constant,
        "sentence": _sentence(chosen, best, constant, gain, saved),
    }


def _sentence(
    chosen: dict[str, Any],
    best: dict[str, Any],
    constant: dict[str, Any] | None,
    gain: Interval | None,
    saved: dict[str, Any] | None,
) -> str:
    low, high = chosen["utility_ci95"]
    text = (
        f"Use {chosen['method']} ({chosen['case']}): utility {chosen['utility_mean']:.4f} "
        f"(95% CI {low:.4f} to {high:.4f})"
    )
    if constant is None or gain is None:
        return f"{text}."
    change = f"{gain.mean:+.4f} (95% CI {gain.low:+.4f} to {gain.high:+.4f})"
    if chosen is constant:
        return f"{text}. No method is significantly better: {best['method']} {change}."
    text += f", {change} over {constant['method']}"
    if saved is not None:
        share, least, most = (100.0 * value for value in (saved["value"], *saved["ci95"]))
        text += f"; it saves {share:.0f}% ({least:.0f} to {most:.0f}) of the cost at equal quality"
    return f"{text}."


def _validation(row: dict[str, Any]) -> float:
    return float(row["validation_utility_mean"])
