"""What a policy earns in expectation, and its gradient; no action is drawn, every outcome being known.

Where the actions of a rule can be listed, `sum_a pi(a) u(a)` is differentiated as it stands: the all-action
policy gradient (Sutton et al. 2000, theorem 1; Allen et al. 2017, https://arxiv.org/abs/1709.00503), which
has no variance over actions. Where they cannot (soft selection, many ordered sets), actions are drawn and
each is held against the others' mean (leave one out; Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE).
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

__all__ = ["Expectation", "Payment", "actions_of", "expected"]

_MOST_ACTIONS = 512
_DRAWS = 8
_SHARPNESS = 0.1  # sigmoid scores lie within 1 of each other; a policy must be able to be sure


@dataclass(frozen=True, eq=False)
class Payment:
    """What a learner is paid for the experts a decision runs; load is charged elsewhere.

    Attributes:
        outcomes: the training rows.
        compute_weight: utility per unit of compute; a tensor [T] float32 has one for each training query,
            and may be changed in place between calls.
        smoothing: share of the reward that is the probability given to the right class, in place of the
            0/1 outcome; without effect where the table has no class probabilities.
    """

    outcomes: Outcomes
    compute_weight: float | Tensor
    smoothing: float = 0.0

    @cached_property
    def quality(self) -> Tensor:
        """What every single expert [T, N] float32 earns on every query before compute is charged."""
        outcomes = self.outcomes
        if not self.smoothing or outcomes.probabilities is None or outcomes.label is None:
            return outcomes.quality
        right = outcomes.label.reshape(-1, 1, 1).expand(-1, outcomes.experts, 1)
        given = outcomes.probabilities.gather(-1, right).squeeze(-1)
        return torch.lerp(outcomes.quality, given, self.smoothing)

    @cached_property
    def utility(self) -> Tensor:
        """Utility [T, N] float32 of every single expert on every query; only of one weight for them all."""
        assert not isinstance(self.compute_weight, Tensor)  # a table would not see it change
        return torch.sub(self.quality, self.outcomes.compute, alpha=self.compute_weight)

    def each(self, row: Tensor) -> Tensor:
        """Utility [B, N] float32 of every single expert on queries row [B] int64."""
        price = self.compute_weight
        if isinstance(price, Tensor):
            weight = price.index_select(0, row).unsqueeze(-1)
            compute = self.outcomes.compute.index_select(0, row)
            quality = self.quality.index_select(0, row)
            return utility({"quality": quality, "compute": compute}, {"compute": weight})
        return self.utility.index_select(0, row)

    def of(self, row: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Utility [B] float32 of running experts [B, k] with weights [B, k]; the id N is nobody."""
        if experts.shape[-1] == 1:
            return self.each(row).gather(-1, experts).squeeze(-1)
        outcomes = self.outcomes
        quality, compute = mixture(outcomes, row, experts, weights)
        if self.smoothing and outcomes.probabilities is not None and outcomes.label is not None:
            someone = experts.clamp(max=outcomes.experts - 1)  # nobody weighs 0
            right = outcomes.label[row].unsqueeze(-1)
            given = (weights * outcomes.probabilities[row.unsqueeze(-1), someone, right]).sum(dim=-1)
            quality = torch.lerp(quality, given, self.smoothing)
        price = self.compute_weight
        weight = price[row] if isinstance(price, Tensor) else price
        return utility({"quality": quality, "compute": compute}, {"compute": weight})


class Expectation(NamedTuple):
    """What a policy earns.

    Attributes:
        utility: [B] float32, expected; its gradient is the policy gradient.
        share: [B, N] float32, how an expected decision divides among the experts.
        entropy: [B] float32, of the draw, nats.
    """

    utility: Tensor
    share: Tensor
    entropy: Tensor


def expected(
    rule: Selection, logits: Tensor, payment: Payment, row: Tensor, generator: torch.Generator
) -> Expectation:
    """Expected utility and share of a policy on B queries.

    Args:
        rule: draws actions from logits.
        logits: [B, outputs] float.
        payment: what actions earn.
        row: [B] int64, the queries.
        generator: of the draws, where actions cannot be listed.
    """
    experts = payment.outcomes.experts
    if isinstance(rule, ScoredTopK) and rule.k == 1:  # the same choices, by logits that can be told apart
        rule, logits = Hard(), rule.ranking(logits) / (_SHARPNESS if rule.score == "sigmoid" else 1.0)
    if isinstance(rule, Hard | Hierarchical):
        hard = isinstance(rule, Hard)
        log_p = log_softmax(logits) if hard else rule.leaf_log_probabilities(logits)
        p = log_p.exp()
        return Expectation((p * payment.each(row)).sum(dim=-1), p, -(p * log_p).sum(dim=-1))
    actions = actions_of(rule, experts)
    if actions is None:
        return _drawn(rule, logits, payment, row, generator)
    actions = actions.to(logits.device).expand(len(row), -1, -1)
    wide = logits.unsqueeze(1).expand(-1, actions.shape[1], -1)
    log_chance = rule.log_prob(wide, actions)  # [B, A]
    chance = log_chance.exp()
    chosen, weights = rule.choice(wide, actions)
    flat = (row.repeat_interleave(actions.shape[1]), chosen.flatten(0, 1), weights.flatten(0, 1))
    utility = payment.of(*flat).reshape(chance.shape)
    share = (chance.unsqueeze(-1) * shares(actions, experts)).sum(dim=1)
    return Expectation((chance * utility).sum(dim=-1), share, -(chance * log_chance).sum(dim=-1))


@lru_cache(maxsize=16)
def actions_of(rule: Selection, experts: int) -> Tensor | None:
    """Every action [A, k] int64 of a rule whose actions are ordered experts, or None if they are too many.

    >>> from router_rl.routing import TopK
    >>> actions_of(TopK(k=2), 3).tolist()
    [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    """
    if rule.name not in ("topk", "adaptive_k"):
        return None
    sizes = rule.sizes(experts)
    if sum(perm(experts, size) for size in sizes) > _MOST_ACTIONS:
        return None
    nobody = [experts] * rule.k
    listed = [[*chosen, *nobody][: rule.k] for size in sizes for chosen in permutations(range(experts), size)]
    return torch.tensor(listed)


def _drawn(
    rule: Selection, logits: Tensor, payment: Payment, row: Tensor, generator: torch.Generator
) -> Expectation:
    """The mean over draws; its gradient is the score function's, each draw against the others' mean."""
    draws, experts = _DRAWS, payment.outcomes.experts
    wide = logits.expand(draws, *logits.shape)
    with torch.no_grad():
        actions = rule.sample(wide, rule.draw_noise((draws, *logits.shape), generator))
    chosen, weights = rule.choice(wide, actions)
    utility = payment.of(row.repeat(draws), chosen.flatten(0, 1), weights.flatten(0, 1)).reshape(draws, -1)
    share = shares(chosen, experts)
    score = rule.log_prob(wide, actions)
    score = score - score.detach()  # 0, with the score function as its gradient

    def with_gradient(value: Tensor, score: Tensor) -> Tensor:
        advantage = (value.detach() - value.detach().mean(dim=0)) * (draws / (draws - 1))
        return (value + advantage * score).mean(dim=0)

    entropy = rule.entropy(logits)
    return Expectation(with_gradient(utility, score), with_gradient(share, score.unsqueeze(-1)), entropy)
