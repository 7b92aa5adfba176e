"""`results.json` (schema 2): trial results, the summary of each method and case, and conclusions.

Every problem uses the same schema. `rows` has one entry per method, case, seed and split; `summary` has one
per method and case, with intervals and paired differences. Sections that need an outcome table (frontier,
experts, shares by group) are empty for problems without one.
"""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..problems.measure import Measurement
from ..problems.objective import Objective
from ..problems.options import as_json
from ..problems.problem import Case, Problem
from ..problems.statistics import interval, iqm, paired_difference
from .entry import Entry, Group, Groups
from .inputs import inputs_section
from .operating_target import Target
from .query_section import query_section
from .recommendation import recommend
from .table_sections import table_sections
from .verdict import rl_verdict, same_policies, savings_of, verdict_of, warnings_of

__all__ = ["BUDGET_TOLERANCE", "SCHEMA_VERSION", "assemble", "budget_facts"]

SCHEMA_VERSION = 2
BUDGET_TOLERANCE = 1.02  # mean compute on test rows can exceed the budget by chance
_RIVALS = ("gate", "baseline")
_EXCLUDED_FACTS = ("load", "entropy")  # reported in rows, not in tables


def assemble(
    entries: Sequence[Entry],
    problem: Problem,
    *,
    n_trials: int,
    notes: Sequence[str] = (),
    target: Target | None = None,
    digest: str | None = None,
) -> dict[str, Any]:
    """Build the content of `results.json`.

    Args:
        entries: results of every method, case and seed.
        problem: the problem, with all its cases.
        n_trials: number of hyperparameter settings tried per method and case.
        notes: messages to include.
        target: limits of the recommended operating point.
        digest: `problem.digest()`, if already computed.
    """
    card = problem.describe()
    groups = _grouped(entries)
    summary = [_summary(group, groups, problem) for group in groups.values()]
    sections = table_sections(groups, problem)
    verdicts = [each for case in problem.cases if (each := rl_verdict(summary, case.label)) is not None]
    verdict = [verdict_of(summary, verdicts, case.label) for case in problem.cases]
    verdict += same_policies(summary, verdicts)
    if sections["singles"] and "budget" not in problem.cases[0].values:
        verdict += savings_of(summary, verdicts, sections["frontier"], sections["singles"])
    recommendation = recommend(groups, summary, problem, sections["frontier"], target)
    figures = [{"method": entry.method, **figure} for entry in entries for figure in entry.figures]
    return {
        "schema_version": SCHEMA_VERSION,
        "problem": as_json(card),
        "digest": digest or problem.digest(),
        "test_rows": problem.test_rows(),
        "cases": [{"label": case.label, "values": dict(case.values)} for case in problem.cases],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": _command(),
        "versions": {
            "router-rl": version("router-rl"),
            "torch": version("torch"),
            "stable-baselines3": version("stable-baselines3"),
            "python": platform.python_version(),
        },
        "commit": _commit(),
        "seeds": sorted({entry.seed for entry in entries}),
        "n_trials": n_trials,
        "seconds": sum(entry.seconds for entry in entries),
        "notes": [*card.notes, *notes],
        "recommendation": recommendation,
        "rows": [_row(entry, split, problem) for entry in entries for split in ("validation", "test")],
        "summary": summary,
        "inputs": inputs_section(groups, problem),
        **sections,
        "queries": query_section(groups, problem, recommendation),
        "rl_verdicts": verdicts,
        "verdict": verdict,
        "warnings": warnings_of([(e.method, e.case.label, e.collapse) for e in entries]),
        "figures": figures,
    }


def budget_facts(objective: Objective, compute: float) -> dict[str, Any]:
    """Return the budget, if there is one, and whether the mean compute is within 2% of it."""
    if objective.budget is None:
        return {}
    return {"budget": objective.budget, "met": compute <= BUDGET_TOLERANCE * objective.budget}


def _grouped(entries: Sequence[Entry]) -> Groups:
    groups: Groups = {}
    for entry in entries:
        groups.setdefault((entry.method, entry.case.label), []).append(entry)
    return {key: sorted(group, key=lambda entry: entry.seed) for key, group in groups.items()}


def _row(entry: Entry, split: str, problem: Problem) -> dict[str, Any]:
    means = entry.test.means() if split == "test" else dict(entry.validation)
    objective = entry.case.objective
    shares = None if entry.test.share is None else [float(share) for share in entry.test.shares]
    budget = {} if objective is None or "compute" not in means else budget_facts(objective, means["compute"])
    scale = getattr(problem, "scale", None)
    cost = {} if scale is None or "compute" not in means else {"cost": means["compute"] * scale}
    return {
        "method": entry.method,
        "family": entry.family,
        "case": entry.case.label,
        **entry.case.values,
        **budget,
        "seed": entry.seed,
        "split": split,
        **{name: value for name, value in means.items() if name not in _EXCLUDED_FACTS},
        **cost,
        "fit_seconds": entry.seconds,
        "collapsed": entry.collapse is not None and entry.collapse.one_expert,
        "collapse": None if entry.collapse is None else entry.collapse.to_json(),
        "shares": shares,
        "hyperparameters": None if entry.hyperparameters is None else as_json(entry.hyperparameters),
        "router": None if entry.router is None else f"trials/{entry.router.parent.name}/router",
        "equals_start": entry.equals_start,
    }


