"""Balance a trained router without touching its weights: a bias on each expert's logit, moved by its load.

    b_e <- b_e - gamma * sign(f_e - target_e)

after every look at the loads f of the training rows: the auxiliary-loss-free balancing of DeepSeek-V3 (Wang
et al. 2024, alg. 1, https://arxiv.org/abs/2408.15664), here applied once training is over. We differ: gamma
falls to zero so that the bias settles; the target lies between the router's own shares and even ones, so that
there is a dial; and where several experts run, they are weighed by the biased logits, since a stock gate has
no second set.
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
_GAMMA = 0.1  # of the first step, in standard deviations of the logits: 20 of them in all


def rebalanced(router: Router, features: Tensor, strength: float) -> Router:
    """A copy of a router whose biases bring its loads to a target on some rows.

    Args:
        router: with a linear or MLP scorer of features alone, and one logit an expert.
        features: [T, D] float, training rows.
        strength: 0 keeps the router's own shares, 1 makes them even.

    Raises:
        InputError: the strength is not in [0, 1].
        RouterError: the router has no bias to move, or its logits are not its experts'.
    """
    if not 0.0 <= strength <= 1.0:
        raise InputError("strength", strength, "not in [0, 1]", "use 0 for no balancing, 1 for even shares")
    found = copy.deepcopy(router)
    scorer = found.scorer
    experts = len(router.experts)
    if router.state or router.rule.outputs(experts) != experts:
        raise RouterError("only a router of features alone with one logit an expert can be rebalanced")
    with torch.no_grad():
        logits, _ = router.logits(features)
        own = _loads(router.rule, logits)
        bias = balancing_bias(logits, router.rule, (1.0 - strength) * own + strength / experts)
        _bias_of(scorer).add_(bias)
    return found.eval()


def balancing_bias(logits: Tensor, rule: Selection, target: Tensor) -> Tensor:
    """Bias [N] float32, mean 0, that brings the rule's loads on some rows to a target.

    Args:
        logits: [T, N] float.
        rule: logits to experts.
        target: [N] float, shares; sums to 1.
    """
    bias = torch.zeros_like(logits[0])
    gamma = _GAMMA * float(logits.std(dim=0).mean().clamp(min=1e-6))
    for step in range(_STEPS):
        error = _loads(rule, logits + bias) - target
        bias = bias - gamma * (1.0 - step / _STEPS) * error.sign()
    return bias - bias.mean()


def _loads(rule: Selection, logits: Tensor) -> Tensor:
    """Share of decisions [N] that each expert takes."""
    return shares(rule.select(logits).experts, logits.shape[-1]).mean(dim=0)


def _bias_of(scorer: Scorer) -> Tensor:
    bias = scorer.output_bias()
    if bias is None:
        raise RouterError(f"a {scorer.kind} scorer has no output bias to move; use a linear or an MLP one")
    return bias
