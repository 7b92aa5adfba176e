"""Off-policy evaluation of a router on another policy's decision log, beside the true value if known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from experts import InputError, OutcomeTable
from experts.table.decision_log import DecisionLog
from experts.table.missing_outcomes import require_complete

from ..problems.log_table import features_for
from ..problems.objective import Objective
from ..problems.off_policy import off_policy
from ..problems.prompt_features import featurised
from ..problems.routing.folding import for_objective
from ..routing import Router
from .runs import TrainedRun

__all__ = ["evaluate_log", "evaluate_router_log", "policy_of"]

_KINDS = ("ips", "snips", "dr", "logged", "difference")


def evaluate_log(run: TrainedRun, log: DecisionLog, table: OutcomeTable | None) -> dict[str, Any]:
    """Estimate the mean utility, quality and cost of a run's router from a log.

    Args:
        run: the run; gives the objective and the unit of compute.
        log: decisions among the run's experts; those without propensity, quality or cost are left out.
        table: rows with the log's queries; decisions on other queries are dropped. It gives features if the
            log has none, and the true value. None: the log only, which then needs features.

    Returns:
        the run, the estimates (`off_policy`) and the true value, as JSON.

    Raises:
        InputError: the log has no propensities or scores, features are missing, no decision is left, or a log
            cannot evaluate this router or objective.
        RouterError: the features have another size than the router's.
    """
    objective = run.objective
    if objective.load_weight:
        problem = "load depends on earlier decisions, which a log of single decisions does not hold"
        raise InputError("log", len(log), problem, "evaluate a router without load_weight, or use a table")
    unit = run.facts["problem"].get("facts", {}).get("cost_unit", "unknown")
    return {
        "run": str(run.folder),
        "method": run.facts["method"],
        "objective": run.facts["objective"],
        "experts": list(log.experts),
        "cost_unit": unit,
        "off_policy": _estimates(for_objective(run.router, objective), log, table, (objective, run.scale)),
        "notes": [*run.facts["notes"], *_left_out(log)],
    }


def evaluate_router_log(
    folder: Path, router: Router, log: DecisionLog, table: OutcomeTable | None
) -> dict[str, Any]:
    """Estimate the mean quality and cost of an exported router from a log.

    Args:
        folder: of the router.
        router: the router.
        log: as for `evaluate_log`.
        table: as for `evaluate_log`.

    Returns:
        the router and the estimates (`off_policy`), as JSON; there is no utility, because an export has no
        objective.

    Raises:
        InputError: as for `evaluate_log`.
        RouterError: the features have another size than the router's.
    """
    return {
        "router": str(folder),
        "experts": list(log.experts),
        "cost_unit": log.cost_unit if table is None else table.cost_unit,
        "off_policy": _estimates(router, log, table, None),
        "notes": _left_out(log),
    }


def policy_of(router: Router, features: np.ndarray) -> np.ndarray:
    """Return a router's probabilities [T, N] float64 of selecting each expert; 0 or 1 if it is greedy.

    Args:
        router: a router that selects one expert and has no state inputs.
        features: [T, D] float32.

    Raises:
        InputError: it selects several experts, or has state inputs.
    """
    if router.rule.k != 1:
        problem = f"has the outcome of one expert per query; the router selects {router.rule.k}"
        raise InputError("log", router.rule.name, problem, "evaluate a router with hard selection")
    if router.state:
        names = ", ".join(part.name for part in router.state)
        problem = "the router has inputs beside the features, which a log does not hold"
        raise InputError("log", names, problem, "use a table")
    device = next(router.parameters()).device
    with torch.inference_mode():
        routing = router(torch.tensor(features, device=device))
        if router.stochastic:
            return router.rule.probabilities(routing.logits).double().cpu().numpy()
    return np.eye(len(router.experts))[routing.experts[:, 0].cpu().numpy()]


def _estimates(
    router: Router, log: DecisionLog, table: OutcomeTable | None, goal: tuple[Objective, float] | None
) -> dict[str, Any]:
    """Return the estimates of the utility, if there is an objective with a unit of compute, and its parts."""
    log, rows = log.scored(), None
    if table is not None:
        log, rows = _matched(log, table)
    features = features_for(router.text, log)
    if features is None and rows is not None:
        features = rows.features if router.text is None else featurised(rows, router.text).features
    if features is None:
        raise InputError("log", len(log), "has no features", "add a `features` column to it, or give --table")
    router.check_pool(log.experts, features.shape[1])
    target = policy_of(router, features)
    rewards = {"quality": log.quality, "cost": log.cost}
    known: dict[str, np.ndarray] = {} if rows is None else {"quality": rows.quality, "cost": rows.cost}
    if goal is not None:
        rewards["utility"] = _utility(*goal, log.quality, log.cost)
        if rows is not None:
            known["utility"] = _utility(*goal, rows.quality, rows.cost)
    parts: dict[str, dict[str, Any]] = {}
    for name, reward in rewards.items():
        parts[name] = off_policy(features, log.action, log.propensity, reward, target, log.experts).to_json()
        truth = known.get(name)
        parts[name]["truth"] = (
            None if truth is None else float((target * truth).sum(axis=1).mean(dtype=np.float64))
        )
    shared = {name: parts["quality"][name] for name in ("decisions", "effective_sample_size", "warnings")}
    values = {name: {kind: part[kind] for kind in (*_KINDS, "truth")} for name, part in parts.items()}
    return {**shared, **values.pop("utility", {}), **values}


def _matched(log: DecisionLog, table: OutcomeTable) -> tuple[DecisionLog, OutcomeTable]:
    """Return the decisions on the table's queries, and the table's rows in the same order."""
    row_of = {name: row for row, name in enumerate(table.query_id)}
    rows = np.array([row_of.get(name, -1) for name in log.query_id])
    kept = np.flatnonzero(rows >= 0)
    if len(kept) == 0:
        problem = "none of its queries is in these rows of the table"
        raise InputError("log", str(log.query_id[0]), problem, "use the log's table and split")
    answered = table.take(rows[kept])
    require_complete(answered, "the comparison with a log")
    return log.take(kept), answered


def _left_out(log: DecisionLog) -> list[str]:
    """Return a note on the decisions that estimates cannot use, if there are any."""
    count = len(log) - len(log.scored())
    reason = "without propensity, quality, cost or features"
    return [f"{count} of {len(log)} decisions are {reason}, and are left out"] if count else []


def _utility(objective: Objective, scale: float, quality: np.ndarray, cost: np.ndarray) -> np.ndarray:
    compute = cost / scale
    return objective.utility(quality, compute, np.zeros_like(compute))
