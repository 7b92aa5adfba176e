"""Improve a gate: ascend the expected utility from its weights, and take its place only if surely better.

`warm_exact_pg` starts where a gate stops; a comparison hands it the gate that validation picks, settings and
all. Whether the ascent pays is asked out of fold: gate and ascent are made again on four fifths of the
training rows and compared on the fifth that neither saw, five times, so that every training row has a say
(a validation set of a few hundred rows cannot tell a gain of a hundredth from chance). If the mean of the
paired differences is not `caution` standard errors above 0, the gate itself is returned: the result is a
gate or a policy that was better than it on rows it was not fitted to.
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

__all__ = ["METHOD", "SPACE", "WarmExactPGHyperparameters", "fit", "improving"]

_MANY = 20_000  # validation rows that tell enough by themselves


@dataclass(frozen=True, kw_only=True)
class WarmExactPGHyperparameters:
    """Hyperparameters of the warm start; names as for `ExactPGHyperparameters`, and

    Attributes:
        gate: the gate to start from, by its name.
        gate_hyperparameters: of that gate; its defaults if None.
        folds: parts the training rows are divided into to ask out of fold (where there are readouts among
            the features, their folds are taken instead); 0: the validation rows are asked.
            They are asked in any case where load is charged, under a budget, or where they are many.
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
    """Train the gate, ascend from it, and return the one that the rows asked prefer.

    Raises:
        InputError: the gate is unknown or cannot learn the rule.
    """
    gate, policy = _both(problem, hyperparameters, run)
    static = not problem.objective.load_weight and problem.objective.budget is None
    if hyperparameters.folds and static and len(problem.validation) < _MANY:
        difference = _out_of_fold(problem, hyperparameters, Run(seed=run.seed))
    else:
        difference = _difference(policy, gate, problem, problem.validation, run.seed)
    error = difference.std() / np.sqrt(len(difference))
    better = bool(difference.mean() > hyperparameters.caution * error)
    run.messages.append(
        f"warm_exact_pg keeps the {'policy' if better else 'gate it started from'}: the policy earns "
        f"{difference.mean():+.4f} a query more on rows neither was fitted to, standard error {error:.4f}"
    )
    return policy if better else gate


def improving(
    hyperparameters: WarmExactPGHyperparameters, gate: str, gate_hyperparameters: Any
) -> WarmExactPGHyperparameters:
    """The same settings, starting from this gate."""
    return replace(hyperparameters, gate=gate, gate_hyperparameters=gate_hyperparameters)


def _both(
    problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run
) -> tuple[Router, Router]:
    """The gate, and the policy that started from it."""
    gate = _gate(problem, hyperparameters, run.seed)
    start = copy.deepcopy(gate)
    if problem.objective.load_weight and problem.observe_load:
        start = _seeing_load(start, problem, run.seed)
    return gate, ascend(problem, hyperparameters, run, start)


def _gate(problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, seed: int) -> Router:
    gate = find_method("routing", hyperparameters.gate)
    if not isinstance(gate, Method) or gate.family != "gate":
        reason = "is not a gate to start from"
        raise InputError("method.gate", hyperparameters.gate, reason, "use softmax_gate or another gate")
    gate.require(problem.rule)
    # Within the budget, if there is one: far from it the controller would drive the policy past it.
    return fit_method(
        gate, problem, hyperparameters.gate_hyperparameters or gate.hyperparameters(), Run(seed=seed)
    )


def _out_of_fold(
    problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run
) -> np.ndarray:
    """What the ascent gains [T] float64 on training rows that neither it nor its gate was fitted to."""
    rows = len(problem.train)
    if problem.out_of_fold is None:
        folds = folds_of(np.random.default_rng(run.seed).permutation(rows) % hyperparameters.folds)
    else:
        folds = problem.out_of_fold.folds
    gain = np.zeros(rows)
    for (part, away), (_, out) in zip(problem.folds(folds), folds, strict=True):
        gate, policy = _both(part, hyperparameters, run)
        gain[out] = _difference(policy, gate, part, away, run.seed)
    return gain


def _difference(
    policy: Router, gate: Router, problem: RoutingProblem, rows: OutcomeTable, seed: int
) -> np.ndarray:
    """Utility of the policy less the gate's on every row, [T] float64; within the budget, if there is one."""
    pair = [policy, gate]
    if problem.objective.budget is not None:
        pair = [calibrated(each, problem) for each in pair]
    found = [measure(each, rows, problem.objective, problem.scale, seed=seed).utility for each in pair]
    return np.subtract(*found, dtype=np.float64)


def _seeing_load(router: Router, problem: RoutingProblem, seed: int) -> Router:
    """The same routing by a router that sees the window's load and does not heed it yet."""
    seeing = problem.new_router(seed, observe_load=True)
    with torch.no_grad():
        for name, value in seeing.scorer.named_parameters():
            old = router.scorer.get_parameter(name)
            if value.shape == old.shape:
                value.copy_(old)
            else:
                value.zero_()
                value[:, : router.features] = old
    return seeing


METHOD = Method(
    name="warm_exact_pg",
    family="rl",
    fit=fit,
    hyperparameters=WarmExactPGHyperparameters,
    space=SPACE,
    about="exact_pg from a gate's weights, kept where surely better",
    warm_starts_from=improving,
    holds_budget=True,
)
