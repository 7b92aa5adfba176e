"""Warm-started policy gradient: trains from the strongest other method, and returns it unless RL is better.

`warm_exact_pg` starts from the router of another method. In a comparison this is the non-RL method with the
best validation utility, with its hyperparameters: a gate, or a rule such as `kernel` or `knn`. The weights of
a gate are trained further. A rule is kept, and an MLP is added to its logits (`rule_ascent.py`). Whether the
policy replaces its start is decided by cross-validation: both are refitted on four fifths of the training
rows and compared on the held-out fifth, five times, so that every training row is used. (A validation set of
a few hundred rows cannot detect a gain of 0.01.) If the mean paired difference is not `caution` standard
errors above 0, the start is returned.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from experts import InputError, OutcomeTable
from experts.io.errors import unknown_name
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size, Whole

from ...problems.cross_fitting import folds_of
from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import measure
from ...routing import Router
from ..budget import fit_method
from ..calibration import calibrated
from ..hyperparameters import Hyperparameters
from ..method import Bound, Method, Run
from ..registry import find_method, method_names
from .exact_pg import fit as ascend
from .rule_ascent import ascend_from_rule, held_out_logits

__all__ = ["METHOD", "SPACE", "WarmExactPGHyperparameters", "fit", "from_start"]

_ENOUGH_ROWS = 20_000  # validation rows that make cross-validation unnecessary


@dataclass(frozen=True, kw_only=True)
class WarmExactPGHyperparameters(Hyperparameters):
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
        start: name of the method to start from: a gate, or a baseline whose router reads the features alone.
        start_hyperparameters: hyperparameters of that method; its defaults if None.
        inverse_temperature: scale of a rule's logits in the policy (not used for a gate).
        folds: number of cross-validation folds that compare policy and start; 0 uses the validation rows.
            Out-of-fold features bring their own folds. Validation rows are always used if load is charged,
            under a budget, or if there are 20,000 of them or more.
        caution: standard errors of the paired difference by which the policy must be better than its start
            (1 is the rule of Breiman et al. 1984, section 3.4.3).
    """

    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-2
    entropy: NonNegative = 0.01
    smoothing: Fraction = 0.25
    epochs: Count = 60
    patience: Count = 25
    batch: Count = 256
    group: Count = 1
    lanes: Size = 4096
    decisions: Count = 400_000
    start: str = "softmax_gate"
    start_hyperparameters: Any = None
    inverse_temperature: Positive = 5.0
    folds: Whole = 5
    caution: float = 1.0


SPACE = {
    "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03),
    "smoothing": (0.0, 0.25, 0.5),
    "start": ("softmax_gate", "em_gate", "kernel"),
    "inverse_temperature": (3.0, 5.0, 10.0),
}


def fit(problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run) -> Router:
    """Fit the start, improve it by policy gradient, and return the policy if it is significantly better.

    Adds the fact `equals_start` to the run if the router returned is the start.

    Args:
        problem: training and validation rows, objective and selection rule.
        hyperparameters: of the policy gradient, the start and the comparison.
        run: seed, callback, checkpoint, messages and facts.

    Returns:
        the policy or its start, in evaluation mode.

    Raises:
        InputError: the start is unknown, is no start, or does not support the selection rule.
    """
    name = hyperparameters.start
    start, policy = _start_and_policy(problem, hyperparameters, run)
    static = not problem.objective.load_weight and problem.objective.budget is None
    if hyperparameters.folds and static and len(problem.validation) < _ENOUGH_ROWS:
        difference = _out_of_fold(problem, hyperparameters, Run(seed=run.seed))
    else:
        difference = _difference(policy, start, problem, problem.validation, run.seed)
    error = difference.std() / np.sqrt(len(difference))
    better = bool(difference.mean() > hyperparameters.caution * error)
    outcome = "improved" if better else "did not improve"
    run.messages.append(
        f"RL {outcome} on {name} ({difference.mean():+.4f} ± {error:.4f} SE utility per query on held-out "
        f"rows); warm_exact_pg returns {'the policy' if better else name}"
    )
    if not better:
        run.facts["equals_start"] = name
    return policy if better else start


def from_start(
    hyperparameters: WarmExactPGHyperparameters, start: str, start_hyperparameters: Any
) -> WarmExactPGHyperparameters | None:
    """Return the hyperparameters with another method to start from; None if it is no start for routing."""
    if start not in method_names("routing") or _no_start(find_method("routing", start)):
        return None
    return replace(hyperparameters, start=start, start_hyperparameters=start_hyperparameters)


def _no_start(method: Method | Bound) -> str | None:
    """Return why a method's router cannot be a start, or None if it can."""
    if not isinstance(method, Method) or method.family not in ("gate", "baseline"):
        return "is neither a gate nor a baseline to start from"
    if not method.starts:
        return "has a random router, which is no start"
    return f"has a router that needs the {' and '.join(method.needs)} of a query" if method.needs else None


def _start_and_policy(
    problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run
) -> tuple[Router, Router]:
    """Fit the start and the policy that starts from it."""
    name = hyperparameters.start
    if name not in method_names("routing"):
        raise unknown_name("method.start", name, method_names("routing"))
    method = find_method("routing", name)
    reason = _no_start(method)
    if not isinstance(method, Method) or reason is not None:
        fix = "use softmax_gate, kernel or another gate or baseline"
        raise InputError("method.start", name, reason or "is no method", fix)
    missing = method.missing(problem.train)
    if missing:
        reason = f"needs a column that the table lacks ({', '.join(missing)})"
        raise InputError("method.start", name, reason, "use another start")
    if (reason := method.refusal(problem)) is not None:
        raise InputError("method.start", name, reason, "use another start")
    method.require(problem.rule)
    values = method.start_values(hyperparameters.start_hyperparameters)
    # Fitted within the budget, if there is one: from far above it the controller would overshoot.
    start = fit_method(method, problem, values, Run(seed=run.seed))
    if method.family == "baseline":
        logits = held_out_logits(method, values, problem, start, run.seed)
        b = hyperparameters.inverse_temperature
        return start, ascend_from_rule(problem, hyperparameters, run, start, logits, b)
    first = copy.deepcopy(start)
    if problem.objective.load_weight and problem.observe_load:
        first = _with_load_input(first, problem, run.seed)
    return start, ascend(problem, hyperparameters, run, first)


def _out_of_fold(
    problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run
) -> np.ndarray:
    """Return the policy's gain over its start on held-out folds of the training rows, [T] float64."""
    rows = len(problem.train)
    if problem.out_of_fold is None:
        folds = folds_of(np.random.default_rng(run.seed).permutation(rows) % hyperparameters.folds)
    else:
        folds = problem.out_of_fold.folds
    gain = np.zeros(rows)
    for (part, away), (_, out) in zip(problem.folds(folds), folds, strict=True):
        start, policy = _start_and_policy(part, hyperparameters, run)
        gain[out] = _difference(policy, start, part, away, run.seed)
    return gain


def _difference(
    policy: Router, start: Router, problem: RoutingProblem, rows: OutcomeTable, seed: int
) -> np.ndarray:
    """Return the policy's utility minus its start's, [T] float64; both calibrated to a budget, if any."""
    pair = [policy, start]
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
    full_information=True,
    fit=fit,
    hyperparameters=WarmExactPGHyperparameters,
    space=SPACE,
    about="exact_pg from a gate or rule, if significantly better",
    sparse=True,
    warm_starts_from=from_start,
    holds_budget=True,
)
