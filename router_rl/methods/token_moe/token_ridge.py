"""Closed-form routers: ridge regression, layer by layer, of a score for each expert on the gate's input.

Targets are the domain label (one-hot), or without labels the losses along each expert's path, averaged over
the neighbouring tokens: experts are frozen, so these are known for the training text once and for all. Inputs
are taken along the target's own route, then once more along the router's. Every learner here starts from it.

Source: DUME (2026) and Hoerl and Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from experts.moe.sequences import Sequences
from experts.moe.tail import Tail

from ...problems.token_moe.layer_routers import LayerRouters
from ...routing import Hard, LinearScorer, Selection

__all__ = ["RidgeHyperparameters", "best_experts", "fit_ridge"]

See = Callable[[int, Tensor, Tensor], None]

_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, kw_only=True)
class RidgeHyperparameters:
    """How the closed form is set.

    Attributes:
        target: `label`, the domain; `loss`, the losses along the experts' paths, which needs no labels.
        penalty: on the squared weights of standardised inputs, as a multiple of the tokens.
        window: tokens to each side whose losses are averaged (`loss` only).
        sweeps: how often inputs are taken: first along the target's route, then along the router's.
    """

    target: Literal["label", "loss"] = "loss"
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
    """Solve each layer in float64.

    Args:
        tail: the frozen layers.
        sequences: the training part.
        settings: how.
        rule: of the routers; top-1 if None. The target is lifted to its logits (`Selection.lift`).
        batch: sequences run together.

    Returns:
        routers whose policy is calibrated: logits are scaled, a layer at a time, so that the target's best
        expert has the highest likelihood.
    """
    rule = Hard() if rule is None else rule
    best = best_experts(sequences, settings)
    target = torch.nn.functional.one_hot(best, tail.experts).double()
    if settings.target == "loss":
        target = -torch.from_numpy(smoothed(sequences.path_loss, settings.window)).double().movedim(1, -1)
        target = target - target.mean(dim=-1, keepdim=True)
    target = rule.lift(target, temperature=0.0)
    routers = LayerRouters(tail.depth, tail.hidden, rule, tail.names)
    for sweep in range(settings.sweeps):
        sums = [_Sums(tail.hidden, target.shape[-1]) for _ in range(tail.depth)]
        _look(
            tail,
            sequences,
            batch,
            best if sweep == 0 else routers,
            lambda k, x, rows, sums=sums: sums[k].add(x, target[rows]),
        )
        for scorer, found in zip(routers.scorers, sums, strict=True):
            found.solve(cast(LinearScorer, scorer), settings.penalty)
    likelihood = torch.zeros(tail.depth, len(_SCALES), dtype=torch.float64)

    def judge(layer: int, x: Tensor, rows: Tensor) -> None:
        logits = routers.logits(layer, x)
        for number, scale in enumerate(_SCALES):
            first = rule.probabilities(logits * scale).gather(-1, best[rows].unsqueeze(-1))
            likelihood[layer, number] += float(first.clamp(min=1e-30).log().sum())

    _look(tail, sequences, batch, routers, judge)
    with torch.no_grad():
        for scorer, number in zip(routers.scorers, likelihood.argmax(dim=1).tolist(), strict=True):
            linear = cast(LinearScorer, scorer)
            linear.weight.mul_(_SCALES[number])
            linear.bias.mul_(_SCALES[number])
    return routers


def best_experts(sequences: Sequences, settings: RidgeHyperparameters) -> Tensor:
    """The expert each token should have, [S, T] int64: its domain's, or that of the least smoothed loss."""
    if settings.target == "label":
        return torch.from_numpy(np.array(sequences.domain, dtype=np.int64))
    return torch.from_numpy(smoothed(sequences.path_loss, settings.window).argmin(axis=1))


def smoothed(loss: np.ndarray, window: int) -> np.ndarray:
    """Mean of [S, N, T] over the tokens at most `window` places away, in the same sequence.

    >>> smoothed(np.array([[[0.0, 3.0, 6.0]]]), 1)
    array([[[1.5, 3. , 4.5]]])
    """
    total = np.concatenate([np.zeros_like(loss[..., :1], np.float64), loss.cumsum(-1, np.float64)], axis=-1)
    places = np.arange(loss.shape[-1])
    first, last = np.maximum(places - window, 0), np.minimum(places + window + 1, loss.shape[-1])
    return (total[..., last] - total[..., first]) / (last - first)


class _Sums:
    """The sums that a ridge regression needs, gathered batch by batch."""

    def __init__(self, hidden: int, experts: int) -> None:
        self.n = 0
        self.x = torch.zeros(hidden, dtype=torch.float64)
        self.y = torch.zeros(experts, dtype=torch.float64)
        self.xx = torch.zeros(hidden, hidden, dtype=torch.float64)
        self.xy = torch.zeros(hidden, experts, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Gate inputs [..., H] and targets [..., N]."""
        x, y = x.reshape(-1, x.shape[-1]).double(), y.reshape(-1, y.shape[-1])
        self.n += len(x)
        self.x += x.sum(dim=0)
        self.y += y.sum(dim=0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    @torch.no_grad()
    def solve(self, scorer: LinearScorer, penalty: float) -> None:
        """Set a scorer: standardisation from the inputs, weights from the regression."""
        mean, y_mean = self.x / self.n, self.y / self.n
        cov = self.xx / self.n - torch.outer(mean, mean)
        scale = cov.diagonal().clamp(min=1e-12).rsqrt()
        gram = cov * torch.outer(scale, scale) + penalty * torch.eye(len(mean), dtype=torch.float64)
        right = (self.xy / self.n - torch.outer(mean, y_mean)) * scale.unsqueeze(-1)
        scorer.shift.copy_(mean)
        scorer.scale.copy_(scale)
        scorer.weight.copy_(torch.linalg.lstsq(gram, right, driver="gelsd").solution.T)
        scorer.bias.copy_(y_mean)


def _look(tail: Tail, sequences: Sequences, batch: int, route: LayerRouters | Tensor, see: See) -> None:
    """Walk along a route, showing `see` the layer, the gate's input [B, T, H] and the rows."""
    with torch.no_grad():
        for rows in torch.arange(len(sequences)).split(batch):

            def choose(layer: int, x: Tensor, rows: Tensor = rows) -> tuple[Tensor, Tensor]:
                see(layer, x, rows)
                if isinstance(route, LayerRouters):
                    return route.choose(layer, x)
                return route[rows].unsqueeze(-1), torch.ones(*x.shape[:-1], 1)

            tail(sequences.states(rows), choose)
