"""Evaluate a finished run on a table, beside random, the best single expert and the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experts import InputError, OutcomeTable

from ..methods.baselines.oracle import measure_oracle
from ..problems.load import check_placement, load_report
from ..problems.objective import Objective
from ..problems.options import options_from_json
from ..problems.problem import Problem
from ..problems.prompt_features import featurised
from ..problems.registry import find_problem
from ..problems.routing.folding import for_objective
from ..problems.routing.router_measurement import RouterMeasurement, measure
from ..problems.routing.sparse_table import sparse_notes
from ..routing import Router, RouterError
from .results import budget_facts
from .runs import TrainedRun

__all__ = ["evaluate_run"]


def evaluate_run(
    run: TrainedRun, table: OutcomeTable, split: str, placement: Sequence[int] | None = None
) -> dict[str, Any]:
    """Evaluate a run's router or policy on the rows of one split.

    Args:
        run: the run; gives the objective, options and unit of compute.
        table: rows with the run's experts and features.
        split: train, validation or test.
        placement: device of each expert, for the load by device; or None.

    Returns:
        means on the split, load, baselines and notes, as JSON.

    Raises:
        RouterError: the experts or the feature size are not the router's.
        InputError: the split is unknown or empty, the placement does not fit the experts, or the run has no
            saved policy.
    """
    if run.facts["problem"]["name"] == "routing":
        return _evaluate_router(run, table, split, placement)
    return _evaluate_policy(run, table, split)


def _evaluate_policy(run: TrainedRun, table: OutcomeTable, split: str) -> dict[str, Any]:
    """Evaluate a policy of another problem in every case of its run, on features as in training."""
    name = run.facts["problem"]["name"]
    problem_type = find_problem(name)
    if run.policy is None or not problem_type.needs_table:
        raise InputError(
            "run", str(run.folder), f"has no policy of {name} that a table can evaluate", "train again"
        )
    kept = run.facts["problem"].get("options")
    if kept is None:
        reason = f"was written by version 1, which kept no options of {name}"
        raise InputError("run", str(run.folder), reason, "train again; `export` can read it")
    options = options_from_json(problem_type.options_type, kept)
    weights = [case["values"].get("compute_weight") for case in run.facts["cases"]]
    # If cases are not compute weights, all share the one among the options.
    own = kept.get("compute_weight", Objective().compute_weight)
    weights = [weight for weight in weights if weight is not None] or [own]
    objectives = [Objective(compute_weight=weight) for weight in weights]
    text = getattr(run.policy, "text", None)
    if table.features is None and text is not None:
        table = featurised(table, text)
    problem = problem_type(table, objectives if len(objectives) > 1 else objectives[0], options=options)
    if problem.text is not None:
        reason = "has no text pipeline, so features of these prompts would not be those of training"
        raise InputError("run", str(run.folder), reason, "give a table with its features, or train again")
    _check_inputs(run.policy, problem)
    labels = [case["label"] for case in run.facts["cases"]]
    cases = [case for case in problem.cases if case.label in labels]
    measured = {
        case.label: problem.evaluate(run.policy, split, case, seed=run.facts["seed"]).means()
        for case in cases
    }
    return {
        "run": str(run.folder),
        "problem": run.facts["problem"],
        "method": run.facts["method"],
        "objective": run.facts["objective"],
        "split": split,
        "experts": list(table.experts),
        "cases": [{"label": label, split: means} for label, means in measured.items()],
        split: {**next(iter(measured.values())), "shares": None},
        "notes": list(table.notes),
    }


def _check_inputs(policy: Any, problem: Problem) -> None:
    """Raise RouterError if a policy has other experts or takes another number of features than a problem."""
    if isinstance(policy, Router):
        return  # the problem checks it
    features = problem.table.features.shape[1]
    if (policy.experts, policy.features) != (problem.experts, features):
        raise RouterError(
            f"the policy takes {policy.features} features and experts {', '.join(policy.experts)}, but "
            f"the table has {features} and {', '.join(problem.experts)}; use a table like that of training"
        )


def _evaluate_router(
    run: TrainedRun, table: OutcomeTable, split: str, placement: Sequence[int] | None
) -> dict[str, Any]:
    if placement is not None:
        check_placement(placement, len(table.experts))
    if table.features is None and run.router.text is not None:
        table = featurised(table, run.router.text)
    features = 0 if table.features is None else table.features.shape[1]
    run.router.check_pool(table.experts, features)
    rows = table.part(split)
    objective = run.objective
    router = for_objective(run.router, objective)
    measured = measure(router, rows, objective, run.scale, seed=run.facts["seed"])
    mask = run.router.allowed
    allowed = np.ones(len(rows.experts), dtype=bool) if mask is None else mask.cpu().numpy()
    sizes = run.router.rule.sizes(len(rows.experts))
    oracle = measure_oracle(rows, objective, run.scale, sizes, allowed)
    utilities = objective.utility(rows.quality, rows.cost / run.scale, np.zeros_like(rows.cost))
    single = utilities.mean(axis=0, dtype=np.float64)
    affordable = rows.cost.mean(axis=0, dtype=np.float64) / run.scale <= (objective.budget or np.inf)
    best = int(np.where(allowed & affordable, single, -np.inf).argmax())
    return {
        "run": str(run.folder),
        "problem": run.facts["problem"],
        "method": run.facts["method"],
        "objective": run.facts["objective"],
        "split": split,
        "queries": len(rows),
        "experts": list(table.experts),
        "inputs": list(router.inputs),
        split: {**measured.means(), "shares": [float(share) for share in measured.shares]},
        "load": load_report(_share(measured), measured.drops, objective.window, placement),
        **budget_facts(objective, measured.means()["compute"]),
        "fallbacks": measured.fallbacks,
        "random_utility": float(single[allowed].mean()),
        "best_single_utility": float(single[best]),
        "best_single_expert": table.experts[best],
        "oracle_utility": oracle.means()["utility"],
        "notes": [*table.notes, *_sparse_notes(table)],
    }


def _sparse_notes(table: OutcomeTable) -> tuple[str, ...]:
    trained = int((table.split == "train").sum()) * len(table.experts)
    return sparse_notes(table.missing, trained) if trained else ()


def _share(measurement: RouterMeasurement) -> np.ndarray:
    assert measurement.share is not None
    return measurement.share
