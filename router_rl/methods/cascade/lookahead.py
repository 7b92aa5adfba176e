"""One-step lookahead: ask whoever raises the chance of being right by more than it costs, else stop.

The worth of asking e is `E max(b, b_e) - weight * price_e - b`, where b is the belief in the best answer so
far and b_e, the belief after asking, is spread as on training rows with a similar prior. It is the myopic
value of information (Howard 1966, https://doi.org/10.1109/TSSC.1966.300074), with a tuned margin.

Legend: T queries, N experts, P priors alike, G beliefs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView

__all__ = ["MARGINS", "Lookahead", "gains_of"]

MARGINS = (-0.04, -0.02, -0.01, 0.0, 0.01, 0.02)
_ALIKE, _GRID = 12, 101


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookahead:
    """A tuned one-step lookahead.

    Attributes:
        beliefs: what judges the answers.
        price: [N] mean compute.
        edges: [N, P - 1] priors that part the training rows into groups of equal size.
        reached: [N, P, G] `E max(g, b_e)` for beliefs g evenly in [0, 1].
        margin: what asking must gain.
        pooled: experts that give the same answer add their log-odds, others take theirs off.
    """

    beliefs: Beliefs
    price: Tensor
    edges: Tensor
    reached: Tensor
    margin: float
    pooled: bool

    def actions(self, observation: Tensor) -> Tensor:
        """Actions [T] int64 of the environment."""
        view = CascadeView.of(observation, len(self.price))
        prior = self.beliefs.prior(view.features)
        return self.choose(view, prior, self.beliefs.posterior(prior, view.confidence))

    def choose(self, view: CascadeView, prior: Tensor, posterior: Tensor) -> Tensor:
        """Actions [T] int64, given the beliefs [T, N]."""
        prior = self.beliefs.current(prior, posterior, view.asked)
        score = posterior
        if self.pooled:
            known = posterior * view.asked
            support = (view.agree @ known.unsqueeze(-1)).squeeze(-1)
            score = 2.0 * support - known.sum(dim=-1, keepdim=True)
        best, answer = score.masked_fill(~view.asked, -torch.inf).max(dim=-1)
        sure = best.sigmoid()  # 0 where nobody was asked
        group = torch.stack(
            [
                torch.searchsorted(edge, column)
                for edge, column in zip(self.edges, prior.T.contiguous(), strict=True)
            ],
            dim=-1,
        )
        place = (sure * (_GRID - 1)).round().long().unsqueeze(-1)
        reached = self.reached[torch.arange(len(self.price)), group, place]
        gain = reached - view.weight.unsqueeze(-1) * self.price - sure.unsqueeze(-1)
        gain = gain.masked_fill(~view.askable, -torch.inf)
        most, ask = gain.max(dim=-1)
        go_on = ~view.asked.any(dim=-1) | (most > self.margin)
        return torch.where(go_on, ask, answer + len(self.price))


def gains_of(prior: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor]:
    """`edges` and `reached` of a lookahead, from training rows [T, N]."""
    quantiles = torch.from_numpy(np.linspace(0.0, 1.0, _ALIKE + 1)[1:-1]).float()
    edges = torch.quantile(prior, quantiles, dim=0).T.contiguous()
    grid = torch.linspace(0.0, 1.0, _GRID)
    reached = torch.zeros(prior.shape[1], _ALIKE, _GRID)
    for expert in range(prior.shape[1]):
        group = torch.searchsorted(edges[expert], prior[:, expert].contiguous())
        for one in range(_ALIKE):
            belief = posterior[group == one, expert].sigmoid()
            if len(belief):
                reached[expert, one] = torch.maximum(belief.unsqueeze(-1), grid).mean(dim=0)
    return edges, reached


def candidates(beliefs: Beliefs, price: Tensor, prior: Tensor, posterior: Tensor) -> Sequence[Lookahead]:
    """Every margin, with and without pooling."""
    edges, reached = gains_of(prior, posterior)
    return [
        Lookahead(beliefs=beliefs, price=price, edges=edges, reached=reached, margin=margin, pooled=pooled)
        for margin in MARGINS
        for pooled in (False, True)
    ]
