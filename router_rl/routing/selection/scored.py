"""Scored top-k: experts are chosen by one score and weighted by another, as in DeepSeek-V2, V3 and ReMoE.

An expert has a score (softmax, sigmoid or ReLU of its logit). The k largest of score + bias are chosen,
within the best groups where experts form groups; the weights are the scores of the chosen without the bias,
renormalised. The bias balances load without changing the weights (DeepSeek-V3, section 2.1.2, eq. 13-16,
https://arxiv.org/abs/2412.19437). A group is the experts of one device (DeepSeek-V2, section 2.2.2,
https://arxiv.org/abs/2405.04434). A trained gate stores its bias here, so that exports have it. DeepSeek's
`routed_scaling_factor` and unnormalised weights are left to the layer that mixes: our weights sum to 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..router_error import RouterError
from .rule import Choice, Selection
from .topk import TopK, largest

__all__ = ["ScoredTopK"]

# Scores and biases differ by a few units, so these constants keep three ranks apart.
_NO_SCORE = 1e3  # subtracted from a score of exactly 0, which then ranks last
_OTHER_GROUP = 1e6  # subtracted in other groups; they serve if the kept ones have fewer than k experts left


@dataclass(frozen=True)
class ScoredTopK(Selection):
    """Top-k of score + bias, weighted by score.

    Attributes:
        k: experts per decision.
        score: of a logit: `softmax` over all experts, `sigmoid`, or `relu`.
        bias: added to each expert's score to choose, not to weight; empty for none.
        groups: the experts form this many groups of equal size, by increasing id.
        kept: number of groups whose experts may be chosen.
        judged_by: a group's score is the sum of this many of its best experts (1 in DeepSeek-V2, 2 in V3).

    >>> rule = ScoredTopK(k=1, bias=(0.0, 0.5))
    >>> rule.select(torch.tensor([[1.0, 0.0]])).experts  # .73 against .5 + .5
    tensor([[1]])
    """

    k: int = 2
    score: Literal["softmax", "sigmoid", "relu"] = "sigmoid"
    bias: tuple[float, ...] = ()
    groups: int = 1
    kept: int = 1
    judged_by: int = 2
    name: ClassVar[str] = "scored_topk"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", tuple(float(value) for value in self.bias))
        for field in ("k", "groups", "kept", "judged_by"):
            if getattr(self, field) < 1:
                raise RouterError(f"ScoredTopK.{field}={getattr(self, field)} is not positive; use 1 or more")
        if self.score not in ("softmax", "sigmoid", "relu"):
            raise RouterError(f"ScoredTopK.score={self.score!r} is unknown; use softmax, sigmoid or relu")
        if self.kept > self.groups:
            raise RouterError(f"ScoredTopK.kept={self.kept} exceeds groups={self.groups}; use fewer")
        if not all(abs(value) < _NO_SCORE / 4 for value in self.bias):
            raise RouterError(f"ScoredTopK.bias={self.bias} is not on the scale of scores")

    def check(self, experts: int) -> None:
        """Raise RouterError if the groups, their experts or the biases do not fit the number of experts."""
        if experts % self.groups:
            raise RouterError(f"ScoredTopK.groups={self.groups} does not divide {experts} experts")
        reach = experts // self.groups * self.kept
        if self.k > reach:
            raise RouterError(
                f"ScoredTopK.k={self.k} exceeds the {reach} experts to choose from; use 1 to {reach}"
            )
        if self.bias and len(self.bias) != experts:
            raise RouterError(f"ScoredTopK.bias has {len(self.bias)} values but there are {experts} experts")

    def spec(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"rule": self.name, **asdict(self), "bias": list(self.bias)}

    def select(self, logits: Tensor) -> Choice:
        """The k best by score + bias, best first; ties go to the lowest id."""
        experts = largest(self.ranking(logits), self.k)
        return Choice(experts, self.weigh(logits, experts))

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Scores of the chosen over their sum, [T, k] float32; where all are 0 the first has weight 1."""
        z = logits.float()
        if self.score == "relu":
            active = z.relu().gather(-1, experts)
            first = torch.zeros_like(active)
            first[..., 0] = 1.0
            total = active.sum(dim=-1, keepdim=True)
            return torch.where(total > 0, active / total.clamp(min=torch.finfo(z.dtype).tiny), first)
        # In logarithms, so that scores that underflow in float32 still have a ratio.
        return (F.logsigmoid(z) if self.score == "sigmoid" else z).gather(-1, experts).softmax(dim=-1)

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw k distinct experts, Plackett-Luce over `ranking`, [T, k] int64 (Gumbel top-k)."""
        return TopK(k=self.k).sample(self.ranking(logits), noise)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """Log-probability [T] float32 of an ordered draw."""
        return TopK(k=self.k).log_prob(self.ranking(logits), action)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy [T] float32 of the ordered draw, nats, as in top-k."""
        return TopK(k=self.k).entropy(self.ranking(logits))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability [T, N] float32 that the first draw is each expert."""
        return self.ranking(logits).softmax(dim=-1)

    def prefer(self, expert: int, experts: int) -> Tensor:
        """Only this expert has a score above 0."""
        row = torch.full((experts,), -1e4)
        row[expert] = 1.0
        return row

    def scores(self, logits: Tensor) -> Tensor:
        """The scores [T, N] float32 without the bias; 0 for a masked expert."""
        z = logits.float()
        return {"softmax": lambda: z.softmax(dim=-1), "sigmoid": z.sigmoid, "relu": z.relu}[self.score]()

    def ranking(self, logits: Tensor) -> Tensor:
        """The scores that experts are chosen by, [T, N] float32: highest first, minus infinity where masked.

        It is score + bias, or the logit itself where that gives the same order (ReLU, whose zeros would all
        tie; softmax without a bias). Greedy selection takes the largest, the policy draws from its softmax.
        """
        z = logits.float()
        merit = self._merit(z)
        if self.score == "relu":
            rank = z + z.new_tensor(self.bias) if self.bias else z
        elif self.score == "softmax" and not self.bias:
            rank = z
        else:
            rank = merit
        if self.groups > 1:
            rank = torch.where(self._in_best_groups(merit), rank, rank - _OTHER_GROUP)
        return rank.masked_fill(z == float("-inf"), float("-inf"))

    def group_margin(self, logits: Tensor) -> Tensor:
        """The score of the worst kept group minus that of the best other one, [T] float32; 0 is a tie."""
        if self.kept == self.groups:
            return torch.full(logits.shape[:-1], float("inf"), device=logits.device)
        score = self._group_score(self._merit(logits)).sort(dim=-1, descending=True).values
        return score[..., self.kept - 1] - score[..., self.kept]

    def _merit(self, logits: Tensor) -> Tensor:
        """Score + bias [T, N]; a score of 0 ranks after every other."""
        scores = self.scores(logits)
        bias = scores.new_tensor(self.bias) if self.bias else scores.new_zeros(scores.shape[-1])
        return torch.where(scores > 0, scores, scores - _NO_SCORE) + bias

    def _group_score(self, merit: Tensor) -> Tensor:
        """The sum of each group's best, [T, groups]."""
        grouped = merit.unflatten(-1, (self.groups, -1))
        return grouped.topk(min(self.judged_by, grouped.shape[-1]), dim=-1).values.sum(dim=-1)

    def _in_best_groups(self, merit: Tensor) -> Tensor:
        """Whether each expert is in a kept group, [T, N] bool; ties go to the lower group."""
        score = self._group_score(merit)
        inside = torch.zeros_like(score, dtype=torch.bool).scatter(-1, largest(score, self.kept), True)
        return inside.repeat_interleave(merit.shape[-1] // self.groups, dim=-1)
