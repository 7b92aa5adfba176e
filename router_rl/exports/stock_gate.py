"""A router folded into the gate that mixture-of-experts runtimes have built in, or a reason why not.

The gate is `z = x W^T + b`, a score (softmax or sigmoid) of z, the k largest of score + selection bias within
the best groups, weighted by their scores over the sum of the chosen. Only a linear scorer is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from ..routing import ConstantScorer, Hard, LinearScorer, Router, RouterError, ScoredTopK, Scorer, Soft, TopK
from .layer_module import require_layer

__all__ = ["StockGate", "stock_gate"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StockGate:
    """A linear gate.

    Attributes:
        weight: W, [N, D] float32.
        bias: b, [N] float32.
        k: experts chosen.
        score: of z.
        selection_bias: added to the score to choose, not to weigh, [N] float32; None for none.
        groups: of experts, by rising id.
        kept: groups whose experts may be chosen.
        judged_by: a group is as good as the sum of this many of its best experts.
    """

    weight: Tensor
    bias: Tensor
    k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    selection_bias: Tensor | None = None
    groups: int = 1
    kept: int = 1
    judged_by: int = 1


def stock_gate(router: Router, runtime: str) -> StockGate:
    """Fold a router, standardisation and experts that are never chosen included.

    Args:
        router: linear, of hidden states alone.
        runtime: for whom, in the errors.

    Raises:
        RouterError: it does not fold; says what to do.
    """
    require_layer(router, runtime)
    scorer = cast(Scorer, router.folded().scorer)
    if isinstance(scorer, LinearScorer):
        weight, bias = scorer.weight.detach().clone(), scorer.bias.detach().clone()
    elif isinstance(scorer, ConstantScorer):
        weight = torch.zeros(scorer.experts, scorer.inputs)
        bias = scorer.logits.detach().clone()
    else:
        raise RouterError(
            f"{runtime} has a linear gate, and an {scorer.spec()['kind']} router does not fold into one: "
            "export it as a module (vllm, sglang, onnx, pt2), or distil it into a linear router (export "
            "--distil)"
        )
    rule = router.rule
    if not isinstance(rule, Hard | TopK | Soft | ScoredTopK):
        raise RouterError(
            f"{runtime} has no {rule.name} selection: export it as a module (vllm, sglang, onnx, pt2), or "
            "train with hard or topk"
        )
    if router.allowed is not None:
        weight[~router.allowed] = 0.0
        bias[~router.allowed] = -2e4
    if not isinstance(rule, ScoredTopK):
        return StockGate(weight=weight, bias=bias, k=rule.k)
    if rule.score == "relu":
        raise RouterError(f"{runtime} has no ReLU score: export it as a module (vllm, sglang, onnx, pt2)")
    selection_bias = torch.tensor(rule.bias or [0.0] * len(router.experts))
    if router.allowed is not None:
        selection_bias[~router.allowed] -= 1e3  # as the rule itself ranks an expert whose score is 0
    return StockGate(
        weight=weight,
        bias=bias,
        k=rule.k,
        score=rule.score,
        selection_bias=selection_bias if bool(selection_bias.any()) else None,
        groups=rule.groups,
        kept=rule.kept,
        judged_by=rule.judged_by,
    )
