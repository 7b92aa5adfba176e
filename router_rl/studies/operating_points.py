"""The operating points of each method: the cost and quality of every test query at each compute weight.

A method that is fitted once for all compute weights is evaluated at 41 of them; any other method has one
point for each compared weight. So savings are those that a user can get from the fitted policies. For a fair
comparison of frontiers, use the points at the compared weights, which all methods have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..methods.budget import amortizes
from ..methods.method import Method
from ..methods.registry import find_method
from ..problems.problem import Case, Problem
from ..routing import Router, load
from .entry import Entry, Group, Groups
from .frontier import Points

__all__ = ["SWEPT", "compared_points", "own_points", "swept_groups"]

SWEPT = 41  # compute weights of a policy that is fitted for all of them


def compared_points(groups: Sequence[Group], scale: float) -> Points:
    """Return a method's points at the compared compute weights, averaged over seeds.

    Args:
        groups: the method's entries, one group for each case.
        scale: unit of compute, in the table's cost unit.
    """
    return Points(
        cost=np.stack([_mean_part(group, "compute") for group in groups], axis=1) * scale,
        quality=np.stack([_mean_part(group, "quality") for group in groups], axis=1),
    )


def own_points(groups: Sequence[Group], problem: Problem, scale: float) -> Points:
    """Return all points that a method's fits have: 41 if one fit serves all compute weights.

    Args:
        groups: the method's entries, one group for each case.
        problem: the problem, with all its cases.
        scale: unit of compute, in the table's cost unit.
    """
    entries = groups[0]
    method = find_method(problem.name, entries[0].method)
    if not isinstance(method, Method) or not amortizes(method, problem):
        return compared_points(groups, scale)
    swept = [_swept(entry, problem) for entry in entries if entry.router is not None]
    if len(swept) < len(entries):
        return compared_points(groups, scale)
    cost, quality = (np.mean([points[at] for points in swept], axis=0) for at in (0, 1))
    return Points(cost=cost * scale, quality=quality)


def swept_groups(groups: Groups, problem: Problem) -> Groups:
    """Return the entries of policies that are fitted for all compute weights, at 41 of them.

    Args:
        groups: entries by method and case label.
        problem: the problem, with all its cases.
    """
    swept: Groups = {}
    for method in dict.fromkeys(method for method, _ in groups):
        entries = next(group for (name, _), group in groups.items() if name == method)
        learner = find_method(problem.name, method)
        if not isinstance(learner, Method) or not amortizes(learner, problem):
            continue
        for entry in entries if all(each.router is not None for each in entries) else ():
            for policy, case in _swept_cases(entry, problem):
                validation, test = (
                    problem.evaluate(policy, split, case, seed=entry.seed) for split in ("tuning", "test")
                )
                measured = replace(entry, case=case, validation=validation.means(), test=test)
                swept.setdefault((method, case.label), []).append(measured)
    return {key: group for key, group in swept.items() if key not in groups}


def _swept(entry: Entry, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return compute and quality [T, 41] of one seed's policy at compute weights across its range."""
    measured = [
        problem.evaluate(policy, "test", case, seed=entry.seed).parts
        for policy, case in _swept_cases(entry, problem)
    ]
    compute, quality = (
        np.stack([parts[name] for parts in measured], axis=1) for name in ("compute", "quality")
    )
    return compute, quality


def _swept_cases(entry: Entry, problem: Problem) -> Iterator[tuple[Any, Case]]:
    """Yield one seed's policy with cases of 41 compute weights across its range."""
    assert entry.router is not None
    policy: Any = load(entry.router)
    low, high = _range(policy, problem)
    for weight in np.geomspace(low, high, SWEPT):
        yield policy, _at_weight(entry.case, float(weight))


def _range(policy: Any, problem: Problem) -> tuple[float, float]:
    """Return the lowest and highest compute weight that a policy is fitted for."""
    if isinstance(policy, Router) and policy.scorer.ranges:
        return policy.scorer.ranges[0]
    weights = [case.values["compute_weight"] for case in problem.cases]
    return min(weights), max(weights)


def _at_weight(case: Case, weight: float) -> Case:
    assert case.objective is not None
    return replace(
        case,
        label=f"compute weight {weight:.3g}",
        values={**case.values, "compute_weight": weight},
        objective=replace(case.objective, compute_weight=weight),
    )


def _mean_part(group: Group, part: str) -> np.ndarray:
    """Return one part of the test measurements, [T], averaged over seeds."""
    return np.stack([entry.test.parts[part] for entry in group]).mean(axis=0)
