"""Sentences about a comparison: RL and other methods, savings by routing, collapsed policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..reports.table_format import signed
from .collapse import Collapse

__all__ = ["rl_verdict", "same_policies", "savings_of", "verdict_of", "warnings_of"]

UNEXPLAINED = "None of the known causes applies"


def rl_verdict(summary: Sequence[dict[str, Any]], case: str) -> dict[str, Any] | None:
    """Compare RL with the other methods on test in one case; None without RL or without others.

    One rule selects both sides: the highest mean validation utility, among the RL methods and among the gates
    and baselines. Methods with extra inputs are excluded.

    Args:
        summary: of `results.json`.
        case: label of the case.

    Returns:
        both methods with their test utilities, the paired difference with its 95% CI, and the outcome:
        `better`, `worse`, `no significant difference`, or `same policy` if the RL policy makes the decisions
        of a gate or baseline (`same_as`) on every test row with every seed.
    """
    here = [row for row in summary if row["case"] == case and not row["extra_inputs"]]
    agents = [row for row in here if row["family"] == "rl"]
    others = [row for row in here if row["family"] in ("gate", "baseline")]
    if not agents or not others:
        return None
    agent, rival = max(agents, key=_by_validation), max(others, key=_by_validation)
    difference = agent["paired_difference_to_best_rival"]
    if difference is None:
        return None
    return {
        "case": case,
        "rl": agent["method"],
        "rl_utility": agent["utility_mean"],
        "same_as": agent["same_as"],
        "rival": rival["method"],
        "rival_utility": rival["utility_mean"],
        "mean": difference["mean"],
        "ci95": difference["ci95"],
        "outcome": "same policy" if agent["same_as"] else _outcome(*difference["ci95"]),
    }


def verdict_of(summary: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]], case: str) -> str:
    """Return one sentence: which methods validation selects in a case, and their test utility.

    Args:
        summary: of `results.json`.
        verdicts: results of `rl_verdict`.
        case: label of the case.
    """
    at = f"{case[:1].upper()}{case[1:]}"
    for each in verdicts:
        if each["case"] != case:
            continue
        rl, rival = (f"{each[name]} ({each[f'{name}_utility']:.3f})" for name in ("rl", "rival"))
        if each["same_as"]:
            return f"{at}: {rl}, the best RL method on validation, makes the decisions of {each['same_as']}."
        low, high = each["ci95"]
        outcome = _SENTENCES[each["outcome"]]
        return (
            f"{at}: {rl}, the best RL method on validation, {outcome} {rival}, the best other method: "
            f"{signed(each['mean'])} utility (95% CI {signed(low)} to {signed(high)})."
        )
    best = _best(summary, case)
    return f"{at}: {best['method']} has a mean utility of {best['utility_mean']:.3f}."


def same_policies(summary: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]) -> list[str]:
    """Return one sentence for each other RL method that makes the decisions of a gate or baseline.

    Args:
        summary: of `results.json`.
        verdicts: results of `rl_verdict`, whose methods are left out in their cases.
    """
    known = {(each["rl"], each["case"]) for each in verdicts}
    cases: dict[tuple[str, str], list[str]] = {}
    for row in summary:
        if row["same_as"] and (row["method"], row["case"]) not in known:
            cases.setdefault((row["method"], row["same_as"]), []).append(row["case"])
    return [
        f"{method} makes the decisions of {other} at {', '.join(labels)}: it is not a result of RL there."
        for (method, other), labels in cases.items()
    ]


def savings_of(
    summary: Sequence[dict[str, Any]],
    verdicts: Sequence[dict[str, Any]],
    frontier: Mapping[str, Any],
    singles: Sequence[dict[str, Any]],
) -> list[str]:
    """Return what the selected methods save and gain over their operating points, one sentence per method.

    Args:
        summary: of `results.json`.
        verdicts: results of `rl_verdict`; without any, the best method on validation in each case is used.
        frontier: of `results.json`, by method.
        singles: of `results.json`: every expert, with its quality on test.
    """
    picked = [each[side] for side in ("rl", "rival") for each in verdicts]
    cases = dict.fromkeys(row["case"] for row in summary)
    over = f"over {len(cases)} compute weights" if len(cases) > 1 else "at one compute weight"
    if not picked:
        picked = [_best(summary, case)["method"] for case in cases]
    best = max(singles, key=lambda single: single["quality"])["expert"]
    sentences: list[str] = []
    for method in dict.fromkeys(picked):
        metrics = frontier[method]
        if metrics["aiq"] is None:  # all experts cost the same
            continue
        saved, saves = metrics["cost_saved"], "no significant saving"
        if saved is not None:
            share, low, high = (f"{value:.0%}" for value in (saved["value"], *saved["ci95"]))
            saves = f"{share} of the cost saved ({low} to {high})"
        gained, above = (_with_interval(metrics[name]) for name in ("quality_gained", "aiq_above_zero"))
        sentences.append(
            f"{method} {over}, compared with {best} for every query: {saves} at equal quality; "
            f"{gained} quality at equal cost; AIQ {metrics['aiq']:.3f}, {above} over the zero router."
        )
    return sentences


def warnings_of(diagnoses: Sequence[tuple[str, str, Collapse | None]]) -> list[str]:
    """Return one warning for each method that collapsed or is below the best single expert.

    Args:
        diagnoses: method, case label and diagnosis (None: not checked) of every fit.
    """
    warnings: list[str] = []
    for method in dict.fromkeys(name for name, _, _ in diagnoses):
        fits = [(case, each) for name, case, each in diagnoses if name == method and each is not None]
        problems: list[str] = []
        for what, applies in _PROBLEMS.items():
            where = [case for case, collapse in fits if applies(collapse)]
            if where:
                counts = [f"{case} ({where.count(case)})" for case in dict.fromkeys(where)]
                problems.append(f"{what} at {', '.join(counts)}")
        if problems:
            # Sentences contain numbers of their seed: reasons are equal if the text before the colon is.
            reasons: dict[str, str] = {}
            for _, collapse in fits:
                if collapse.problems:
                    for reason in collapse.reasons:
                        reasons.setdefault(reason.partition(":")[0], reason)
            likely = f" Likely: {'. '.join(reasons.values())}." if reasons else f" {UNEXPLAINED}."
            warnings.append(f"{method} {' and '.join(problems)} (number of seeds in brackets).{likely}")
    return warnings


def _best(summary: Sequence[dict[str, Any]], case: str) -> dict[str, Any]:
    """Return the row of the method that validation selects in a case, without extra inputs if possible."""
    here = [row for row in summary if row["case"] == case and row["family"] != "bound"]
    return max([row for row in here if not row["extra_inputs"]] or here, key=_by_validation)


def _with_interval(metric: dict[str, Any]) -> str:
    low, high = metric["ci95"]
    return f"{signed(metric['value'], 3)} ({signed(low, 3)} to {signed(high, 3)})"


def _outcome(low: float, high: float) -> str:
    return "better" if low > 0 else "worse" if high < 0 else "no significant difference"


def _by_validation(row: dict[str, Any]) -> float:
    value = row["validation_utility_mean"]
    return float("-inf") if value is None else float(value)


_SENTENCES = {
    "better": "is significantly better than",
    "worse": "is significantly worse than",
    "no significant difference": "is not significantly different from",
}
_PROBLEMS: dict[str, Callable[[Collapse], bool]] = {
    "sends nearly all queries to one expert while the oracle uses several,": lambda each: each.one_expert,
    "is below the best single expert on validation": lambda each: each.below_best_single,
}
