"""Weighted multinomial logistic regression by Newton's method, which is IRLS for this loss.

It is the M-step of gates and linear classifiers in a mixture of experts: Jordan and Jacobs 1994,
https://doi.org/10.1162/neco.1994.6.2.181.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fit_logistic", "logistic_log_probabilities", "ridge_penalty"]


def fit_logistic(
    x: Tensor,
    targets: Tensor,
    start: Tensor,
    *,
    ridge: float = 0.0,
    steps: int = 100,
    tolerance: float = 1e-14,
) -> Tensor:
    """Return the weights that maximise `sum_tc q_tc log softmax(W x_t + b)_c - ridge / 2 |W|^2`.

    Args:
        x: [T, D] float64.
        targets: [T, C] float64 >= 0, q; a row's sum is its weight.
        start: [C, D + 1] float64, initial weights: W with b as its last column.
        ridge: on W, not on b. Without it separable targets have no finite maximum, and the search stops when
            a step no longer improves the loss.
        steps: maximum number of Newton steps.
        tolerance: stop when the Newton decrement is below this fraction of the loss.

    Returns:
        [C, D + 1] float64, never worse than the start.
    """
    inputs = _with_ones(x)
    penalised = torch.ones_like(start)
    penalised[:, -1] = 0.0
    mass = targets.sum(dim=-1, keepdim=True)

    def loss(weights: Tensor) -> float:
        log_p = (inputs @ weights.T).log_softmax(dim=-1)
        return float(ridge_penalty(weights, ridge) - (targets * log_p).sum())

    weights, value = start, loss(start)
    for _ in range(steps):
        p = (inputs @ weights.T).softmax(dim=-1)
        gradient = (mass * p - targets).T @ inputs + ridge * penalised * weights
        hessian = _hessian(inputs, p, mass) + torch.diag(ridge * penalised.reshape(-1))
        # Adding one vector to all rows of W changes no probability, so the Hessian is singular.
        damping = 1e-9 * float(hessian.diagonal().mean()) + 1e-12
        hessian.diagonal().add_(damping)
        direction = torch.linalg.solve(hessian, gradient.reshape(-1)).reshape(weights.shape)
        decrement = float((gradient * direction).sum())
        if not decrement > tolerance * (1.0 + abs(value)):
            break
        size = 1.0
        while (trial := loss(weights - size * direction)) > value - 1e-4 * size * decrement and size > 1e-8:
            size /= 2
        if not trial < value:
            break
        weights, value = weights - size * direction, trial
    return weights


def logistic_log_probabilities(x: Tensor, weights: Tensor) -> Tensor:
    """Return `log softmax(W x + b)`, [T, C] float64, of x [T, D] and weights [C, D + 1] float64."""
    return (_with_ones(x) @ weights.T).log_softmax(dim=-1)


def ridge_penalty(weights: Tensor, ridge: float) -> Tensor:
    """Return `ridge / 2 |W|^2`, a scalar; the last column of weights [C, D + 1], b, has no penalty."""
    return 0.5 * ridge * weights[:, :-1].square().sum()


def _hessian(inputs: Tensor, p: Tensor, mass: Tensor) -> Tensor:
    """The Hessian [C (D+1), C (D+1)]: block (a, b) is `sum_t m_t p_ta (1[a = b] - p_tb) x_t x_t^T`."""
    classes, size = p.shape[1], inputs.shape[1]
    hessian = inputs.new_empty(classes, size, classes, size)
    for a in range(classes):
        for b in range(a + 1):
            weight = mass[:, 0] * p[:, a] * (float(a == b) - p[:, b])
            block = (inputs * weight[:, None]).T @ inputs
            hessian[a, :, b, :] = block
            hessian[b, :, a, :] = block
    return hessian.reshape(classes * size, classes * size)


def _with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
