"""From measured fits to the content of `results.json`: rows, summaries, intervals, frontiers, a verdict."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experts import OutcomeTable

from ..methods.method import Family
from ..problems.load import load_cv, max_over_mean
from ..problems.objective import Objective
from ..problems.routing.problem import Task
from ..problems.routing.router_measurement import Measurement
from ..problems.statistics import interval, iqm, paired_difference
from ..routing import Router, load
from .collapse import Collapse
from .frontier import Points, Ranking, frontier_facts, ranking_facts
from .metrics import upper_hull
from .verdict import goal_of, savings_of, verdict_of, warnings_of

__all__ = ["BUDGET_TOLERANCE", "SCHEMA_VERSION", "Entry", "assemble", "budget_facts"]

SCHEMA_VERSION = 1
BUDGET_TOLERANCE = 1.02  # what chance may add on rows that no router was fitted to
_GROUPS_SHOWN = 24
_RESAMPLES = 200  # of the frontier's intervals, which take a hull each


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One method under one objective with one seed, measured on the test rows.

    Attributes:
        validation, validation_utility: means on the validation rows, and the utility [V] of each of them.
        sees: columns of the table, such as the group, that it is told of and others are not.
        collapse: the diagnosis of a learned router.
    """

    method: str
    family: Family
    objective: Objective
    seed: int
    settings: Any
    validation: dict[str, float] | None
    validation_utility: np.ndarray | None
    test: Measurement
    seconds: float
    folder: Path | None
    sees: tuple[str, ...] = ()
    collapse: Collapse | None = None

    def router(self) -> Router | None:
        """The trained router, where it was kept."""
        return None if self.folder is None else load(self.folder / "router")


