"""Fold a router into the weights of a stock gate: `linear (+ bias) -> score -> top-k -> renormalise`.

Standardisation, the gain of a preceding RMSNorm and a temperature are linear, so they fold into the weights
exactly. Other routers raise an error; `distil` approximates them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ...routing import Hard, Router, RouterError, ScoredTopK, TopK, UnnormalisedTopK

__all__ = ["Gate", "LayerRouter", "fold"]

LayerRouter: TypeAlias = "Router | tuple[Tensor, Tensor | None]"
"""A layer's router: a `Router`, or a weight [E, H] and a bias [E] or None with softmax top-k selection."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The weights of a stock gate and its selection rule.

    Attributes:
        weight: [E, H] float32, for the hidden state after the layer's norm.
        bias: [E] float32, added to the logits; None for none.
        selection_bias: [E] float32, added to the scores to choose experts, not to weight them; None for none.
        k: experts per token; None: the host's own number.
        score: function of the logits, which gives the chosen experts' weights.
        groups: number of groups of experts.
        kept: number of groups whose experts may be chosen.
        normalised: whether the weights of the chosen experts sum to 1; else they are their scores.
    """

    weight: Tensor
    bias: Tensor | None = None
    selection_bias: Tensor | None = None
    k: int | None = None
    score: Literal["softmax", "sigmoid"] = "softmax"
    groups: int = 1
    kept: int = 1
    normalised: bool = True


def fold(
    router: LayerRouter,
    *,
    gain: Tensor | None = None,
    temperature: float = 1.0,
    otherwise: str = "distil it, or swap it into a loaded model",
) -> Gate:
    """Return the gate that computes the same function as a router.

    Args:
        router: a router with a linear scorer that reads only features, and `hard`, `topk`, `scored_topk`
            or `unnormalised_topk` selection; or a weight and a bias.
        gain: [H], multiplies the gate's input before the router. For a router that was trained on the output
            of its own RMSNorm: the gain of that norm divided by the gain of the host's.
        temperature: divides the logits.
        otherwise: advice for a router that does not fold, for the error.

    Returns:
        the gate in float32, computed in float64.

    Raises:
        RouterError: the router is not linear, or a stock gate cannot select or weight as it does.
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
            "the router's weights are not finite; train it again, or check gain and temperature"
        )
    return replace(gate, weight=folded, bias=bias)


def _of_tensors(weight: Tensor, bias: Tensor | None) -> Gate:
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [list(weight.shape), None if bias is None else list(bias.shape)]
        raise RouterError(f"weight and bias are {shapes}; they must be [E, H] and [E]")
    return Gate(
        weight=weight.detach().float().cpu(), bias=None if bias is None else bias.detach().float().cpu()
    )


def _of_router(router: Router, otherwise: str) -> Gate:
    def refuse(subject: str) -> RouterError:
        return RouterError(f"{subject} does not fold into a stock gate; {otherwise}")

    linear = router.scorer.linear_form()
    if linear is None:
        raise refuse(f"a {type(router.scorer).__name__}")
    if router.state:
        names = ", ".join(part.name for part in router.state)
        raise refuse(f"a router with the extra inputs {names}")
    if router.stochastic:
        raise refuse("a stochastic router")
    if router.allowed is not None:
        raise refuse("a router that excludes experts")
    rule = router.rule
    weight, bias = linear.weight.cpu(), linear.bias.cpu()
    nonzero_bias = bias if bias.any() else None
    if isinstance(rule, Hard | TopK):
        return Gate(weight=weight, bias=nonzero_bias, k=rule.k)
    if isinstance(rule, ScoredTopK | UnnormalisedTopK) and rule.score in ("softmax", "sigmoid"):
        if rule.groups > 1 and rule.judged_by != 2:
            raise refuse(f"a router that ranks groups by their best {rule.judged_by} experts")
        return Gate(
            weight=weight,
            bias=nonzero_bias,
            selection_bias=torch.tensor(rule.bias) if any(rule.bias) else None,
            k=rule.k,
            score=rule.score,  # pyright: ignore[reportArgumentType]
            groups=rule.groups,
            kept=rule.kept,
            normalised=rule.normalised,
        )
    raise refuse(f"a router with {rule.name} selection")
