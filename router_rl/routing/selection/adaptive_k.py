"""Adaptive k: one to k experts per query, by means of a null expert.

A scorer gives N + 1 logits; the last is the null expert's. Only experts that rank before it run: the policy
draws without replacement (Plackett-Luce, as in top-k) and stops when it draws the null expert. The first draw
is always an expert, so that every query is answered. The null expert has the id N, which grouped matrix
products skip.

Source: Zeng et al. 2024 (AdaMoE), section 3, https://arxiv.org/abs/2406.13233.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..router_error import RouterError
from .gumbel import gumbel_like
from .hard import categorical_entropy
from .rule import Choice, Selection
from .topk import largest

__all__ = ["AdaptiveK"]


@dataclass(frozen=True)
class AdaptiveK(Selection):
    """One to k experts per query.

    Attributes:
        k: the largest number of experts per decision.

    >>> rule = AdaptiveK(k=3)
    >>> rule.select(torch.tensor([[3.0, 1.0, 2.0, 1.5]])).experts  # the null expert's logit is 1.5
    tensor([[0, 2, 3]])
    """

    k: int = 2
    name: ClassVar[str] = "adaptive_k"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RouterError(f"AdaptiveK.k={self.k} is not positive; use 1 or more")

    def check(self, experts: int) -> None:
        """Raise RouterError if k exceeds the number of experts."""
        if self.k > experts:
            raise RouterError(f"AdaptiveK.k={self.k} exceeds {experts} experts; use 1 to {experts}")

    def spec(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"rule": self.name, "k": self.k}

    def outputs(self, experts: int) -> int:
        """N + 1: the last logit is the null expert's."""
        return experts + 1

    def sizes(self, experts: int) -> range:
        """1 to k."""
        return range(1, self.k + 1)

    def select(self, logits: Tensor) -> Choice:
        """The experts above the null expert, one to k, best first; a tie with the null expert stops."""
        experts = self._until_null(logits)
        return Choice(experts, self.weigh(logits, experts))

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw experts in order until the null expert or k; [T, k] int64, N from the null expert on.

        The null expert cannot be first, so its Gumbel key is truncated below the first draw's: Maddison,
        Tarlow and Minka 2014, section 3 (https://arxiv.org/abs/1411.0030).
        """
        keys = logits + gumbel_like(logits, noise)
        first = keys[..., :-1].amax(dim=-1, keepdim=True)
        null = -torch.logaddexp(-first, -keys[..., -1:])
        return self._until_null(torch.cat([keys[..., :-1], null], dim=-1))

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Softmax over the experts that run, [T, k] float32; 0 for the null expert."""
        chosen = logits.float().gather(-1, experts)
        return chosen.masked_fill(experts == logits.shape[-1] - 1, float("-inf")).softmax(dim=-1)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """Plackett-Luce log-probability up to and including the draw of the null expert, [T] float32."""
        null = logits.shape[-1] - 1
        remaining = self._first(logits.float())
        total = torch.zeros(logits.shape[:-1], dtype=torch.float32, device=logits.device)
        going = torch.ones_like(total, dtype=torch.bool)
        for draw in range(self.k):
            chosen = action[..., draw : draw + 1]
            drawn = remaining.log_softmax(dim=-1).gather(-1, chosen).squeeze(-1)
            total = total + torch.where(going, drawn, 0.0)
            going = going & (chosen.squeeze(-1) != null)
            remaining = (logits.float() if draw == 0 else remaining).scatter(
                -1, action[..., : draw + 1], float("-inf")
            )
            # A row that has stopped keeps finite values, so that its gradient is finite.
            remaining = torch.where(going.unsqueeze(-1), remaining, 0.0)
        return total

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of the draws, [T] float32, nats: each taken after the greedy draws before it.

        Exact for k = 1. Each draw is weighted by the probability of reaching it.
        """
        null = logits.shape[-1] - 1
        remaining = self._first(logits.float())
        total = torch.zeros(logits.shape[:-1], device=logits.device)
        reached = torch.ones_like(total)
        for draw in range(self.k):
            log_p = remaining.log_softmax(dim=-1)
            total = total + reached * categorical_entropy(log_p)
            reached = reached * (1.0 - log_p[..., null].exp())
            best = log_p[..., :null].argmax(dim=-1, keepdim=True)
            remaining = remaining.scatter(-1, best, float("-inf"))
            if draw == 0:  # from the second draw on, the null expert may be drawn
                remaining = torch.cat([remaining[..., :null], logits[..., null:].float()], dim=-1)
        return total

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over all N + 1 logits, without the null expert's: [T, N] float32, rows sum to at most 1."""
        return logits.float().softmax(dim=-1)[..., :-1]

    def prefer(self, expert: int, experts: int) -> Tensor:
        """This expert, then the null expert."""
        row = torch.full((experts + 1,), -1e4)
        row[expert], row[experts] = 0.0, -5e3
        return row

    def mask(self, logits: Tensor, allowed: Tensor) -> Tensor:
        """The null expert may always be drawn."""
        null = torch.ones_like(allowed[..., :1])
        return logits.masked_fill(~torch.cat([allowed, null], dim=-1), float("-inf"))

    def lift(self, values: Tensor, temperature: float = 1.0) -> Tensor:
        """The null expert has the value of all experts together, so greedy selection runs one expert."""
        if temperature == 0.0:
            together = values.amax(dim=-1, keepdim=True)
        else:
            together = temperature * (values / temperature).logsumexp(dim=-1, keepdim=True)
        return torch.cat([values, together], dim=-1)

    def _first(self, scores: Tensor) -> Tensor:
        """Scores of the first draw, which the null expert is excluded from."""
        null = torch.full_like(scores[..., -1:], float("-inf"))
        return torch.cat([scores[..., :-1], null], dim=-1)

    def _until_null(self, scores: Tensor) -> Tensor:
        """The k best experts, with N from the second rank on where the null expert scores as much or more."""
        null = scores.shape[-1] - 1
        experts = largest(scores[..., :null], self.k)
        works = scores.gather(-1, experts) > scores[..., null:]
        first = torch.zeros_like(works)
        first[..., 0] = True
        return torch.where(works | first, experts, null)
