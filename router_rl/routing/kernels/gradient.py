"""The gradient of a gate in closed form, which the operator and its kernels use."""

from __future__ import annotations

import torch
from torch import Tensor

from .kernel_rule import GateRule, Routed

__all__ = ["gradients", "logits_gradient"]


def logits_gradient(
    grad_weights: Tensor, grad_logits: Tensor | None, routed: Routed, alive: Tensor | None, rule: GateRule
) -> Tensor:
    """Gradient [T, E] of the logits; 0 for rows that fell back, which the logits did not route.

    With `c` the chosen, `g` the gradient of the weights and `w` the weights over `scale`:
    renormalised softmax, `dz_c = scale * w_c (g_c - sum_j g_j w_j)`; the sigmoid's is that times
    `sigmoid(-z_c)`; as they are, `scale * g_c s_c (1 - s_c)` for the sigmoid, and for the softmax
    `scale * p_e ([e chosen] g_e - sum_j g_j p_j)` for every expert.

    Args:
        grad_weights: [T, k] float.
        grad_logits: [T, E] float or None.
        routed: what the gate returned.
        alive: [E] bool or None.
        rule: the gate's.
    """
    z = routed.logits if alive is None else routed.logits.masked_fill(~alive, float("-inf"))
    experts = routed.experts.long()
    chosen = z.gather(-1, experts)
    g = grad_weights.to(z.dtype) * rule.scale
    if rule.renormalise:
        w = routed.weights / rule.scale
        d = w * (g - (g * w).sum(dim=-1, keepdim=True))
        d = d * torch.sigmoid(-chosen) if rule.score == "sigmoid" else d
        dz = torch.zeros_like(z).scatter(-1, experts, d)
    elif rule.score == "sigmoid":
        s = chosen.sigmoid()
        dz = torch.zeros_like(z).scatter(-1, experts, g * s * (1 - s))
    else:
        p = z.softmax(dim=-1)
        p = p if alive is None else p.masked_fill(~alive, 0.0)  # NaN where no expert is alive
        dense = torch.zeros_like(z).scatter(-1, experts, g)
        dz = p * (dense - (dense * p).sum(dim=-1, keepdim=True))
    dz = dz if grad_logits is None else dz + grad_logits
    return dz.masked_fill(routed.fallback.unsqueeze(-1), 0.0)


def gradients(
    dz: Tensor, hidden: Tensor, weight: Tensor, fallback: Tensor, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the hidden states [T, H], the weight [E, H] and the bias [E], where needed.

    Args:
        dz: [T, E] float, of the logits.
        hidden: [T, H], the gate's input.
        weight: [E, H].
        fallback: [T] bool; such a row is left out, since 0 times what is not finite is not 0.
        needed: of the three.
    """
    of_hidden = (dz @ weight.to(dz.dtype)).to(hidden.dtype) if needed[0] else None
    of_weight = None
    if needed[1]:
        rows = hidden.to(dz.dtype).masked_fill(fallback.unsqueeze(-1), 0.0)
        of_weight = (dz.t() @ rows).to(weight.dtype)
    return of_hidden, of_weight, dz.sum(dim=0) if needed[2] else None
