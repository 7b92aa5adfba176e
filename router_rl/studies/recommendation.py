"""Recommend what to ship: a method at an operating point, or one expert for every query.

Without a target it is the method with the highest utility on the tuning rows, in the middle case, unless it
is not significantly better on test rows than a choice that needs no router. With a target it is the operating
point that satisfies the target on the tuning rows, over all cases. Methods with extra inputs are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..problems.problem import Problem
from ..problems.statistics import Interval, interval, paired_difference
from .entry import Entry, Group, Groups
from .operating_points import swept_groups
from .operating_target import Candidate, Target, select
from .recommendation_text import sentence_of
from .savings import Singles, compared_with_expert, expected_regret, parts_of, rows_to_settle

__all__ = ["recommend"]

_CONSTANT = ("best_single", "dense", "lru", "own_gates")  # choices that need no training
_RANDOM = "random"  # in every table for comparison; never recommended


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What is shipped, and what it is compared with.

    Attributes:
        group: entries of the method that is shipped; None for one expert.
        expert: the expert that answers every query; None for a method.
        case: label of the case.
        best: the method with the highest validation utility in this case.
        constant: the best choice without a router in this case, if there is one.
        gain: paired difference of test utility, the best method minus the constant one, if both exist.
    """

    group: Group | None
    expert: str | None
    case: str
    best: str
    constant: str | None
    gain: Interval | None

    @property
    def pays(self) -> bool:
        """Whether a router is shipped."""
        return self.group is not None and self.group[0].method != self.constant


