"""Experts for EM: each has a log-likelihood and a responsibility-weighted M-step.

The M-steps of the linear experts are exact (Jordan and Jacobs 1994,
https://doi.org/10.1162/neco.1994.6.2.181). A network's M-step only improves the objective (generalised EM,
Dempster, Laird and Rubin 1977).
"""

from __future__ import annotations

import copy
import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .logistic import fit_logistic, logistic_log_probabilities, ridge_penalty

__all__ = ["EMExpert", "LinearGaussianExpert", "LogisticExpert", "NetworkExpert", "weighted_least_squares"]

_MIN_ROWS = 1e-9  # an expert responsible for fewer rows is not changed


class EMExpert(Protocol):
    """The interface of an expert that EM trains."""

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `log P(y_t | x_t)`, [T] float64, of x [T, D] float64."""
        ...

    def maximise(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Increase, or keep, `sum_t weight_t log P(y_t | x_t) - penalty`, with weight [T] float64."""
        ...

    def penalty(self) -> float:
        """Return the penalty that is subtracted from the log-likelihood."""
        ...


class LinearGaussianExpert:
    """`y ~ Normal(W x + b, variance I)`, fitted by weighted least squares.

    Args:
        inputs: D.
        outputs: M; y is [T, M] float64.
        min_variance: the lower bound of the variance, since a line through a single point has variance 0.
    """

    def __init__(self, inputs: int, outputs: int = 1, *, min_variance: float = 1e-6) -> None:
        self.weights = torch.zeros(outputs, inputs + 1, dtype=torch.float64)
        self.variance = 1.0
        self.min_variance = min_variance

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gaussian log-density, [T] float64, of x [T, D] and y [T, M] float64."""
        square = (y - x @ self.weights[:, :-1].T - self.weights[:, -1]).square().sum(dim=1)
        return -0.5 * (square / self.variance + y.shape[1] * math.log(2 * math.pi * self.variance))

    def maximise(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Fit weights by weighted least squares, and the variance by the weighted mean squared residual."""
        total = float(weight.sum())
        if total <= _MIN_ROWS:
            return
        self.weights = weighted_least_squares(x, y, weight)
        square = (y - x @ self.weights[:, :-1].T - self.weights[:, -1]).square().sum(dim=1)
        # The likelihood increases up to this variance and decreases after it, so the bound is exact.
        self.variance = max(float((weight * square).sum()) / (total * y.shape[1]), self.min_variance)

    def penalty(self) -> float:
        """Return 0: there is no penalty."""
        return 0.0


class LogisticExpert:
    """`P(y | x) = softmax(W x + b)_y`, fitted by weighted logistic regression.

    Args:
        inputs: D.
        classes: C; y is [T] int64.
        ridge: on W.
    """

    def __init__(self, inputs: int, classes: int, *, ridge: float = 0.0) -> None:
        self.weights = torch.zeros(classes, inputs + 1, dtype=torch.float64)
        self.ridge = ridge

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-probability of the label, [T] float64, of x [T, D] float64 and y [T] int64."""
        return logistic_log_probabilities(x, self.weights).gather(1, y[:, None]).squeeze(1)

    def maximise(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Fit by Newton's method to convergence."""
        if float(weight.sum()) > _MIN_ROWS:
            targets = functional.one_hot(y, len(self.weights)).to(x) * weight[:, None]
            self.weights = fit_logistic(x, targets, self.weights, ridge=self.ridge)

    def penalty(self) -> float:
        """Return the ridge penalty."""
        return float(ridge_penalty(self.weights, self.ridge))


class NetworkExpert:
    """A classifier whose M-step is some epochs of AdamW, undone if they do not improve the objective.

    Args:
        module: maps float32 inputs [B, D] to logits [B, C]; trained in place.
        learning_rate: of AdamW at the start; halved after every undone M-step.
        ridge: on all parameters, as a penalty on the log-likelihood.
        epochs: of an M-step.
        batch: rows per gradient step.
        seed: of the order of rows.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        learning_rate: float = 3e-3,
        ridge: float = 0.0,
        epochs: int = 1,
        batch: int = 64,
        seed: int = 0,
    ) -> None:
        self.module = module
        self.ridge = ridge
        self.epochs = epochs
        self.batch = batch
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.0)
        self._generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def log_probabilities(self, x: Tensor) -> Tensor:
        """Return the log-probability of every class, [T, C] float64, of x [T, D] float64."""
        return self.module(x.float()).double().log_softmax(dim=1)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-probability of the label, [T] float64, of x [T, D] float64 and y [T] int64."""
        return self.log_probabilities(x).gather(1, y[:, None]).squeeze(1)

    def maximise(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Train on the weighted rows; restore the old parameters if the objective decreased."""
        if float(weight.sum()) <= _MIN_ROWS:
            return
        before = self._objective(x, y, weight)
        old = copy.deepcopy(self.module.state_dict())
        # Rows of tiny weight only cost time; the objective before and after is of all rows.
        rows = (weight > 1e-3 * weight.max()).nonzero().squeeze(1)
        inputs, labels, mass = x[rows].float(), y[rows], weight[rows].float()
        total = float(mass.sum())
        for _ in range(self.epochs):
            for part in torch.randperm(len(rows), generator=self._generator).split(self.batch):
                losses = functional.cross_entropy(self.module(inputs[part]), labels[part], reduction="none")
                loss = (mass[part] * losses).sum() * len(rows) / (len(part) * total)
                loss = loss + self._ridge_term() / total
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self._optimizer.step()
        if self._objective(x, y, weight) < before:
            self.module.load_state_dict(old)
            for group in self._optimizer.param_groups:
                group["lr"] /= 2

    def penalty(self) -> float:
        """Return the ridge penalty."""
        return float(self._ridge_term().detach())

    def _ridge_term(self) -> Tensor:
        squares = torch.stack([parameter.square().sum() for parameter in self.module.parameters()])
        return 0.5 * self.ridge * squares.sum()

    def _objective(self, x: Tensor, y: Tensor, weight: Tensor) -> float:
        return float((weight * self.log_likelihood(x, y)).sum()) - self.penalty()


def weighted_least_squares(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Return the minimiser of `sum_t weight_t |y_t - W x_t - b|^2` with the smallest norm.

    Args:
        x: [T, D] float64.
        y: [T, M] float64.
        weight: [T] float64 >= 0.

    Returns:
        [M, D + 1] float64, W with b as its last column.
    """
    root = weight.sqrt()[:, None]
    inputs = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    # gelsd takes matrices of any rank: an expert can be responsible for few rows.
    return torch.linalg.lstsq(root * inputs, root * y, driver="gelsd").solution.T
