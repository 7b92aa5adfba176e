"""Ridge regression of each expert's utility on the features, in closed form; the penalty is a hyperparameter.

Ridge regression is a strong baseline. It is a linear scorer and can be folded into a stock gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from envs.reward import expert_utility
from experts.io.value_range import NonNegative

from ...problems.routing.problem import RoutingProblem
from ...routing import LinearScorer, Router, Selection
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = [
    "METHOD",
    "SPACE",
    "RidgeHyperparameters",
    "fit",
    "lifted_weights",
    "solve_ridge",
    "solve_ridge_in_parts",
    "solve_ridges",
]

_AT_ONCE = 262_144  # rows in float64 together; a larger table is summed over in parts
_PART = 65_536  # rows of a part


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

    size = outcomes.queries if outcomes.queries <= _AT_ONCE else _PART

    def rows(first: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = outcomes.part(slice(first, first + size))
        x = ((part.features - scorer.shift) * scorer.scale).double()
        utility = expert_utility(part, problem.objective.compute_weight).double()
        return x, problem.rule.lift(utility, temperature=0.0)

    if size == outcomes.queries:
        weight, bias = solve_ridge(*rows(0), hyperparameters.penalty)
    else:
        firsts = range(0, outcomes.queries, size)
        weight, bias = solve_ridge_in_parts(lambda: map(rows, firsts), hyperparameters.penalty)
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
    gram, cross = centred.T @ centred / len(x), centred.T @ (y - y_mean) / len(x)
    return _solutions(gram, cross, x_mean, y_mean, penalties)


def solve_ridge_in_parts(
    parts: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]], penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `solve_ridge` of rows that are given in parts, which are read twice.

    Args:
        parts: returns x [R, D] and y [R, N] of each part, float64.
        penalty: at least 0.

    Returns:
        weight [N, D] and bias [N], float64; equal to those of all rows up to rounding.
    """
    sums = [(x.sum(dim=0), y.sum(dim=0), len(x)) for x, y in parts()]
    count = sum(rows for _, _, rows in sums)
    x_mean = torch.stack([x for x, _, _ in sums]).sum(dim=0) / count
    y_mean = torch.stack([y for _, y, _ in sums]).sum(dim=0) / count
    gram, cross = (
        torch.zeros(len(x_mean), len(x_mean)).to(x_mean),
        torch.zeros(len(x_mean), len(y_mean)).to(x_mean),
    )
    for x, y in parts():
        centred = x - x_mean
        gram += centred.T @ centred / count
        cross += centred.T @ (y - y_mean) / count
    return _solutions(gram, cross, x_mean, y_mean, (penalty,))[0]


def _solutions(
    gram: torch.Tensor,
    cross: torch.Tensor,
    x_mean: torch.Tensor,
    y_mean: torch.Tensor,
    penalties: Sequence[float],
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return weight and bias for each penalty, from the covariances of x [D, D] and of x and y [D, N]."""
    value, vector = torch.linalg.eigh(gram)
    rotated = vector.T @ cross
    # Without a penalty, a constant or repeated feature makes the matrix singular.
    tolerance = value[-1] * len(value) * torch.finfo(gram.dtype).eps
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
