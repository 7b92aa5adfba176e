"""The operator for an exported router: `exports/standalone.py`, made for torch alone, calls it on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .kernel_rule import GateRule
from .operator import route

__all__ = ["kernels_for", "route_exported"]

_BARRED = -2e4  # the logit of an expert that is not allowed, as in `Router`


def kernels_for(router: Any) -> Callable[[Any, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]] | None:
    """`route_exported` with the rule of a router, or None where the kernels do not have its rule or size.

    Args:
        router: a `StandaloneRouter`.
    """
    rule = router.rule
    known = rule["rule"] in ("hard", "topk") or (rule["rule"] == "scored_topk" and rule["score"] != "relu")
    if router.kind != "linear" or not known:
        return None
    experts, hidden = router.parts[0].shape
    if router.k > 16 or experts > 512 or hidden > 16_384:
        return None
    names = ("score", "groups", "kept", "judged_by")
    given: dict[str, Any] = {name: rule[name] for name in names if name in rule}
    given["judged_by"] = min(given.get("judged_by", 1), experts // given.get("groups", 1))
    return partial(route_exported, GateRule(k=router.k, fallback=router.fallback, **given))


def route_exported(rule: GateRule, router: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Route hidden states [T, D] by one call of the operator.

    Args:
        rule: the router's.
        router: a linear `StandaloneRouter`.
        hidden: [T, D] float; on a CPU Triton must interpret.

    Returns:
        what the router's own `forward` does: experts [T, k] int64, weights [T, k] float32, logits [T, N]
        float32 and fallback [T] bool.
    """
    weight, bias = router.parts
    alive, allowed, correction = (
        router.alive,
        router.allowed,
        router.bias if router.rule.get("bias") else None,
    )
    may = alive if allowed is None else alive & allowed
    left = may.any()
    may = torch.where(left, may, router.only >= 0)  # the fallback alone
    path = "auto" if hidden.is_cuda else "triton"
    routed = route(hidden, weight, bias, correction, may, rule=rule, path=path)
    logits = torch.where(routed.fallback.unsqueeze(-1), router.only, routed.logits)
    logits = logits if allowed is None else logits.masked_fill(~allowed, _BARRED)
    logits = torch.where(left, logits.masked_fill(~alive, float("-inf")), router.only)
    return routed.experts, routed.weights, logits, routed.fallback | ~left
