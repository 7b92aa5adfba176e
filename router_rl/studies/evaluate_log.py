"""Off-policy evaluation of a run on another policy's decision log, beside the true value if known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from experts import InputError, OutcomeTable
from experts.table.decision_log import DecisionLog

from ..problems.objective import Objective
from ..problems.off_policy import off_policy
from ..problems.routing.folding import for_objective
from ..routing import Router
from .runs import TrainedRun

__all__ = ["evaluate_log", "policy_of"]


def evaluate_log(run: TrainedRun, log: DecisionLog, table: OutcomeTable | None) -> dict[str, Any]:
    """Estimate the mean utility of a run's router from a log.

    Args:
        run: the run; gives the objective and the unit of compute.
        log: decisions among the run's experts.
        table: rows with the log's queries; decisions on other queries are dropped. It gives features if the
            log has none, and the true value. None: the log only, which then needs features.

    Returns:
        the run, the estimates (`off_policy`) and the true value, as JSON.

    Raises:
        InputError: features are missing, no decision is left, or a log cannot evaluate this router or
            objective.
        RouterError: the features have another size than the router's.
    """
    objective = run.objective
    if objective.load_weight:
        problem = "load depends on earlier decisions, which a log of single decisions does not hold"
        raise InputError("log", len(log), problem, "evaluate a router without load_weight, or use a table")
    rows = None
    if table is not None:
        log, rows = _matched(log, table)
    features = log.features if log.features is not None else None if rows is None else rows.features
    if features is None:
        raise InputError("log", len(log), "has no features", "add a `features` column to it, or give --table")
    run.router.check_pool(log.experts, features.shape[1])
    target = policy_of(for_objective(run.router, objective), features)
    reward = _utility(objective, log.quality, log.cost / run.scale)
    estimates = off_policy(features, log.action, log.propensity, reward, target, log.experts).to_json()
    estimates["truth"] = None
    if rows is not None:
        known = _utility(objective, rows.quality, rows.cost / run.scale)
        estimates["truth"] = float((target * known).sum(axis=1).mean(dtype=np.float64))
    return {
        "run": str(run.folder),
        "method": run.facts["method"],
        "objective": run.facts["objective"],
        "experts": list(log.experts),
        "off_policy": estimates,
        "notes": list(run.facts["notes"]),
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


def _matched(log: DecisionLog, table: OutcomeTable) -> tuple[DecisionLog, OutcomeTable]:
    """Return the decisions on the table's queries, and the table's rows in the same order."""
    row_of = {name: row for row, name in enumerate(table.query_id)}
    rows = np.array([row_of.get(name, -1) for name in log.query_id])
    kept = np.flatnonzero(rows >= 0)
    if len(kept) == 0:
        problem = "none of its queries is in these rows of the table"
        raise InputError("log", str(log.query_id[0]), problem, "use the log's table and split")
    return log.take(kept), table.take(rows[kept])


def _utility(objective: Objective, quality: np.ndarray, compute: np.ndarray) -> np.ndarray:
    return objective.utility(quality, compute, np.zeros_like(compute))