def _summary(group: Group, groups: Groups, problem: Problem) -> dict[str, Any]:
    first = group[0]
    case = first.case
    utility = interval(_stack(group, lambda test: test.utility))
    middle = iqm(_stack(group, lambda test: test.utility))
    parts: dict[str, Any] = {}
    for name in first.test.parts:
        value = interval(_stack(group, lambda test, name=name: test.parts[name]))
        parts |= value.to_json(name)
    facts = [entry.test.facts for entry in group]
    parts |= {
        f"{name}_mean": float(np.mean([each[name] for each in facts]))
        for name in facts[0]
        if name not in _EXCLUDED_FACTS and all(name in each for each in facts)
    }
    compute = parts.get("compute_mean")
    budget = {} if case.objective is None or compute is None else budget_facts(case.objective, compute)
    collapses = [entry.collapse for entry in group if entry.collapse is not None]
    rival = problem.rival if (problem.rival, case.label) in groups else None
    return {
        "method": first.method,
        "family": first.family,
        "full_information": first.full_information,
        "extra_inputs": list(first.extra_inputs),
        "case": case.label,
        **case.values,
        **budget,
        **utility.to_json("utility"),
        "utility_iqm": middle.mean,
        "utility_iqm_ci95": [middle.low, middle.high],
        **parts,
        "validation_utility_mean": _validation(group),
        "fit_seconds_mean": float(np.mean([entry.seconds for entry in group])),
        "equals_start": _equals_start(group),
        "collapsed": sum(each.one_expert for each in collapses),
        "below_best_single": sum(each.below_best_single for each in collapses),
        "paired_difference_to_rival": _difference(group, groups, rival),
        "paired_difference_to_best_rival": _difference(group, groups, _best(groups, case, _RIVALS)),
        "paired_difference_to_best_gate": _difference(group, groups, _best(groups, case, ("gate",))),
        "same_as": _same_policy(group, groups) if first.family == "rl" else None,
    }


def _best(groups: Groups, case: Case, families: Sequence[str]) -> str | None:
    """Return the method of these families with the highest mean validation utility and no extra inputs."""
    candidates = [
        group
        for (_, label), group in groups.items()
        if label == case.label and group[0].family in families and not group[0].extra_inputs
    ]
    return max(candidates, key=_validation)[0].method if candidates else None


def _difference(group: Group, groups: Groups, other: str | None) -> dict[str, Any] | None:
    """Return the paired difference to another method; None for itself and if the seeds do not match."""
    if other is None or other == group[0].method:
        return None
    rival = groups[other, group[0].case.label]
    if len(group) != len(rival):
        return None
    one, two = (_stack(each, lambda test: test.utility) for each in (group, rival))
    difference = paired_difference(one, two)
    return {"method": other, **difference.to_json()}


def _equals_start(group: Group) -> str | None:
    """Return the method that the routers of all seeds are the routers of, if they are starts unchanged."""
    starts = {entry.equals_start for entry in group}
    return starts.pop() if len(starts) == 1 else None


def _stack(group: Group, part: Callable[[Measurement], np.ndarray]) -> np.ndarray:
    """Return one part of the test measurements of a method's seeds, [S, T]."""
    return np.stack([part(entry.test) for entry in group])


def _validation(group: Group) -> float:
    return float(np.mean([entry.validation["utility"] for entry in group]))


def _same_policy(group: Group, groups: Groups) -> str | None:
    """Return the gate or baseline that makes the same decisions on every test row, with every seed."""
    for (method, label), other in groups.items():
        if (
            label == group[0].case.label
            and other[0].family in _RIVALS
            and len(group) == len(other)
            and all(_same(one.test, two.test) for one, two in zip(group, other, strict=True))
        ):
            return method
    return None


def _same(one: Measurement, two: Measurement) -> bool:
    if one.share is not None and two.share is not None and not np.array_equal(one.share, two.share):
        return False
    return np.array_equal(one.utility, two.utility)


def _command() -> str:
    """Return the command line of a script or of `train-router`; empty in a notebook or another program."""
    name = Path(sys.argv[0]).name
    ours = name == "train-router" or re.match(r"[a-z]\w*\.py$", name)
    return shlex.join([name, *sys.argv[1:]]) if ours else ""


def _commit() -> str | None:
    """Return the commit of the checkout that this file is in, or None without a checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    result = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None
