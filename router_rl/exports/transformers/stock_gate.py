"""A router as the weights of a stock gate: `linear (+ bias) -> score -> top-k -> renormalise`, or refused.

Standardisation, the gain of an RMSNorm in front and a temperature are linear, so they fold into the weight
exactly. A router of another form is refused; `distil` approximates one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ...routing import Hard, Router, RouterError, ScoredTopK, TopK

__all__ = ["Gate", "LayerRouter", "fold"]

LayerRouter: TypeAlias = "Router | tuple[Tensor, Tensor | None]"
"""A layer's router: a `Router`, or a weight [E, H] and a bias [E] or None, chosen by softmax top-k."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The weights of a stock gate and what it must compute with them.

    Attributes:
        weight: [E, H] float32, on the hidden state that enters the mixture, after the layer's norm.
        bias: [E] float32, on the logits; None for none.
        selection_bias: [E] float32, added to the scores to choose experts, not to weight them; None for none.
        k: experts per token; None: the host's own number.
        score: weights the chosen experts, and is renormalised over them.
        groups: number of groups that the experts form.
        kept: number of groups whose experts may be chosen.
    """

    weight: Tensor
    bias: Tensor | None = None
    selection_bias: Tensor | None = None
    k: int | None = None
    score: Literal["softmax", "sigmoid"] = "softmax"
    groups: int = 1
    kept: int = 1


def fold(
    router: LayerRouter,
    *,
    gain: Tensor | None = None,
    temperature: float = 1.0,
    otherwise: str = "distil it, or swap it into a loaded model",
) -> Gate:
    """The gate that computes the same as a router.

    Args:
        router: with a linear scorer, features alone, and `hard`, `topk` or `scored_topk` selection; or a
            weight and a bias.
        gain: [H], multiplied with the gate's input before the router; for a router trained behind an RMSNorm
            of its own, the ratio of that norm's gain to the host's.
        temperature: divides the logits.
        otherwise: what to do with a router that does not fold, for the error.

    Returns:
        the gate, in float32; worked in float64.

    Raises:
        RouterError: the router is not linear, or selects or weighs in another way.
    """
    if not (temperature > 0 and temperature < float("inf")):
        raise RouterError(f"temperature={temperature!r} is not a positive number; logits are divided by it")
    gate = _of_router(router, otherwise) if isinstance(router, Router) else _of_tensors(*router)
    weight = gate.weight.double()
    if gain is not None:
        if gain.shape != weight.shape[1:]:
            raise RouterError(f"gain is {list(gain.shape)}, but the router takes {weight.shape[1]} features")
        weight = weight * gain.double()
    bias = None if gate.bias is None else (gate.bias.double() / temperature).float()
    folded = (weight / temperature).float()
    if not (folded.isfinite().all() and (bias is None or bias.isfinite().all())):
        raise RouterError(
            "the router's weights are not finite; train it again, or look at gain and temperature"
        )
    return Gate(
        weight=folded,
        bias=bias,
        selection_bias=gate.selection_bias,
        k=gate.k,
        score=gate.score,
        groups=gate.groups,
        kept=gate.kept,
    )


def _of_tensors(weight: Tensor, bias: Tensor | None) -> Gate:
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [list(weight.shape), None if bias is None else list(bias.shape)]
        raise RouterError(f"weight and bias are {shapes}; they must be [E, H] and [E]")
    return Gate(
        weight=weight.detach().float().cpu(), bias=None if bias is None else bias.detach().float().cpu()
    )


def _of_router(router: Router, otherwise: str) -> Gate:
    def refuse(what: str) -> RouterError:
        return RouterError(f"{what} does not fold into a stock gate; {otherwise}")

    linear = router.scorer.linear_form()
    if linear is None:
        raise refuse(f"a {type(router.scorer).__name__}")
    if router.state:
        names = ", ".join(part.name for part in router.state)
        raise refuse(f"a router whose input holds {names} beside the features")
    if router.stochastic:
        raise refuse("a router that draws its experts")
    if router.allowed is not None:
        raise refuse("a router that excludes experts")
    rule = router.rule
    weight, bias = linear.weight.cpu(), linear.bias.cpu()
    nonzero_bias = bias if bias.any() else None
    if isinstance(rule, Hard | TopK):
        return Gate(weight=weight, bias=nonzero_bias, k=rule.k)
    if isinstance(rule, ScoredTopK) and rule.score in ("softmax", "sigmoid"):
        if rule.groups > 1 and rule.judged_by != 2:
            raise refuse(f"ranking groups by their best {rule.judged_by} experts")
        return Gate(
            weight=weight,
            bias=nonzero_bias,
            selection_bias=torch.tensor(rule.bias) if any(rule.bias) else None,
            k=rule.k,
            score=rule.score,  # pyright: ignore[reportArgumentType]
            groups=rule.groups,
            kept=rule.kept,
        )
    raise refuse(f"{rule.name} selection")
