"""Expected utility of a policy and its gradient, from the known outcome of every expert.

If the actions of a selection rule can be enumerated, `sum_a pi(a) u(a)` is differentiated directly. This is
the all-action policy gradient (Sutton et al. 2000, theorem 1; Allen et al. 2017,
https://arxiv.org/abs/1709.00503); it has no variance over actions. Otherwise (soft selection, many ordered
sets) actions are sampled, with the mean of the other samples as the baseline (leave one out; Kool et al.
2019, https://openreview.net/forum?id=r1lgTGL5DE).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations
from math import perm
from typing import NamedTuple

import torch
from torch import Tensor

from envs import Outcomes
from envs.reward import mixture, shares, utility

from ...routing import Hard, Hierarchical, ScoredTopK, Selection
from ...routing.selection.log_softmax import log_softmax

__all__ = ["Expectation", "RewardTable", "actions_of", "expected_utility"]

_MAX_ACTIONS = 512
_SAMPLES = 8
_KEPT = 2**27  # utilities kept, half a gigabyte; of larger tables they are computed for each batch
_SHARPNESS = (
    0.1  # sigmoid scores differ by less than 1; dividing by this lets the policy become deterministic
)


@dataclass(frozen=True, eq=False)
class RewardTable:
    """Rewards of all experts on the training rows: quality minus compute penalty, without load penalty.

    Attributes:
        outcomes: the training rows.
        compute_weight: utility per unit of compute: one number, or a tensor [T] float32 with one value per
            training row, which can be changed in place between calls.
        smoothing: share of the reward given by the correct class's probability instead of 0/1 correctness. It
            has no effect if the table has no class probabilities.
    """

    outcomes: Outcomes
    compute_weight: float | Tensor
    smoothing: float = 0.0

    @cached_property
    def smoothed(self) -> Outcomes:
        """The training rows with smoothing."""
        return self.outcomes.smoothed(self.smoothing)

    @cached_property
    def quality(self) -> Tensor:
        """Quality [T, N] float32 of every expert on every training row, with smoothing."""
        return self.smoothed.quality

    @cached_property
    def utility(self) -> Tensor:
        """Utility [T, N] float32 of every expert on every training row, under one compute weight."""
        assert not isinstance(self.compute_weight, Tensor)  # the cached table would not follow changes
        return torch.sub(self.quality, self.outcomes.compute, alpha=self.compute_weight)

    def rows(self, row: Tensor) -> Tensor:
        """Return the utility [B, N] float32 of every single expert on the rows [B] int64."""
        compute_weight = self.compute_weight
        if isinstance(compute_weight, Tensor):
            weight = compute_weight.index_select(0, row).unsqueeze(-1)
            compute = self.outcomes.compute.index_select(0, row)
            quality = self.quality.index_select(0, row)
            return utility({"quality": quality, "compute": compute}, {"compute": weight})
        if self.quality.numel() > _KEPT:
            quality, compute = self.quality.index_select(0, row), self.outcomes.compute.index_select(0, row)
            return torch.sub(quality, compute, alpha=compute_weight)
        return self.utility.index_select(0, row)

    def mixture(self, row: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Return the utility [B] float32 of selecting several experts per query.

        Args:
            row: [B] int64, training rows.
            experts: [B, k] int64; the id N means no expert.
            weights: [B, k] float32, mixture weights.
        """
        if experts.shape[-1] == 1:
            return self.rows(row).gather(-1, experts).squeeze(-1)
        quality, compute = mixture(self.smoothed, row, experts, weights)
        compute_weight = self.compute_weight
        weight = compute_weight[row] if isinstance(compute_weight, Tensor) else compute_weight
        return utility({"quality": quality, "compute": compute}, {"compute": weight})


class Expectation(NamedTuple):
    """Expected utility, expert shares and entropy of a policy.

    Attributes:
        utility: [B] float32, expected utility; its gradient is the policy gradient.
        share: [B, N] float32, expected share of the decision that each expert receives.
        entropy: [B] float32, entropy of the action distribution, in nats.
    """

    utility: Tensor
    share: Tensor
    entropy: Tensor


