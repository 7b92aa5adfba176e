"""Balance the load of a trained router by a bias on each expert's logit; the weights do not change.

    b_e <- b_e - gamma * sign(f_e - target_e)

after each measurement of the loads f on the training rows. This is the auxiliary-loss-free balancing of
DeepSeek-V3 (Wang et al. 2024, alg. 1, https://arxiv.org/abs/2408.15664), applied after training. Differences:
gamma decays to zero, so that the bias converges; the target is interpolated between the router's own shares
and uniform ones; and if several experts are selected, their weights come from the biased logits, because a
stock gate has no second set of logits.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from envs.reward import shares
from experts import InputError

from ...routing import Router, RouterError, Scorer, Selection

__all__ = ["balancing_bias", "rebalanced"]

_STEPS = 400
_GAMMA = 0.1  # first step, in standard deviations of the logits; all steps add up to 20


def rebalanced(router: Router, features: Tensor, strength: float) -> Router:
    """Return a copy of a router whose output biases bring its loads to a target on the given rows.

    Args:
        router: with a linear or MLP scorer that has no state inputs and one logit per expert.
        features: [T, D] float, training rows.
        strength: from 0 (the router's own shares) to 1 (uniform shares).

    Raises:
        InputError: the strength is not in [0, 1].
        RouterError: the scorer has no output bias, or not one logit per expert.
    """
    if not 0.0 <= strength <= 1.0:
        raise InputError(
            "strength", strength, "not in [0, 1]", "use 0 for no balancing, 1 for uniform shares"
        )
    balanced = copy.deepcopy(router)
    scorer = balanced.scorer
    experts = len(router.experts)
    if router.state or router.rule.outputs(experts) != experts:
        raise RouterError("rebalancing needs a router without state inputs and with one logit per expert")
    with torch.no_grad():
        logits, _ = router.logits(features)
        own = _loads(router.rule, logits)
        bias = balancing_bias(logits, router.rule, (1.0 - strength) * own + strength / experts)
        _bias_of(scorer).add_(bias)
    return balanced.eval()


def balancing_bias(logits: Tensor, rule: Selection, target: Tensor) -> Tensor:
    """Return the bias [N] float32, with mean 0, that brings a rule's loads on the given rows to a target.

    Args:
        logits: [T, N] float.
        rule: selection rule.
        target: [N] float, shares of the decisions; sums to 1.
    """
    bias = torch.zeros_like(logits[0])
    gamma = _GAMMA * float(logits.std(dim=0).mean().clamp(min=1e-6))
    for step in range(_STEPS):
        error = _loads(rule, logits + bias) - target
        bias = bias - gamma * (1.0 - step / _STEPS) * error.sign()
    return bias - bias.mean()


def _loads(rule: Selection, logits: Tensor) -> Tensor:
    """Return the share of decisions [N] that each expert receives."""
    return shares(rule.select(logits).experts, logits.shape[-1]).mean(dim=0)


def _bias_of(scorer: Scorer) -> Tensor:
    bias = scorer.output_bias()
    if bias is None:
        raise RouterError(f"a {scorer.kind} scorer has no output bias; use a linear or an MLP scorer")
    return bias
