"""The probability that each expert is right: a prior from the query, a posterior from its confidence too.

Legend: T queries, N experts, D features, M members of the ensemble.
"""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor, nn

__all__ = ["BeliefSizes", "Beliefs"]

_CLAMP = 1e-4  # confidence is kept this far from 0 and 1, whose log-odds are infinite


class _Sizes(TypedDict):
    """Sizes of the networks."""

    members: int
    hidden: int


class BeliefSizes(_Sizes, total=False):
    """Sizes of beliefs in the description of a policy, and whether they read agreement; False if left out."""

    agreement: bool


class Beliefs(nn.Module):
    """Log-odds that each expert is right.

    The prior is the mean of M networks of the features. The posterior is a logistic regression per expert on
    the log-odds of its confidence and on the prior (Platt 1999). With `agreement`, every other expert asked
    moves the log-odds of an expert asked by one amount if their answers agree, and by another if they differ.
    The change from prior to posterior of the experts asked moves the log-odds of the others linearly.

    Args:
        features: D.
        experts: N.
        members: M.
        hidden: width of the members' hidden layer.
        agreement: whether the agreement of answers moves beliefs.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, features: int, experts: int, members: int, hidden: int, *, agreement: bool = False
    ) -> None:
        super().__init__()
        self.sizes = (features, experts, members, hidden)
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.first = nn.Parameter(torch.zeros(members, features, hidden))
        self.first_bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.last = nn.Parameter(torch.zeros(members, hidden, experts))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, experts))
        self.calibration = nn.Parameter(torch.zeros(experts, 3))  # of confidence, of the prior, intercept
        self.influence = nn.Parameter(torch.zeros(experts, experts))  # of each expert asked on each other
        self.agreeing = nn.Parameter(torch.zeros(experts, experts)) if agreement else None
        self.differing = nn.Parameter(torch.zeros(experts, experts)) if agreement else None
        self.register_load_state_dict_pre_hook(_rename_version_1)

    def members(self, features: Tensor) -> Tensor:
        """Return each member's prior log-odds, [M, T, N] float32, of features [T, D]."""
        x = (features - self.shift) * self.scale
        hidden = torch.relu(x @ self.first + self.first_bias)
        return hidden @ self.last + self.last_bias

    def prior(self, features: Tensor) -> Tensor:
        """Return the prior log-odds [T, N] float32 of features [T, D]."""
        return self.members(features).mean(dim=0)

    def posterior(self, prior: Tensor, confidence: Tensor) -> Tensor:
        """Return the posterior log-odds [T, N] of a prior [T, N] and confidences [T, N] in [0, 1]."""
        of_confidence, of_prior, intercept = self.calibration.unbind(dim=-1)
        return of_confidence * confidence.clamp(_CLAMP, 1.0 - _CLAMP).logit() + of_prior * prior + intercept

    def moves(self, same: Tensor, who: Tensor | None = None) -> Tensor:
        """Return how far the answer of the first expert of a pair moves the second's log-odds, [T, N, N].

        Args:
            same: [T, N, N] float, 1 where the two answers are equal.
            who: [T, N] int64, the expert of each column, where the columns are not all experts in order.
        """
        if self.agreeing is None or self.differing is None:
            return torch.zeros_like(same)
        agreeing, differing = self.agreeing, self.differing
        if who is not None:
            pairs = who.unsqueeze(-1), who.unsqueeze(-2)
            agreeing, differing = agreeing[pairs], differing[pairs]
        others = 1.0 - torch.eye(same.shape[-1], device=same.device)
        return (same * agreeing + (1.0 - same) * differing) * others

    def settled(self, posterior: Tensor, asked: Tensor, agree: Tensor, who: Tensor | None = None) -> Tensor:
        """Return the posterior [T, N], that of the experts asked moved by their agreement.

        Args:
            posterior: [T, N] log-odds.
            asked: [T, N] bool.
            agree: [T, N, N] float, 1 where both were asked and agree.
            who: [T, N] int64, as for `moves`.
        """
        if self.agreeing is None:
            return posterior
        known = asked.to(posterior.dtype)
        return posterior + known * (known.unsqueeze(-2) @ self.moves(agree, who)).squeeze(-2)

    def current(
        self,
        prior: Tensor,
        posterior: Tensor,
        asked: Tensor,
        agree: Tensor,
        who: Tensor | None = None,
    ) -> Tensor:
        """Return the current log-odds [T, N]: posteriors of the experts asked, updated priors of the others.

        Args:
            prior, posterior: [T, N] log-odds.
            asked: [T, N] bool.
            agree: [T, N, N] float, 1 where both were asked and agree.
            who: [T, N] int64, the expert of each column, where the columns are not all experts in order.
        """
        posterior = self.settled(posterior, asked, agree, who)
        revealed = (posterior - prior) * asked
        if who is None:
            moved = revealed @ self.influence
        else:
            moved = (revealed.unsqueeze(-2) @ self.influence[who.unsqueeze(-1), who.unsqueeze(-2)]).squeeze(
                -2
            )
        return torch.where(asked, posterior, prior + moved)


def _rename_version_1(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    if f"{prefix}told" in state_dict:  # the name of `influence` in version 1
        state_dict[f"{prefix}influence"] = state_dict.pop(f"{prefix}told")
