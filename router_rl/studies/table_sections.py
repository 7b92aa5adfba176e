"""Sections of `results.json` that need an outcome table: experts, frontier, shares by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from experts import OutcomeTable
from experts.table.splitting import SPLITS

from ..problems.problem import Problem
from ..problems.routing.folding import for_objective
from ..routing import Router, load
from .entry import Entry, Groups
from .frontier import Points, Ranking, aiq_differences, frontier_facts, ranking_facts
from .metrics import upper_hull
from .operating_points import compared_points, own_points
from .query_groups import query_groups

__all__ = ["table_sections"]

_GROUPS_SHOWN = 24
_RESAMPLES = 200  # bootstrap resamples of the frontier
_EMPTY: dict[str, Any] = {
    "table_facts": None,
    "frontier": {},
    "zero_frontier": [],
    "singles": [],
    "shares_by_group": None,
}


def table_sections(groups: Groups, problem: Problem) -> dict[str, Any]:
    """Return the sections of a problem with compute weights or a budget; empty ones for other problems.

    Args:
        groups: entries by method and case label, ordered by seed.
        problem: the problem.
    """
    table, scale = problem.table, getattr(problem, "scale", None)
    if table is None or scale is None or problem.cases[0].objective is None:
        return dict(_EMPTY)
    test = table.part("test")
    cost, quality = (part.mean(axis=0, dtype=np.float64) for part in (test.cost, test.quality))
    return {
        "table_facts": _facts(table, test, groups, problem),
        "frontier": _frontiers(groups, test, problem, scale),
        "zero_frontier": [[float(x), float(y)] for x, y in upper_hull(cost / scale, quality)],
        "singles": [
            {"expert": name, "compute": float(c), "quality": float(q)}
            for name, c, q in zip(table.experts, cost / scale, quality, strict=True)
        ],
        "shares_by_group": _shares_by_group(groups, problem),
    }


def _facts(table: OutcomeTable, test: OutcomeTable, groups: Groups, problem: Problem) -> dict[str, Any]:
    quality = test.quality.mean(axis=0, dtype=np.float64)
    middle = problem.cases[len(problem.cases) // 2]
    oracle = groups.get(("oracle", middle.label))
    oracle_quality = None if oracle is None else oracle[0].test.parts["quality"].mean(dtype=np.float64)
    return {
        "queries": {name: int((table.split == name).sum()) for name in SPLITS},
        "features": 0 if table.features is None else int(table.features.shape[1]),
        "cost_unit": table.cost_unit,
        "compute_unit": getattr(problem, "scale", None),
        "expert_quality": [float(value) for value in quality],
        "expert_cost": [float(value) for value in test.cost.mean(axis=0, dtype=np.float64)],
        "oracle_quality": None if oracle_quality is None else float(oracle_quality),
        "best_single_quality": float(quality.max()),
        "groups": [] if test.group is None else sorted(set(map(str, test.group)))[:_GROUPS_SHOWN],
    }


def _frontiers(groups: Groups, test: OutcomeTable, problem: Problem, scale: float) -> dict[str, Any]:
    """Return the frontier metrics of each method, with APGR and CPT if there are two experts.

    AIQ, savings and gains are of each method's own points. Differences of AIQ are of the points at the
    compared weights, to the gate or baseline that is best on validation over all cases.
    """
    singles = Points(cost=test.cost, quality=test.quality)
    points: dict[str, Points] = {}
    compared: dict[str, Points] = {}
    rankings: dict[str, list[Ranking]] = {}
    for method in dict.fromkeys(method for method, _ in groups):
        own = [group for (name, _), group in groups.items() if name == method]
        compared[method] = compared_points(own, scale)
        # The zero router's frontier is the hull of the single experts.
        points[method] = singles if method == "zero_router" else own_points(own, problem, scale)
        ranked = _rankings(own[len(own) // 2], test) if len(test.experts) == 2 else None
        if ranked is not None:
            rankings[method] = ranked
    facts = frontier_facts(points, singles, cost_unit=test.cost_unit, resamples=_RESAMPLES)
    ranks = ranking_facts(rankings, resamples=_RESAMPLES)
    rival = _best_over_cases(groups)
    differences = {} if rival is None else aiq_differences(compared, rival, singles, resamples=_RESAMPLES)
    return {
        method: {
            "aiq": None if one["aiq"] is None else one["aiq"]["value"],
            "aiq_ci95": None if one["aiq"] is None else one["aiq"]["ci95"],
            "points": points[method].cost.shape[1],
            "aiq_difference": differences.get(method),
            "aiq_rival": rival,
            **{
                name: one[name]
                for name in (
                    "aiq_above_zero",
                    "cost_saved",
                    "cost_saved_most_expensive",
                    "quality_gained",
                    "router_arena",
                )
            },
            **_ranked(ranks.get(method)),
        }
        for method, one in facts.items()
    }


def _best_over_cases(groups: Groups) -> str | None:
    """Return the gate or baseline with the highest mean validation utility over all cases."""
    means: dict[str, list[float]] = {}
    for (method, _), group in groups.items():
        if group[0].family in ("gate", "baseline") and not group[0].extra_inputs:
            means.setdefault(method, []).extend(entry.validation["utility"] for entry in group)
    return max(means, key=lambda method: np.mean(means[method])) if means else None


def _ranked(facts: dict[str, Any] | None) -> dict[str, Any]:
    """Return APGR and CPT of two experts; None for each if there is no ranking."""
    facts = facts or {"apgr": None, "cpt50": None, "cpt80": None}
    measured = facts["apgr"]
    return {
        "apgr": None if measured is None else measured["value"],
        "apgr_ci95": None if measured is None else measured["ci95"],
        "cpt50": facts["cpt50"],
        "cpt80": facts["cpt80"],
    }


def _rankings(group: Sequence[Entry], test: OutcomeTable) -> list[Ranking] | None:
    """Return each seed's ranking of the queries by its difference of logits; None if a router has none."""
    assert test.features is not None
    strong = int(test.quality.mean(axis=0, dtype=np.float64).argmax())
    rankings: list[Ranking] = []
    for entry in group:
        router = None if entry.router is None else load(entry.router)
        if not isinstance(router, Router) or entry.case.objective is None:
            return None
        router = for_objective(router, entry.case.objective)
        if router.state or router.features != test.features.shape[1]:
            return None
        with torch.inference_mode():
            logits = router(torch.tensor(test.features)).logits.numpy()
        score = logits[:, strong] - logits[:, 1 - strong]
        rankings.append(
            Ranking(weak=test.quality[:, 1 - strong], strong=test.quality[:, strong], score=score)
        )
    return rankings


def _shares_by_group(groups: Groups, problem: Problem) -> dict[str, Any]:
    middle = problem.cases[len(problem.cases) // 2].label
    grouped = query_groups(problem.table)
    methods: dict[str, Any] = {}
    for (method, label), group in groups.items():
        shares = [entry.test.share for entry in group if entry.test.share is not None]
        if label == middle and group[0].family in ("rl", "gate", "bound") and shares:
            share: np.ndarray = np.stack(shares).mean(axis=0, dtype=np.float64)
            methods[method] = [
                [float(v) for v in share[grouped.labels == name].mean(axis=0)] for name in grouped.names
            ]
    return {"case": middle, "groups": grouped.names, "clustered": grouped.clustered, "methods": methods}
