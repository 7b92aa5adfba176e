"""Ridge regression of each expert's utility on the features: closed form, one penalty chosen on validation.

A ridge router is a bound to beat, not a straw man; it is a linear scorer and folds into a stock gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from envs.reward import expert_utility

from ...problems.routing.problem import RoutingProblem
from ...routing import LinearScorer, Router, Selection
from ..method import Method, Run

__all__ = ["METHOD", "SPACE", "RidgeHyperparameters", "fit", "lifted_weights", "solve_ridge", "solve_ridges"]


@dataclass(frozen=True, kw_only=True)
class RidgeHyperparameters:
    """Hyperparameters of the ridge router.

    Attributes:
        penalty: on the squared weights of standardised features, as a multiple of the training rows.
    """

    penalty: float = 1e-2


SPACE = {"penalty": (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)}


def fit(problem: RoutingProblem, hyperparameters: RidgeHyperparameters, run: Run) -> Router:
    """Solve once, in float64; the logits are predicted utilities."""
    router = problem.new_router(run.seed, kind="linear")
    scorer = router.scorer
    assert isinstance(scorer, LinearScorer)
    outcomes = problem.outcomes()
    x = ((outcomes.features - scorer.shift) * scorer.scale).double()
    utility = expert_utility(outcomes, problem.objective.compute_weight).double()
    weight, bias = solve_ridge(x, problem.rule.lift(utility, temperature=0.0), hyperparameters.penalty)
    with torch.no_grad():
        scorer.weight.copy_(weight)
        scorer.bias.copy_(bias)
    return router.eval()


def solve_ridge(x: torch.Tensor, y: torch.Tensor, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimise `|y - x W^T - b|^2 / T + penalty |W|^2`; the intercept is not penalised.

    Args:
        x: [T, D] float64.
        y: [T, N] float64.
        penalty: at least 0.

    Returns:
        weight [N, D] and bias [N], float64; the least weights where several do.
    """
    return solve_ridges(x, y, (penalty,))[0]


def solve_ridges(
    x: torch.Tensor, y: torch.Tensor, penalties: Sequence[float]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`solve_ridge` under each of several penalties, by one eigendecomposition."""
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    centred = x - x_mean
    value, vector = torch.linalg.eigh(centred.T @ centred / len(x))
    turned = vector.T @ (centred.T @ (y - y_mean) / len(x))
    # Without a penalty a feature that never varies, or repeats another, makes the matrix singular.
    least = value[-1] * len(value) * torch.finfo(x.dtype).eps
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for penalty in penalties:
        stiff = value.clamp(min=0.0) + penalty
        inverse = torch.where(stiff > least, 1.0 / stiff, 0.0)
        weight = (vector @ (inverse.unsqueeze(1) * turned)).T
        found.append((weight, y_mean - weight @ x_mean))
    return found


def lifted_weights(
    rule: Selection, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the rule's logits, from those of each expert.

    Where a logit is an expert, lifting is linear and applies to the weights. What a group of experts is worth
    is not linear in them: its logit is regressed on that over the rows.

    Args:
        rule: the selection rule.
        x: [T, D] float64, rows to regress on.
        weight: [N, D] float64.
        bias: [N] float64.
        temperature: as `rule.lift` takes it: 0 for utilities, 1 for log-probabilities.

    Returns:
        weight [outputs, D] and bias [outputs], float64.
    """
    if rule.outputs(len(bias)) == len(bias):
        return rule.lift(weight.T, temperature).T, rule.lift(bias, temperature)
    return solve_ridge(x, rule.lift(x @ weight.T + bias, temperature), 1e-6)


METHOD = Method(
    name="ridge",
    family="baseline",
    fit=fit,
    hyperparameters=RidgeHyperparameters,
    space=SPACE,
    about="ridge regression of each expert's utility",
)
