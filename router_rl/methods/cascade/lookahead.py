"""One-step lookahead: ask the expert with the highest value of information, or stop where that is too low.

The gain of asking e is `E max(b, b_e) - weight * price_e - b`. Here b is the probability that the best
answer so far is right, and b_e the one of e's answer, distributed as on training rows with a similar prior.
It is the myopic value of information (Howard 1966, https://doi.org/10.1109/TSSC.1966.300074), with a tuned
margin.

Legend: T queries, N experts, P groups of similar priors, G probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from envs import Core

from ...problems.cascade.cascade_data import CascadeData
from ...problems.cascade.problem import CascadeProblem
from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView
from ..method import Method, NoHyperparameters, Run
from .candidate_choice import best_candidate

__all__ = ["MARGINS", "METHOD", "Lookahead", "candidates", "fit", "gains_of"]

MARGINS = (-0.04, -0.02, -0.01, 0.0, 0.01, 0.02)
"""The margins tried, in units of utility."""

_PRIOR_GROUPS, _PROBABILITIES = 12, 101


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookahead:
    """A tuned one-step lookahead.

    Attributes:
        beliefs: the probability that each expert is right.
        price: [N] mean compute.
        edges: [N, P - 1] log-odds of the prior between groups of equal size.
        reached: [N, P, G] `E max(g, b_e)` for probabilities g evenly in [0, 1].
        margin: the gain above which it asks, in units of utility.
        pooled: experts with the same answer add their log-odds, the others subtract theirs.
    """

    beliefs: Beliefs
    price: Tensor
    edges: Tensor
    reached: Tensor
    margin: float
    pooled: bool

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64 of the environment for observations [T, O] float32."""
        view = CascadeView.of(observation, len(self.price))
        prior = self.beliefs.prior(view.features)
        return self.choose(view, prior, self.beliefs.posterior(prior, view.confidence))

    def choose(self, view: CascadeView, prior: Tensor, posterior: Tensor) -> Tensor:
        """Return actions [T] int64 for beliefs [T, N], which are log-odds."""
        prior = self.beliefs.current(prior, posterior, view.asked, view.agree)
        posterior = self.beliefs.settled(posterior, view.asked, view.agree)
        score = posterior
        if self.pooled:
            known = posterior * view.asked
            support = (view.agree @ known.unsqueeze(-1)).squeeze(-1)
            score = 2.0 * support - known.sum(dim=-1, keepdim=True)
        best, answer = score.masked_fill(~view.asked, -torch.inf).max(dim=-1)
        likely = best.sigmoid()  # 0 where no expert was asked
        group = _groups(self.edges, prior)
        place = (likely * (_PROBABILITIES - 1)).round().long().unsqueeze(-1)
        reached = self.reached[torch.arange(len(self.price)), group, place]
        gain = reached - view.weight.unsqueeze(-1) * self.price - likely.unsqueeze(-1)
        gain = gain.masked_fill(~view.askable, -torch.inf)
        highest, ask = gain.max(dim=-1)
        asks = ~view.asked.any(dim=-1) | (highest > self.margin)
        return torch.where(asks, ask, answer + len(self.price))


def gains_of(prior: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor]:
    """Return `edges` and `reached` of a lookahead.

    Args:
        prior, posterior: [T, N] float32 log-odds of the rows it is tuned on.
    """
    quantiles = torch.from_numpy(np.linspace(0.0, 1.0, _PRIOR_GROUPS + 1)[1:-1]).float()
    edges = torch.quantile(prior, quantiles, dim=0).T.contiguous()
    grid = torch.linspace(0.0, 1.0, _PROBABILITIES)
    reached = torch.zeros(prior.shape[1], _PRIOR_GROUPS, _PROBABILITIES)
    groups = _groups(edges, prior)
    for expert in range(prior.shape[1]):
        for group in range(_PRIOR_GROUPS):
            belief = posterior[groups[:, expert] == group, expert].sigmoid()
            if len(belief):
                reached[expert, group] = torch.maximum(belief.unsqueeze(-1), grid).mean(dim=0)
    return edges, reached


def candidates(data: CascadeData) -> Sequence[Lookahead]:
    """Return a lookahead for every margin, without and with pooling."""
    fitted = data.fitted
    edges, reached = gains_of(fitted.prior, fitted.posterior)
    return [
        Lookahead(
            beliefs=fitted.beliefs,
            price=data.table.price,
            edges=edges,
            reached=reached,
            margin=margin,
            pooled=pooled,
        )
        for margin in MARGINS
        for pooled in (False, True)
    ]


def fit(problem: CascadeProblem, hyperparameters: NoHyperparameters, run: Run) -> Lookahead:
    """Choose the margin and the pooling by cross-fitted beliefs on training and validation rows."""
    data = problem.data(run.seed)
    return best_candidate(candidates(data), problem, data)


def _groups(edges: Tensor, prior: Tensor) -> Tensor:
    """Return the group [T, N] int64 of each prior [T, N]."""
    columns = zip(edges, prior.T.contiguous(), strict=True)
    return torch.stack([torch.searchsorted(edge, column) for edge, column in columns], dim=-1)


METHOD = Method(
    name="lookahead",
    family="baseline",
    fit=fit,
    about="one-step value of information on calibrated beliefs",
)