def expected_utility(
    rule: Selection, logits: Tensor, rewards: RewardTable, row: Tensor, generator: torch.Generator
) -> Expectation:
    """Return the expected utility and expert shares of a policy on B queries.

    Args:
        rule: selection rule, which defines the action distribution.
        logits: [B, outputs] float.
        rewards: utility of the actions.
        row: [B] int64, training rows.
        generator: random generator, used only if actions cannot be enumerated.
    """
    experts = rewards.outcomes.experts
    if isinstance(rule, ScoredTopK) and rule.k == 1:  # selects the same experts, with logits of larger range
        rule, logits = Hard(), rule.ranking(logits) / (_SHARPNESS if rule.score == "sigmoid" else 1.0)
    if isinstance(rule, Hard | Hierarchical):
        hard = isinstance(rule, Hard)
        log_p = log_softmax(logits) if hard else rule.leaf_log_probabilities(logits)
        p = log_p.exp()
        return Expectation((p * rewards.rows(row)).sum(dim=-1), p, -(p * log_p).sum(dim=-1))
    actions = actions_of(rule, experts)
    if actions is None:
        return _sampled(rule, logits, rewards, row, generator)
    actions = actions.to(logits.device).expand(len(row), -1, -1)
    wide = logits.unsqueeze(1).expand(-1, actions.shape[1], -1)
    log_probability = rule.log_prob(wide, actions)  # [B, A]
    probability = log_probability.exp()
    selected, weights = rule.choice(wide, actions)
    flat = (row.repeat_interleave(actions.shape[1]), selected.flatten(0, 1), weights.flatten(0, 1))
    utility = rewards.mixture(*flat).reshape(probability.shape)
    share = (probability.unsqueeze(-1) * shares(actions, experts)).sum(dim=1)
    entropy = -(probability * log_probability).sum(dim=-1)
    return Expectation((probability * utility).sum(dim=-1), share, entropy)


@lru_cache(maxsize=16)
def actions_of(rule: Selection, experts: int) -> Tensor | None:
    """Return all actions of a rule that selects ordered experts, or None if there are more than 512.

    Args:
        rule: the selection rule.
        experts: N.

    Returns:
        [A, k] int64, expert ids; the id N means no expert.

    >>> from router_rl.routing import TopK
    >>> actions_of(TopK(k=2), 3).tolist()
    [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    """
    if rule.name not in ("topk", "adaptive_k"):
        return None
    sizes = rule.sizes(experts)
    if sum(perm(experts, size) for size in sizes) > _MAX_ACTIONS:
        return None
    no_expert = [experts] * rule.k
    listed = [[*ids, *no_expert][: rule.k] for size in sizes for ids in permutations(range(experts), size)]
    return torch.tensor(listed)


def _sampled(
    rule: Selection, logits: Tensor, rewards: RewardTable, row: Tensor, generator: torch.Generator
) -> Expectation:
    """Estimate the expectation by sampling, with a leave-one-out baseline."""
    samples, experts = _SAMPLES, rewards.outcomes.experts
    wide = logits.expand(samples, *logits.shape)
    with torch.no_grad():
        actions = rule.sample(wide, rule.draw_noise((samples, *logits.shape), generator))
    selected, weights = rule.choice(wide, actions)
    utility = rewards.mixture(row.repeat(samples), selected.flatten(0, 1), weights.flatten(0, 1))
    utility = utility.reshape(samples, -1)
    share = shares(selected, experts)
    score = rule.log_prob(wide, actions)
    score = score - score.detach()  # value 0, gradient of the score function

    def with_gradient(value: Tensor, score: Tensor) -> Tensor:
        advantage = (value.detach() - value.detach().mean(dim=0)) * (samples / (samples - 1))
        return (value + advantage * score).mean(dim=0)

    entropy = rule.entropy(logits)
    return Expectation(with_gradient(utility, score), with_gradient(share, score.unsqueeze(-1)), entropy)
