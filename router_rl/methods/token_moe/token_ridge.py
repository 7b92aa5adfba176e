"""Closed-form routers: ridge regression of expert scores on the gate's input, layer by layer.

Targets are the losses along each expert's path, averaged over neighbouring tokens; experts are frozen, so
these losses are measured once. Inputs are collected along the target's route, then along the router's. All
other methods start from these routers.

Source: DUME (2026) and Hoerl and Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from experts.moe.sequences import Sequences
from experts.moe.tail import Tail

from ...problems.token_moe.layer_routers import LayerRouters
from ...routing import Hard, LinearScorer, Selection

__all__ = ["RidgeHyperparameters", "fit_ridge", "smoothed"]

Visit = Callable[[int, Tensor, Tensor], None]

_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, kw_only=True)
class RidgeHyperparameters:
    """Hyperparameters of the closed form.

    Attributes:
        penalty: L2 penalty on the weights of standardised inputs, relative to the number of tokens.
        window: tokens to each side whose losses are averaged.
        sweeps: times that inputs are collected: first along the target's route, then along the router's.
    """

    penalty: float = 1e-3
    window: int = 16
    sweeps: int = 2


def fit_ridge(
    tail: Tail,
    sequences: Sequences,
    settings: RidgeHyperparameters,
    rule: Selection | None = None,
    batch: int = 16,
) -> LayerRouters:
    """Fit ridge routers, one layer at a time, in float64.

    Args:
        tail: frozen layers.
        sequences: training sequences.
        settings: hyperparameters.
        rule: selection rule of the routers; top-1 if None. The target is lifted to its logits
            (`Selection.lift`).
        batch: sequences per forward pass.

    Returns:
        calibrated routers: the logits of each layer are scaled to maximize the likelihood of the target's
            best expert.
    """
    rule = Hard() if rule is None else rule
    losses = smoothed(sequences.path_loss, settings.window)
    best = torch.from_numpy(losses.argmin(axis=1))
    target = -torch.from_numpy(losses).double().movedim(1, -1)
    target = rule.lift(target - target.mean(dim=-1, keepdim=True), temperature=0.0)
    routers = LayerRouters(tail.depth, tail.hidden, rule, tail.names)
    for sweep in range(settings.sweeps):
        sums = [_Sums(tail.hidden, target.shape[-1]) for _ in range(tail.depth)]
        _visit(
            tail,
            sequences,
            batch,
            best if sweep == 0 else routers,
            lambda k, x, rows, sums=sums: sums[k].add(x, target[rows]),
        )
        for scorer, layer_sums in zip(routers.scorers, sums, strict=True):
            layer_sums.solve(cast(LinearScorer, scorer), settings.penalty)
    likelihood = torch.zeros(tail.depth, len(_SCALES), dtype=torch.float64)

    def measure(layer: int, x: Tensor, rows: Tensor) -> None:
        logits = routers.logits(layer, x)
        for number, scale in enumerate(_SCALES):
            first = rule.probabilities(logits * scale).gather(-1, best[rows].unsqueeze(-1))
            likelihood[layer, number] += float(first.clamp(min=1e-30).log().sum())

    _visit(tail, sequences, batch, routers, measure)
    with torch.no_grad():
        for scorer, number in zip(routers.scorers, likelihood.argmax(dim=1).tolist(), strict=True):
            linear = cast(LinearScorer, scorer)
            linear.weight.mul_(_SCALES[number])
            linear.bias.mul_(_SCALES[number])
    return routers


def smoothed(loss: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of [S, N, T] over tokens at most `window` positions away, in the same sequence.

    >>> smoothed(np.array([[[0.0, 3.0, 6.0]]]), 1)
    array([[[1.5, 3. , 4.5]]])
    """
    total = np.concatenate([np.zeros_like(loss[..., :1], np.float64), loss.cumsum(-1, np.float64)], axis=-1)
    positions = np.arange(loss.shape[-1])
    first, last = np.maximum(positions - window, 0), np.minimum(positions + window + 1, loss.shape[-1])
    return (total[..., last] - total[..., first]) / (last - first)


class _Sums:
    """Sufficient statistics of a ridge regression, accumulated over batches."""

    def __init__(self, hidden: int, experts: int) -> None:
        self.n = 0
        self.x = torch.zeros(hidden, dtype=torch.float64)
        self.y = torch.zeros(experts, dtype=torch.float64)
        self.xx = torch.zeros(hidden, hidden, dtype=torch.float64)
        self.xy = torch.zeros(hidden, experts, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add gate inputs [..., H] and targets [..., N]."""
        x, y = x.reshape(-1, x.shape[-1]).double(), y.reshape(-1, y.shape[-1])
        self.n += len(x)
        self.x += x.sum(dim=0)
        self.y += y.sum(dim=0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    @torch.no_grad()
    def solve(self, scorer: LinearScorer, penalty: float) -> None:
        """Set a scorer's standardisation and weights."""
        mean, y_mean = self.x / self.n, self.y / self.n
        cov = self.xx / self.n - torch.outer(mean, mean)
        scale = cov.diagonal().clamp(min=1e-12).rsqrt()
        gram = cov * torch.outer(scale, scale) + penalty * torch.eye(len(mean), dtype=torch.float64)
        right = (self.xy / self.n - torch.outer(mean, y_mean)) * scale.unsqueeze(-1)
        scorer.shift.copy_(mean)
        scorer.scale.copy_(scale)
        scorer.weight.copy_(torch.linalg.lstsq(gram, right, driver="gelsd").solution.T)
        scorer.bias.copy_(y_mean)


def _visit(tail: Tail, sequences: Sequences, batch: int, route: LayerRouters | Tensor, visit: Visit) -> None:
    """Run along a route; calls `visit` with the layer, the gate's input [B, T, H] and the rows."""
    with torch.no_grad():
        for rows in torch.arange(len(sequences)).split(batch):

            def choose(layer: int, x: Tensor, rows: Tensor = rows) -> tuple[Tensor, Tensor]:
                visit(layer, x, rows)
                if isinstance(route, LayerRouters):
                    return route.choose(layer, x)
                return route[rows].unsqueeze(-1), torch.ones(*x.shape[:-1], 1)

            tail(sequences.states(rows), choose)
