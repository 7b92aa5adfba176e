"""How likely an expert is right: before it is asked, from the query; after, from its confidence too.

Legend: T queries, N experts, D features, M members of the ensemble.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Beliefs"]

_SURE = 1e-4  # confidence is kept this far from 0 and 1, whose log-odds are infinite


class Beliefs(nn.Module):
    """Log-odds that each expert is right.

    The prior is the mean of M networks of the features, the posterior a logistic regression an expert on the
    log-odds of its confidence and on the prior (Platt 1999). What the asked ones reveal moves the belief in
    the others in a line: an expert that is unsure says something of who would be sure.

    Args:
        features: D.
        experts: N.
        members: M.
        hidden: width of the members' hidden layer.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: int, experts: int, members: int, hidden: int) -> None:
        super().__init__()
        self.sizes = (features, experts, members, hidden)
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.first = nn.Parameter(torch.zeros(members, features, hidden))
        self.first_bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.last = nn.Parameter(torch.zeros(members, hidden, experts))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, experts))
        self.calibration = nn.Parameter(torch.zeros(experts, 3))  # of confidence, of the prior, and alone
        self.told = nn.Parameter(torch.zeros(experts, experts))  # what each that was asked says of each other

    def members(self, features: Tensor) -> Tensor:
        """Each member's prior log-odds, [M, T, N], of features [T, D]."""
        x = (features - self.shift) * self.scale
        hidden = torch.relu(x @ self.first + self.first_bias)
        return hidden @ self.last + self.last_bias

    def prior(self, features: Tensor) -> Tensor:
        """Log-odds [T, N] of features [T, D]."""
        return self.members(features).mean(dim=0)

    def posterior(self, prior: Tensor, confidence: Tensor) -> Tensor:
        """Log-odds [T, N] of a prior [T, N] and confidences [T, N] in [0, 1]."""
        confident, known, alone = self.calibration.unbind(dim=-1)
        return confident * confidence.clamp(_SURE, 1.0 - _SURE).logit() + known * prior + alone

    def current(self, prior: Tensor, posterior: Tensor, asked: Tensor, who: Tensor | None = None) -> Tensor:
        """Log-odds [T, N] when some have been asked: theirs, and the others' moved by what they revealed.

        Args:
            prior, posterior: [T, N].
            asked: [T, N] bool.
            who: [T, N] int64, the experts meant, where they are not all in order.
        """
        revealed = (posterior - prior) * asked
        if who is None:
            moved = revealed @ self.told
        else:
            moved = (revealed.unsqueeze(-2) @ self.told[who.unsqueeze(-1), who.unsqueeze(-2)]).squeeze(-2)
        return torch.where(asked, posterior, prior + moved)
