"""Warm-started policy gradient: trains from a gate, which it returns unless RL is significantly better.

`warm_exact_pg` starts from a trained gate. In a comparison this is the gate with the best validation
utility, with its hyperparameters. Whether the policy replaces the gate is decided by cross-validation: gate
and policy are refitted on four fifths of the training rows and compared on the held-out fifth, five times,
so that every training row is used. (A validation set of a few hundred rows cannot detect a gain of 0.01.) If
the mean paired difference is not `caution` standard errors above 0, the gate is returned.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from experts import InputError, OutcomeTable

from ...problems.cross_fitting import folds_of
from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import measure
from ...routing import Router
from ..budget import fit_method
from ..calibration import calibrated
from ..method import Method, Run
from ..registry import find_method
from .exact_pg import fit as ascend

__all__ = ["METHOD", "SPACE", "WarmExactPGHyperparameters", "fit", "from_gate"]

_ENOUGH_ROWS = 20_000  # validation rows that make cross-validation unnecessary


@dataclass(frozen=True, kw_only=True)
class WarmExactPGHyperparameters:
    """Hyperparameters of the warm-started policy gradient.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        entropy: entropy bonus, utility per nat; decays linearly to 0 if load is charged.
        smoothing: share of the reward given by the correct class's probability instead of 0/1 correctness.
        epochs: maximum number of epochs (not used if load is charged).
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
        group: lanes that receive the same queries (used if load is charged).
        lanes: half the decisions per rollout (used if load is charged).
        decisions: total number of training decisions (used if load is charged).
        gate: name of the gate to start from.
        gate_hyperparameters: hyperparameters of that gate; its defaults if None.
        folds: number of cross-validation folds that compare policy and gate; 0 uses the validation rows.
            Out-of-fold features bring their own folds. Validation rows are always used if load is charged,
            under a budget, or if there are 20,000 of them or more.
        caution: standard errors of the paired difference by which the policy must be better than the gate
            (1 is the rule of Breiman et al. 1984, section 3.4.3).
    """

    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    entropy: float = 0.01
    smoothing: float = 0.0
    epochs: int = 40
    patience: int = 12
    batch: int = 256
    group: int = 1
    lanes: int = 4096
    decisions: int = 400_000
    gate: str = "softmax_gate"
    gate_hyperparameters: Any = None
    folds: int = 5
    caution: float = 1.0


SPACE = {
    "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03),
    "smoothing": (0.0, 0.25, 0.5),
    "gate": ("softmax_gate", "em_gate", "straight_through_gate"),
}


def fit(problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run) -> Router:
    """Train the gate, improve it by policy gradient, and return the policy if it is significantly better.

    Args:
        problem: training and validation rows, objective and selection rule.
        hyperparameters: of the policy gradient, the gate and the comparison.
        run: seed, callback, checkpoint and messages.

    Returns:
        the policy or the gate, in evaluation mode.

    Raises:
        InputError: the gate is unknown or does not support the selection rule.
    """
    gate, policy = _gate_and_policy(problem, hyperparameters, run)
    static = not problem.objective.load_weight and problem.objective.budget is None
    if hyperparameters.folds and static and len(problem.validation) < _ENOUGH_ROWS:
        difference = _out_of_fold(problem, hyperparameters, Run(seed=run.seed))
    else:
        difference = _difference(policy, gate, problem, problem.validation, run.seed)
    error = difference.std() / np.sqrt(len(difference))
    better = bool(difference.mean() > hyperparameters.caution * error)
    outcome = "improved on the gate" if better else "did not improve on the gate"
    kept = "the policy" if better else "the gate"
    run.messages.append(
        f"RL {outcome} ({difference.mean():+.4f} ± {error:.4f} SE utility per query on held-out rows); "
        f"warm_exact_pg returns {kept}"
    )
    return policy if better else gate


def from_gate(
    hyperparameters: WarmExactPGHyperparameters, gate: str, gate_hyperparameters: Any
) -> WarmExactPGHyperparameters:
    """Return the hyperparameters with another gate to start from."""
    return replace(hyperparameters, gate=gate, gate_hyperparameters=gate_hyperparameters)


def _gate_and_policy(
    problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run
) -> tuple[Router, Router]:
    """Train the gate and the policy that starts from it."""
    gate = _gate(problem, hyperparameters, run.seed)
    start = copy.deepcopy(gate)
    if problem.objective.load_weight and problem.observe_load:
        start = _with_load_input(start, problem, run.seed)
    return gate, ascend(problem, hyperparameters, run, start)


def _gate(problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, seed: int) -> Router:
    gate = find_method("routing", hyperparameters.gate)
    if not isinstance(gate, Method) or gate.family != "gate":
        reason = "is not a gate to start from"
        raise InputError("method.gate", hyperparameters.gate, reason, "use softmax_gate or another gate")
    gate.require(problem.rule)
    # Fitted within the budget, if there is one: from far above it the controller would overshoot.
    return fit_method(
        gate, problem, hyperparameters.gate_hyperparameters or gate.hyperparameters(), Run(seed=seed)
    )


def _out_of_fold(
    problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run
) -> np.ndarray:
    """Return the policy's gain over its gate on held-out folds of the training rows, [T] float64."""
    rows = len(problem.train)
    if problem.out_of_fold is None:
        folds = folds_of(np.random.default_rng(run.seed).permutation(rows) % hyperparameters.folds)
    else:
        folds = problem.out_of_fold.folds
    gain = np.zeros(rows)
    for (part, away), (_, out) in zip(problem.folds(folds), folds, strict=True):
        gate, policy = _gate_and_policy(part, hyperparameters, run)
        gain[out] = _difference(policy, gate, part, away, run.seed)
    return gain


def _difference(
    policy: Router, gate: Router, problem: RoutingProblem, rows: OutcomeTable, seed: int
) -> np.ndarray:
    """Return the policy's utility minus the gate's, [T] float64; both calibrated to a budget, if any."""
    pair = [policy, gate]
    if problem.objective.budget is not None:
        pair = [calibrated(each, problem) for each in pair]
    utilities = [measure(each, rows, problem.objective, problem.scale, seed=seed).utility for each in pair]
    return np.subtract(*utilities, dtype=np.float64)


def _with_load_input(router: Router, problem: RoutingProblem, seed: int) -> Router:
    """Return a router with the window's load as an extra input, which does not affect its routing yet."""
    extended = problem.new_router(seed, observe_load=True)
    with torch.no_grad():
        for name, value in extended.scorer.named_parameters():
            old = router.scorer.get_parameter(name)
            if value.shape == old.shape:
                value.copy_(old)
            else:
                value.zero_()
                value[:, : router.features] = old
    return extended


METHOD = Method(
    name="warm_exact_pg",
    family="rl",
    fit=fit,
    hyperparameters=WarmExactPGHyperparameters,
    space=SPACE,
    about="exact_pg from a gate; kept if significantly better",
    warm_starts_from=from_gate,
    holds_budget=True,
)
    full_information=True,
