"""Unnormalised top-k: the weights of the chosen experts are their scores themselves, and sum to less than 1.

OLMoE (Muennighoff et al. 2024, section 2, https://arxiv.org/abs/2409.02060), Qwen1.5-MoE and other models
with `norm_topk_prob: false` weight an expert by its probability among all experts. The experts are chosen as
by `ScoredTopK`, which renormalises.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from .rule import Choice, Selection
from .scored import ScoredTopK

__all__ = ["UnnormalisedTopK"]


@dataclass(frozen=True)
class UnnormalisedTopK(Selection):
    """Top-k of score + bias, weighted by the score among all experts.

    Attributes:
        k: experts per decision.
        score: of a logit: `softmax` over all experts, or `sigmoid`.
        bias, groups, kept, judged_by: as in `ScoredTopK`.

    >>> import torch
    >>> choice = UnnormalisedTopK(k=2).select(torch.tensor([[0.0, 2.0, 1.0, 2.0]]).log())
    >>> choice.experts, choice.weights
    (tensor([[1, 3]]), tensor([[0.4000, 0.4000]]))
    """

    k: int = 2
    score: Literal["softmax", "sigmoid"] = "softmax"
    bias: tuple[float, ...] = ()
    groups: int = 1
    kept: int = 1
    judged_by: int = 2
    name: ClassVar[str] = "unnormalised_topk"
    normalised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", self.scored.bias)  # checks the fields too

    @property
    def scored(self) -> ScoredTopK:
        """The rule that chooses the same experts."""
        return ScoredTopK(**asdict(self))

    def check(self, experts: int) -> None:
        """Raise RouterError if the groups, their experts or the biases do not fit the number of experts."""
        self.scored.check(experts)

    def spec(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"rule": self.name, **asdict(self), "bias": list(self.bias)}

    def select(self, logits: Tensor) -> Choice:
        """The k best by score + bias, best first; ties go to the lowest id."""
        experts = self.scored.select(logits).experts
        return Choice(experts, self.weigh(logits, experts))

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Scores of the chosen, [T, k] float32."""
        return self.scored.scores(logits).gather(-1, experts)

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw k distinct experts per row, in order, [T, k] int64 (Gumbel top-k)."""
        return self.scored.sample(logits, noise)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """Log-probability [T] float32 of an ordered draw."""
        return self.scored.log_prob(logits, action)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy [T] float32 of the ordered draw, nats, as in top-k."""
        return self.scored.entropy(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability [T, N] float32 that the first draw is each expert."""
        return self.scored.probabilities(logits)

    def prefer(self, expert: int, experts: int) -> Tensor:
        """Only this expert has a score above 0."""
        return self.scored.prefer(expert, experts)

    def ranking(self, logits: Tensor) -> Tensor:
        """The scores that experts are chosen by, [T, N] float32."""
        return self.scored.ranking(logits)