def assemble(
    entries: Sequence[Entry], table: OutcomeTable, task: Task, *, tries: int, command: str
) -> dict[str, Any]:
    """Build the content of `results.json` (schema version 1).

    Args:
        entries: every method, objective and seed; an oracle entry for every objective among them.
        table: the whole table.
        task: unit of compute, rule and scorer.
        tries: settings tried for each method and objective.
        command: what the user typed.
    """
    test = table.part("test")
    by_group = _grouped(entries)
    oracle = {e.objective: e.test for e in entries if e.family == "bound"}
    summary = [_summary(group, by_group) for group in by_group.values()]
    rows = [
        _row(entry, split, task)
        for entry in entries
        for split in (("test",) if entry.validation is None else ("validation", "test"))
    ]
    objectives = list(dict.fromkeys(entry.objective for entry in entries))
    middle = objectives[len(objectives) // 2]
    goal = [found for objective in objectives if (found := goal_of(summary, objective)) is not None]
    frontier = _frontiers(by_group, test, task)
    singles = [
        {"expert": name, "compute": float(c), "quality": float(q)}
        for name, c, q in zip(table.experts, *_single_points(test, task), strict=True)
    ]
    saved = [] if middle.budget is not None else savings_of(summary, goal, frontier, singles)
    return {
        "schema_version": SCHEMA_VERSION,
        "table": table.source.partition(":")[0] or "a table",
        "source": table.source,
        "experts": list(table.experts),
        "select": task.rule.name if task.rule.k == 1 else f"{task.rule.name}(k={task.rule.k})",
        "scorer": str(task.scorer),
        "feedback": task.feedback,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "versions": {
            "router-rl": version("router-rl"),
            "torch": torch.__version__,
            "stable-baselines3": version("stable-baselines3"),
            "python": platform.python_version(),
        },
        "commit": _commit(),
        "seeds": sorted({entry.seed for entry in entries}),
        "compute_weights": [objective.compute_weight for objective in objectives],
        "load_weight": middle.load_weight,
        **({} if middle.budget is None else {"budget": middle.budget}),
        "tries": tries,
        "seconds": sum(entry.seconds for entry in entries),
        "notes": [*table.notes, *task.notes],
        "table_facts": _facts(table, test, task, oracle[middle]),
        "rows": rows,
        "summary": summary,
        "frontier": frontier,
        "zero_frontier": _zero_frontier(test, task),
        "singles": singles,
        "shares_by_group": _shares_by_group(by_group, test, middle),
        "goal": goal,
        "verdict": [*(verdict_of(summary, goal, objective) for objective in objectives), *saved],
        "warnings": warnings_of([(e.method, e.objective, e.collapse) for e in entries]),
    }


Group = list[Entry]
Groups = dict[tuple[str, Objective], Group]


def _grouped(entries: Sequence[Entry]) -> Groups:
    groups: Groups = {}
    for entry in entries:
        groups.setdefault((entry.method, entry.objective), []).append(entry)
    return {key: sorted(group, key=lambda entry: entry.seed) for key, group in groups.items()}


def _stack(group: Group, part: str) -> np.ndarray:
    """One part of the measurements of a method's seeds, [S, T]."""
    return np.stack([getattr(entry.test, part) for entry in group])


def _row(entry: Entry, split: str, task: Task) -> dict[str, Any]:
    means = entry.test.means() if split == "test" else entry.validation
    assert means is not None
    return {
        "method": entry.method,
        "family": entry.family,
        "compute_weight": entry.objective.compute_weight,
        "load_weight": entry.objective.load_weight,
        **budget_facts(entry.objective, means["compute"]),
        "seed": entry.seed,
        "split": split,
        "quality": means["quality"],
        "cost": means["compute"] * task.scale,
        "compute": means["compute"],
        "load_cv": means["load_cv"],
        "max_over_mean": means["max_over_mean"],
        "drops": means["drops"],
        "utility": means["utility"],
        "fit_seconds": entry.seconds,
        "collapsed": entry.collapse is not None and entry.collapse.one_expert,
        "collapse": None if entry.collapse is None else entry.collapse.to_json(),
        "shares": [float(share) for share in entry.test.shares],
        "settings": None if entry.settings is None else _plain(asdict(entry.settings)),
        "router": None if entry.folder is None else f"cells/{entry.folder.name}/router",
    }


def _summary(group: Group, groups: Groups) -> dict[str, Any]:
    first = group[0]
    utility = interval(_stack(group, "utility"))
    middle = iqm(_stack(group, "utility"))
    quality = interval(_stack(group, "quality"))
    compute = interval(_stack(group, "compute"))
    judged = [entry.collapse for entry in group if entry.collapse is not None]
    return {
        "method": first.method,
        "family": first.family,
        "sees": list(first.sees),
        "compute_weight": first.objective.compute_weight,
        "load_weight": first.objective.load_weight,
        **budget_facts(first.objective, compute.mean),
        "utility_mean": utility.mean,
        "utility_ci95": [utility.low, utility.high],
        "utility_iqm": middle.mean,
        "utility_iqm_ci95": [middle.low, middle.high],
        "quality_mean": quality.mean,
        "quality_ci95": [quality.low, quality.high],
        "compute_mean": compute.mean,
        "compute_ci95": [compute.low, compute.high],
        "load_cv_mean": float(np.mean([load_cv(entry.test.shares) for entry in group])),
        "max_over_mean_mean": float(np.mean([max_over_mean(entry.test.shares) for entry in group])),
        "drops_mean": float(np.mean([entry.test.drops for entry in group])),
        "validation_utility_mean": _validation(group),
        "fit_seconds_mean": float(np.mean([entry.seconds for entry in group])),
        "collapsed": sum(found.one_expert for found in judged),
        "below_best_single": sum(found.below_best_single for found in judged),
        "paired_difference_to_best_gate": _difference_to_best_gate(group, groups, _test_utility),
        "validation_difference_to_best_gate": _difference_to_best_gate(group, groups, _validation_utility),
    }


def budget_facts(objective: Objective, compute: float) -> dict[str, Any]:
    """The budget, where there is one, and whether a mean compute is within 2% of it."""
    if objective.budget is None:
        return {}
    return {"budget": objective.budget, "met": compute <= BUDGET_TOLERANCE * objective.budget}


def _validation(group: Group) -> float | None:
    found = [entry.validation["utility"] for entry in group if entry.validation is not None]
    return float(np.mean(found)) if found else None


def _validation_or_least(group: Group) -> float:
    found = _validation(group)
    return float("-inf") if found is None else found


def _test_utility(entry: Entry) -> np.ndarray:
    return entry.test.utility


def _validation_utility(entry: Entry) -> np.ndarray | None:
    return entry.validation_utility


def _difference_to_best_gate(
    group: Group, groups: Groups, utility: Callable[[Entry], np.ndarray | None]
) -> dict[str, Any] | None:
    """Paired difference to the gate that was best on validation; None for it, and for what has no utility."""
    objective = group[0].objective
    gates = [g for (_, o), g in groups.items() if o == objective and g[0].family == "gate" and not g[0].sees]
    if not gates:
        return None
    gate = max(gates, key=_validation_or_least)
    one, two = ([found for entry in each if (found := utility(entry)) is not None] for each in (group, gate))
    if gate[0].method == group[0].method or len(one) != len(two):
        return None
    difference = paired_difference(np.stack(one), np.stack(two))
    return {"gate": gate[0].method, "mean": difference.mean, "ci95": [difference.low, difference.high]}


def _facts(table: OutcomeTable, test: OutcomeTable, task: Task, oracle: Measurement) -> dict[str, Any]:
    quality = test.quality.mean(axis=0, dtype=np.float64)
    assert table.features is not None
    return {
        "queries": {name: int((table.split == name).sum()) for name in ("train", "validation", "test")},
        "features": int(table.features.shape[1]),
        "cost_unit": table.cost_unit,
        "compute_unit": task.scale,
        "expert_quality": [float(value) for value in quality],
        "expert_cost": [float(value) for value in test.cost.mean(axis=0, dtype=np.float64)],
        "oracle_quality": float(oracle.quality.mean(dtype=np.float64)),
        "best_single_quality": float(quality.max()),
        "groups": [] if test.group is None else sorted(set(map(str, test.group)))[:_GROUPS_SHOWN],
    }


def _single_points(test: OutcomeTable, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Compute [N] and quality [N] of each expert alone."""
    return (
        test.cost.mean(axis=0, dtype=np.float64) / task.scale,
        test.quality.mean(axis=0, dtype=np.float64),
    )


def _zero_frontier(test: OutcomeTable, task: Task) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in upper_hull(*_single_points(test, task))]


def _frontiers(groups: Groups, test: OutcomeTable, task: Task) -> dict[str, Any]:
    """What every method's operating points are worth, and APGR and CPT where there are two experts."""
    singles = Points(cost=test.cost, quality=test.quality)
    points: dict[str, Points] = {}
    rankings: dict[str, list[Ranking]] = {}
    for method in dict.fromkeys(method for method, _ in groups):
        found = [group for (name, _), group in groups.items() if name == method]
        points[method] = Points(
            cost=np.stack([_stack(group, "compute").mean(axis=0) for group in found], axis=1) * task.scale,
            quality=np.stack([_stack(group, "quality").mean(axis=0) for group in found], axis=1),
        )
        if method == "zero_router":  # its frontier is known whole, not only at the weights asked for
            points[method] = singles
        ranked = _rankings(found[len(found) // 2], test) if len(test.experts) == 2 else None
        if ranked is not None:
            rankings[method] = ranked
    facts = frontier_facts(points, singles, cost_unit=test.cost_unit, resamples=_RESAMPLES)
    ranks = ranking_facts(rankings, resamples=_RESAMPLES)
    return {
        method: {
            "aiq": None if one["aiq"] is None else one["aiq"]["value"],
            "aiq_ci95": None if one["aiq"] is None else one["aiq"]["ci95"],
            **{
                name: one[name] for name in ("aiq_above_zero", "cost_saved", "quality_gained", "router_arena")
            },
            **_ranked(ranks.get(method)),
        }
        for method, one in facts.items()
    }


def _ranked(facts: dict[str, Any] | None) -> dict[str, Any]:
    """APGR and CPT of two experts; None for each where nothing ranks them."""
    facts = facts or {"apgr": None, "cpt50": None, "cpt80": None}
    found = facts["apgr"]
    return {
        "apgr": None if found is None else found["value"],
        "apgr_ci95": None if found is None else found["ci95"],
        "cpt50": facts["cpt50"],
        "cpt80": facts["cpt80"],
    }


def _rankings(group: Group, test: OutcomeTable) -> list[Ranking] | None:
    """How each seed's router ranks the queries by the difference of its two logits; None where it cannot."""
    assert test.features is not None
    strong = int(test.quality.mean(axis=0, dtype=np.float64).argmax())
    found = []
    for entry in group:
        router = entry.router()
        if router is None or router.state:
            return None
        with torch.inference_mode():
            logits = router(torch.tensor(test.features)).logits.numpy()
        score = logits[:, strong] - logits[:, 1 - strong]
        found.append(Ranking(weak=test.quality[:, 1 - strong], strong=test.quality[:, strong], score=score))
    return found


def _shares_by_group(groups: Groups, test: OutcomeTable, objective: Objective) -> dict[str, Any]:
    labels = np.full(len(test), "all") if test.group is None else test.group.astype(str)
    names = sorted(set(labels))[:_GROUPS_SHOWN]
    methods: dict[str, Any] = {}
    for (method, at), group in groups.items():
        if at == objective and group[0].family in ("rl", "gate", "bound"):
            share: np.ndarray = np.stack([entry.test.share for entry in group]).mean(axis=0, dtype=np.float64)
            methods[method] = {
                "compute_weight": objective.compute_weight,
                "shares": [[float(v) for v in share[labels == name].mean(axis=0)] for name in names],
            }
    return {"groups": names, "methods": methods}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    plain: Callable[[Any], Any] = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    return {name: plain(value) for name, value in values.items()}


def _commit() -> str | None:
    """The commit of the checkout this runs from, or None elsewhere."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    found = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None
