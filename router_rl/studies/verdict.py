"""A comparison in sentences: did RL reach the goal, who is ahead, what is saved, which routers collapsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..problems.objective import Objective
from ..reports.table_format import signed
from .collapse import Collapse

__all__ = ["GOAL", "goal_of", "savings_of", "verdict_of", "warnings_of"]

GOAL = -0.002  # utility: the lower end of RL's difference to the gate should lie above this
UNEXPLAINED = "No likely reason was found among those that are checked"


def goal_of(summary: Sequence[dict[str, Any]], objective: Objective) -> dict[str, Any] | None:
    """RL against gates on test, both as validation picks them; None without both.

    Of the gates it picks the one of the highest mean. Of the RL methods it picks the one that would most
    surely not lose by taking that gate's place: the highest lower end of the paired difference to it. Methods
    that see more than the features take no part.
    """
    here = [row for row in summary if row["compute_weight"] == objective.compute_weight and not row["sees"]]
    agents = [row for row in here if row["family"] == "rl"]
    gates = [row for row in here if row["family"] == "gate"]
    if not agents or not gates:
        return None
    agent, gate = max(agents, key=_surest), max(gates, key=_by_validation)
    found = agent["paired_difference_to_best_gate"]
    return {
        "compute_weight": objective.compute_weight,
        "load_weight": objective.load_weight,
        **({} if objective.budget is None else {"budget": objective.budget}),
        "rl": agent["method"],
        "rl_utility": agent["utility_mean"],
        "gate": gate["method"],
        "gate_utility": gate["utility_mean"],
        "mean": found["mean"],
        "ci95": found["ci95"],
        "margin": GOAL,
        "reached": found["ci95"][0] > GOAL,
    }


def verdict_of(
    summary: Sequence[dict[str, Any]], goals: Sequence[dict[str, Any]], objective: Objective
) -> str:
    """One sentence: whom validation picks, and what they earn on test."""
    at = f"At compute weight {objective.compute_weight:g}"
    if objective.budget is not None:
        at = f"Within a budget of {objective.budget:g}"
    if objective.load_weight:
        at += f", load weight {objective.load_weight:g}"
    for goal in goals:
        if goal["compute_weight"] == objective.compute_weight:
            low, high = goal["ci95"]
            outcome = "is ahead of" if low > 0 else "is behind" if high < 0 else "is level with"
            return (
                f"{at}, the RL router that validation picks ({goal['rl']}, {goal['rl_utility']:.3f}) "
                f"{outcome} the gate it picks ({goal['gate']}, {goal['gate_utility']:.3f}): "
                f"{signed(goal['mean'])} utility, 95% interval {signed(low)} to {signed(high)}."
            )
    best = _best(summary, objective.compute_weight)
    return f"{at}, {best['method']} earns {best['utility_mean']:.3f}."


def savings_of(
    summary: Sequence[dict[str, Any]],
    goals: Sequence[dict[str, Any]],
    frontier: Mapping[str, Any],
    singles: Sequence[dict[str, Any]],
) -> list[str]:
    """What the routers that validation picks save and gain by their points at all weights, a sentence each.

    Args:
        summary: of `results.json`, as are the others.
        goals: of `goal_of`; without any, the best on validation at each weight is picked.
        frontier: by method.
        singles: every expert, with its quality on test.
    """
    picked = [goal[side] for side in ("rl", "gate") for goal in goals]
    weights = dict.fromkeys(row["compute_weight"] for row in summary)
    over = f"over {len(weights)} compute weights" if len(weights) > 1 else "at one compute weight"
    if not picked:
        picked = [_best(summary, weight)["method"] for weight in weights]
    best = max(singles, key=lambda single: single["quality"])["expert"]
    sentences: list[str] = []
    for method in dict.fromkeys(picked):
        found = frontier[method]
        if found["aiq"] is None:  # all experts cost the same
            continue
        saved, saves = found["cost_saved"], "no sure saving"
        if saved is not None:
            share, low, high = (f"{value:.0%}" for value in (saved["value"], *saved["ci95"]))
            saves = f"{share} of the cost saved ({low} to {high})"
        gained, above = (_with_interval(found[name]) for name in ("quality_gained", "aiq_above_zero"))
        sentences.append(
            f"{method} {over}, against {best} alone: {saves} at equal quality; "
            f"{gained} quality at equal cost; AIQ {found['aiq']:.3f}, {above} against Zero, "
            "the best blind mixture."
        )
    return sentences


def warnings_of(
    judged: Sequence[tuple[str, Objective, Collapse | None]],
) -> list[str]:
    """One sentence for each method that collapsed or stayed below the best single expert.

    Args:
        judged: method, objective and diagnosis (None: not judged) of every fit.
    """
    warnings: list[str] = []
    for method in dict.fromkeys(name for name, _, _ in judged):
        fits = [(at, found) for name, at, found in judged if name == method and found is not None]
        found: list[str] = []
        for what, is_so in _TROUBLES.items():
            where = [at for at, collapse in fits if is_so(collapse)]
            if where:
                at = "at compute weight" if where[0].budget is None else "within a budget of"
                weights = [each.budget or each.compute_weight for each in where]
                counts = [f"{weight:g} ({weights.count(weight)})" for weight in dict.fromkeys(weights)]
                found.append(f"{what} {at} {', '.join(counts)}")
        if found:
            # Sentences name numbers of their seed: the same reason is known by what stands before the colon.
            reasons: dict[str, str] = {}
            for _, collapse in fits:
                if collapse.problems:
                    for reason in collapse.reasons:
                        reasons.setdefault(reason.partition(":")[0], reason)
            likely = f" Likely: {'. '.join(reasons.values())}." if reasons else f" {UNEXPLAINED}."
            warnings.append(f"{method} {' and '.join(found)} (seeds in brackets).{likely}")
    return warnings


def _best(summary: Sequence[dict[str, Any]], compute_weight: float) -> dict[str, Any]:
    """The row of the method that validation picks, of those that see no more than the features if it can."""
    here = [row for row in summary if row["compute_weight"] == compute_weight]
    return max([row for row in here if not row["sees"]] or here, key=_by_validation)


def _with_interval(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{signed(found['value'], 3)} ({signed(low, 3)} to {signed(high, 3)})"


def _surest(row: dict[str, Any]) -> float:
    found = row["validation_difference_to_best_gate"]
    return float("-inf") if found is None else float(found["ci95"][0])


def _by_validation(row: dict[str, Any]) -> float:
    value = row["validation_utility_mean"]
    return float("-inf") if value is None else float(value)


_TROUBLES: dict[str, Callable[[Collapse], bool]] = {
    "sends nearly everything to one expert, where the oracle uses several,": lambda found: found.one_expert,
    "earns less than the best single expert on validation": lambda found: found.below_best_single,
}
