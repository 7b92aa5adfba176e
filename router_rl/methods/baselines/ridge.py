"""Ridge regression of each expert's utility on the features, in closed form; the penalty is a hyperparameter.

Ridge regression is a strong baseline. It is a linear scorer and can be folded into a stock gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from envs.reward import expert_utility
from experts.io.value_range import NonNegative

from ...problems.routing.problem import RoutingProblem
from ...routing import LinearScorer, Router, Selection
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = ["METHOD", "SPACE", "RidgeHyperparameters", "fit", "lifted_weights", "solve_ridge", "solve_ridges"]


@dataclass(frozen=True, kw_only=True)
class RidgeHyperparameters(Hyperparameters):
    """Hyperparameters of the ridge router.

    Attributes:
        penalty: L2 penalty on the weights of standardised features, relative to the number of training rows.
    """

    penalty: NonNegative = 1e-2


SPACE = {"penalty": (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)}


def fit(problem: RoutingProblem, hyperparameters: RidgeHyperparameters, run: Run) -> Router:
    """Solve the regression in float64 and return the router; the logits are predicted utilities."""
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
    """Minimize `|y - x W^T - b|^2 / T + penalty |W|^2`; the intercept is not penalized.

    Args:
        x: [T, D] float64.
        y: [T, N] float64.
        penalty: at least 0.

    Returns:
        weight [N, D] and bias [N], float64; the minimum-norm solution if there are several.
    """
    return solve_ridges(x, y, (penalty,))[0]


def solve_ridges(
    x: torch.Tensor, y: torch.Tensor, penalties: Sequence[float]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return `solve_ridge` for several penalties, from one eigendecomposition.

    Args:
        x: [T, D] float64.
        y: [T, N] float64.
        penalties: at least 0 each.

    Returns:
        (weight [N, D], bias [N]) for each penalty, float64.
    """
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    centred = x - x_mean
    value, vector = torch.linalg.eigh(centred.T @ centred / len(x))
    rotated = vector.T @ (centred.T @ (y - y_mean) / len(x))
    # Without a penalty, a constant or repeated feature makes the matrix singular.
    tolerance = value[-1] * len(value) * torch.finfo(x.dtype).eps
    solutions: list[tuple[torch.Tensor, torch.Tensor]] = []
    for penalty in penalties:
        penalized = value.clamp(min=0.0) + penalty
        inverse = torch.where(penalized > tolerance, 1.0 / penalized, 0.0)
        weight = (vector @ (inverse.unsqueeze(1) * rotated)).T
        solutions.append((weight, y_mean - weight @ x_mean))
    return solutions


def lifted_weights(
    rule: Selection, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of the rule's logits, given those of each expert.

    If each logit is an expert, lifting is linear and applies to the weights. The value of a group of experts
    is not linear in them: its logit is fitted by regression on the rows.

    Args:
        rule: selection rule.
        x: [T, D] float64, rows of the regression.
        weight: [N, D] float64.
        bias: [N] float64.
        temperature: temperature of `rule.lift`: 0 for utilities, 1 for log-probabilities.

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
    sparse=True,
)