def recommend(
    groups: Groups,
    summary: Sequence[Mapping[str, Any]],
    problem: Problem,
    frontier: Mapping[str, Any],
    target: Target | None = None,
) -> dict[str, Any]:
    """Return the recommendation of a comparison, as JSON.

    Args:
        groups: entries by method and case label, ordered by seed.
        summary: of `results.json`, with one row per method and case.
        problem: the problem.
        frontier: of `results.json`; gives the cost saved at equal quality, if known.
        target: limits of the operating point; None recommends by utility.

    Returns:
        the method (or the expert), its case and router, quality and cost with 95% CI, what it saves, the
        expected regret, the difference to the method that turned out best on test rows, the number of test
        rows that would settle it, the reason if routing does not pay, and a sentence.
    """
    table, scale = problem.table, getattr(problem, "scale", None)
    costed = table is not None and scale is not None and problem.cases[0].objective is not None
    singles = Singles.of(table) if costed and table is not None else None
    middle = problem.cases[(len(problem.cases) - 1) // 2].label
    facts: dict[str, Any] = {}
    if target and singles is not None and scale is not None:
        choice, satisfied = _by_target(groups, summary, problem, singles, target)
        facts["target"] = {**target.to_json(), "satisfied": satisfied}
    else:
        choice = _by_utility(groups, summary, middle, singles)
    shipped, gain = choice.group, choice.gain
    facts |= {
        "method": "best_single" if shipped is None else shipped[0].method,
        "best_method": choice.best,
        "family": "baseline" if shipped is None else shipped[0].family,
        "expert": choice.expert,
        "case": choice.case,
        "routing_pays": choice.pays,
        "alternative": None if gain is None else {"method": choice.constant if choice.pays else choice.best},
        "difference_to_constant": None if gain is None else gain.to_json(),
        "rows_to_settle": None if gain is None else rows_to_settle(gain, _rows(groups)),
        **_measured(shipped, choice.expert, singles, scale),
    }
    if shipped is not None:
        facts |= {**interval(_utility(shipped)).to_json("utility"), "router": _router(shipped)}
        facts["weights"] = dict(shipped[0].case.values)
        facts |= _hindsight(groups, choice.case, shipped[0].method)
    if choice.pays:
        saved = frontier.get(facts["method"], {})
        facts |= {name: saved.get(name) for name in ("cost_saved", "cost_saved_most_expensive")}
    else:
        facts["oracle_gap"] = _oracle_gap(groups, choice.case, choice.constant)
    return {**facts, "sentence": sentence_of(facts)}


def _by_utility(
    groups: Groups, summary: Sequence[Mapping[str, Any]], case: str, singles: Singles | None
) -> _Choice:
    """Return the best method on validation, unless it is not significantly better than a constant choice."""
    best, constant = _best(summary, case), _constant(summary, case)
    gain = _difference(groups, case, best, constant)
    if constant is None or (gain is not None and gain.low > 0.0):
        return _Choice(
            group=groups[best, case], expert=None, case=case, best=best, constant=constant, gain=gain
        )
    group = groups[constant, case]
    expert = None if singles is None else _expert_of(group, singles)
    return _Choice(group=group, expert=expert, case=case, best=best, constant=constant, gain=gain)


def _by_target(
    groups: Groups,
    summary: Sequence[Mapping[str, Any]],
    problem: Problem,
    singles: Singles,
    target: Target,
) -> tuple[_Choice, bool]:
    """Return the operating point that satisfies a target, or the best single expert if none does."""
    scale, middle = getattr(problem, "scale", 1.0), problem.cases[(len(problem.cases) - 1) // 2].label
    known = {**groups, **swept_groups(groups, problem)}  # of equal points, the compared one is selected
    chosen = select(_candidates(known, singles, middle, scale), target)
    if chosen is None or chosen.method is None:
        expert = singles.names[singles.best] if chosen is None else chosen.expert
        best, constant = _best(summary, middle), _constant(summary, middle)
        gain = _difference(groups, middle, best, constant)
        one = _Choice(group=None, expert=expert, case=middle, best=best, constant=constant, gain=gain)
        return one, chosen is not None
    case, method = chosen.case, chosen.method
    compared = (method, case) in groups  # other methods were not measured at a weight of a sweep
    constant = _constant(summary, case) if compared else None
    gain = _difference(groups, case, method, constant) if compared else None
    group = known[method, case]
    return _Choice(group=group, expert=None, case=case, best=method, constant=constant, gain=gain), True


def _eligible(summary: Sequence[Mapping[str, Any]], case: str) -> dict[str, Mapping[str, Any]]:
    return {
        row["method"]: row
        for row in summary
        if row["case"] == case
        and row["family"] != "bound"
        and not row["extra_inputs"]
        and row["method"] != _RANDOM
    }


def _best(summary: Sequence[Mapping[str, Any]], case: str) -> str:
    """Return the method with the highest validation utility; if it only copies another one, that one."""
    rows = _eligible(summary, case)
    best = max(rows.values(), key=_validation)
    return str(best["same_as"] if best["same_as"] in rows else best["method"])


def _constant(summary: Sequence[Mapping[str, Any]], case: str) -> str | None:
    """Return the choice without a router that is best on validation; None if the problem has none."""
    rows = [row for name, row in _eligible(summary, case).items() if name in _CONSTANT]
    return str(max(rows, key=_validation)["method"]) if rows else None


def _validation(row: Mapping[str, Any]) -> float:
    return float(row["validation_utility_mean"])


def _candidates(groups: Groups, singles: Singles, case: str, scale: float) -> list[Candidate]:
    """Return every expert and every method in every case, with means on the tuning rows."""
    experts = [
        Candidate(method=None, case=case, expert=name, quality=float(quality), cost=float(cost))
        for name, quality, cost in zip(
            singles.names, singles.tuning_quality, singles.tuning_cost, strict=True
        )
    ]
    methods = [
        Candidate(
            method=method,
            case=label,
            quality=_mean(group, "quality"),
            cost=_mean(group, "compute") * scale,
        )
        for (method, label), group in groups.items()
        if group[0].family != "bound" and not group[0].extra_inputs and method not in (*_CONSTANT, _RANDOM)
    ]
    return [*experts, *methods]


def _mean(group: Group, part: str) -> float:
    return float(np.mean([entry.validation[part] for entry in group]))


def _expert_of(group: Group, singles: Singles) -> str | None:
    """Return the one expert that a method uses for every query with every seed; None if there are several."""
    used = {int(entry.test.shares.argmax()) for entry in group if entry.test.share is not None}
    alone = all(entry.test.share is not None and entry.test.shares.max() == 1.0 for entry in group)
    return singles.names[used.pop()] if alone and len(used) == 1 else None


def _measured(
    shipped: Group | None, expert: str | None, singles: Singles | None, scale: float | None
) -> dict[str, Any]:
    """Return quality and cost on the test rows, and the comparisons with single experts."""
    if singles is None or scale is None:
        return {}
    if expert is not None:
        at = singles.names.index(expert)
        quality, cost = singles.quality[None, :, at], singles.cost[None, :, at]
    else:
        parts = None if shipped is None else (parts_of(shipped, "quality"), parts_of(shipped, "compute"))
        if parts is None or parts[0] is None or parts[1] is None:
            return {}
        quality, cost = parts[0], parts[1] * scale
    references = dict.fromkeys((singles.best, singles.most_expensive))
    roles = {singles.most_expensive: "most expensive expert", singles.best: "best single expert"}
    return {
        "quality": interval(quality).to_json(),
        "cost": {**interval(cost).to_json(), "unit": singles.cost_unit},
        "comparisons": [
            {"role": roles[at], **compared_with_expert(quality, cost, singles, at)}
            for at in references
            if singles.names[at] != expert
        ],
    }


def _router(group: Group) -> dict[str, Any] | None:
    """Return the saved router with the highest validation utility, and what it alone earns on test rows."""
    saved = [entry for entry in group if entry.router is not None]
    if not saved:
        return None
    best: Entry = max(saved, key=lambda entry: entry.validation["utility"])
    assert best.router is not None
    means = best.test.means()
    return {
        "folder": f"trials/{best.router.parent.name}/router",
        "seed": best.seed,
        "test": {name: means[name] for name in ("utility", "quality", "compute") if name in means},
    }


def _hindsight(groups: Groups, case: str, method: str) -> dict[str, Any]:
    """Return the expected regret and the difference to the best method on test; empty at a swept weight.

    The interval of the difference holds for all methods at once: the best one is known only afterwards.
    """
    candidates = {
        name: _utility(group).mean(axis=0)
        for (name, label), group in groups.items()
        if label == case and group[0].family != "bound" and not group[0].extra_inputs
    }
    if method not in candidates:
        return {}
    best = max(candidates, key=lambda name: float(candidates[name].mean()))
    difference = _difference(groups, case, method, best)
    if difference is not None:
        difference = difference.simultaneous(len(candidates) - 1)
    return {
        "expected_regret": expected_regret(list(candidates.values()), list(candidates).index(method)),
        "best_on_test": {"method": best, **({} if difference is None else difference.to_json())},
    }


def _oracle_gap(groups: Groups, case: str, constant: str | None) -> float | None:
    oracle = groups.get(("oracle", case))
    if oracle is None or constant is None:
        return None
    return float(_utility(oracle).mean() - _utility(groups[constant, case]).mean())


def _difference(groups: Groups, case: str, method: str, other: str | None) -> Interval | None:
    """Return the paired difference of two methods; None if they are one, or have other seeds."""
    if other is None or other == method:
        return None
    one, two = groups[method, case], groups[other, case]
    return paired_difference(_utility(one), _utility(two)) if len(one) == len(two) else None


def _rows(groups: Groups) -> int:
    """Return the number of test rows."""
    return len(next(iter(groups.values()))[0].test.utility)


def _utility(group: Group) -> np.ndarray:
    return np.stack([entry.test.utility for entry in group])
