"""The gate in whole-tensor torch: runs anywhere, compiles without a graph break, exports.

Unlike `eager`, nothing here reads a value in Python while torch compiles or exports, or on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..selection.topk import largest
from .kernel_rule import ABSENT, FALLBACK_LOGIT, Dispatch, GateRule, Routed

__all__ = ["dispatch", "gate", "gather", "logits_of", "scatter_back", "select"]

_INFINITY = float("inf")


def gate(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    correction: Tensor | None,
    alive: Tensor | None,
    rule: GateRule,
) -> Routed:
    """Route T rows.

    Args:
        hidden: [T, H] float, any strides.
        weight: [E, H] float, any strides.
        bias: [E] float or None.
        correction: [E] float or None, added to scores to choose by.
        alive: [E] bool or None, False where an expert may not be chosen.
        rule: what is done with the logits.

    Returns:
        weights and logits in float32 (float64 if hidden is), experts int64.
    """
    return select(logits_of(hidden, weight, bias), correction, alive, rule)


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x W^T + b`, [T, E], accumulated in float32, or in float64 if hidden is."""
    x, w, b = hidden, weight, bias
    if not x.dtype == w.dtype == torch.float32:  # `to` is slow even where it has no effect
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        x, w = x.to(dtype), w.to(dtype)
        b = None if b is None else b.to(dtype)
    return F.linear(x, w, b)


def select(logits: Tensor, correction: Tensor | None, alive: Tensor | None, rule: GateRule) -> Routed:
    """Choose and weight; as `gate`, from logits [T, E]."""
    finite = logits.abs().amax(dim=-1, keepdim=True) < _INFINITY
    is_fallback = torch.arange(logits.shape[1], device=logits.device) == rule.fallback
    z = torch.where(finite, logits, torch.where(is_fallback, FALLBACK_LOGIT, -FALLBACK_LOGIT))
    masked = z if alive is None else z.masked_fill(~alive, -_INFINITY)
    if rule.by_logit(correction is not None) and rule.groups == 1:
        rank, merit = masked, None
    else:
        scores = _scores(masked, rule, alive)
        merit = torch.where(scores > 0, scores, scores - ABSENT)
        merit = merit if correction is None else merit + correction
        rank = masked if rule.by_logit(correction is not None) else merit
    inside = None if rule.groups == 1 or merit is None else _inside(merit, rule)
    experts = _best(rank, inside, alive, rule.k)
    return Routed(_weigh(masked, experts, rule, alive), experts, z, ~finite.squeeze(-1))


def dispatch(experts: Tensor, count: int) -> Dispatch:
    """Sort slots by expert.

    Args:
        experts: [T, k] int, as `Routed.experts`.
        count: E.
    """
    slots = experts.flatten().long()
    order = torch.sort(slots, stable=True).indices
    counts = torch.zeros(count, dtype=torch.int64, device=slots.device)
    counts = counts.scatter_add(0, slots, torch.ones_like(slots))
    places = torch.empty_like(order).scatter(0, order, torch.arange(order.shape[0], device=slots.device))
    return Dispatch(
        counts.to(experts.dtype), order.to(experts.dtype), places.to(experts.dtype).view(experts.shape)
    )


def gather(hidden: Tensor, slots: Dispatch) -> Tensor:
    """Rows [T * k, H] in the order of their experts: row `order // k` at each place.

    Args:
        hidden: [T, H] float.
        slots: the slots by expert.
    """
    k = slots.places.shape[1]
    return hidden.index_select(0, torch.div(slots.order, k, rounding_mode="floor"))


def scatter_back(outputs: Tensor, weights: Tensor, slots: Dispatch) -> Tensor:
    """The experts' combined outputs of each row [T, H], `sum_j weights[t, j] * outputs[places[t, j]]`.

    Args:
        outputs: [T * k, H] float, of the rows of `gather`.
        weights: [T, k] float32.
        slots: the slots by expert.
    """
    # Sums in a fixed order, unlike an index_add of the slots, without copying the slots' rows.
    return F.embedding_bag(slots.places, outputs, mode="sum", per_sample_weights=weights.to(outputs.dtype))


def _scores(masked: Tensor, rule: GateRule, alive: Tensor | None) -> Tensor:
    if rule.score == "sigmoid":
        return masked.sigmoid()
    scores = masked.softmax(dim=-1)
    return scores if alive is None else scores.masked_fill(~alive, 0.0)  # NaN where no expert is alive


def _inside(merit: Tensor, rule: GateRule) -> Tensor:
    """Which experts [T, E] bool are in the groups kept; ties go to the lower group."""
    grouped = merit.unflatten(-1, (rule.groups, -1))
    best = _sum_of_best(grouped, rule.judged_by)
    # A group is kept if fewer than `kept` are better: comparing all with all is a pass that compiles into one
    # loop with what is around it, a top-k of eight is a call of its own.
    mine, other = best.unsqueeze(-1), best.unsqueeze(-2)
    name = torch.arange(rule.groups, device=best.device)
    better = (other > mine) | ((other == mine) & (name < name.unsqueeze(-1)))
    inside = better.sum(dim=-1) < rule.kept
    return inside.unsqueeze(-1).expand_as(grouped).flatten(-2)


def _sum_of_best(grouped: Tensor, count: int) -> Tensor:
    """The sum [T, groups] of the best of each group's merits [T, groups, n]."""
    if count > 2:
        return grouped.topk(count).values.sum(dim=-1)
    first = grouped.amax(dim=-1, keepdim=True)
    if count == 1:
        return first.squeeze(-1)
    top = grouped == first
    second = grouped.masked_fill(top, -_INFINITY).amax(dim=-1)
    first = first.squeeze(-1)
    return first + torch.where(top.sum(dim=-1) > 1, first, second)


def _best(rank: Tensor, inside: Tensor | None, alive: Tensor | None, k: int) -> Tensor:
    """Ids [T, k]: the groups kept, then the others, by rank; then the dead; ties by increasing id."""
    if alive is None:
        # The kept groups together have k experts, so no other is needed.
        return largest(rank if inside is None else rank.masked_fill(~inside, -_INFINITY), k)
    tier = alive.long().expand(rank.shape)
    tier = tier if inside is None else tier + (inside & alive)
    order = torch.sort(rank.masked_fill(~alive, -_INFINITY), dim=-1, descending=True, stable=True).indices
    tiers = tier.gather(-1, order)
    return order.gather(-1, torch.sort(tiers, dim=-1, descending=True, stable=True).indices[..., :k])


def _weigh(masked: Tensor, experts: Tensor, rule: GateRule, alive: Tensor | None) -> Tensor:
    """Weights [T, k] of experts chosen; 0 for those that are not alive."""
    if rule.renormalise:
        # In logarithms, so that scores too small for float32 still have a ratio.
        chosen = masked.gather(-1, experts)
        chosen = F.logsigmoid(chosen) if rule.score == "sigmoid" else chosen
        weights = chosen.softmax(dim=-1)
    else:
        weights = _scores(masked, rule, alive).gather(-1, experts)
    weights = weights if alive is None else weights.masked_fill(~alive[experts], 0.0)
    return weights if rule.scale == 1 else weights * rule.scale
