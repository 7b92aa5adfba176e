"""The reference: a gate row by row and expert by expert, in double precision. Slow and simple."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .kernel_rule import ABSENT, FALLBACK_LOGIT, Dispatch, GateRule, Routed

__all__ = ["dispatch", "gate", "gather", "scatter_back", "select"]


def gate(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    correction: Tensor | None,
    alive: Tensor | None,
    rule: GateRule,
) -> Routed:
    """Logits `x W^T + b` in float64, then `select`.

    Args:
        hidden: [T, H] float.
        weight: [E, H] float.
        bias: [E] float or None.
        correction: [E] float or None, added to scores to choose by.
        alive: [E] bool or None, False where an expert may not be chosen.
        rule: what is done with the logits.

    Returns:
        weights and logits float64, experts int64.
    """
    logits = [
        [
            sum(x * w for x, w in zip(row, column, strict=True)) + (0.0 if bias is None else float(bias[e]))
            for e, column in enumerate(weight.double().tolist())
        ]
        for row in hidden.double().tolist()
    ]
    return select(
        torch.tensor(logits, dtype=torch.float64).reshape(len(hidden), len(weight)), correction, alive, rule
    )


def select(logits: Tensor, correction: Tensor | None, alive: Tensor | None, rule: GateRule) -> Routed:
    """Choose and weight, row by row; as `gate`, from logits [T, E]."""
    experts = logits.shape[1]
    corrections = [0.0] * experts if correction is None else correction.double().tolist()
    lives = [True] * experts if alive is None else alive.tolist()
    weights: list[list[float]] = []
    chosen: list[list[int]] = []
    used: list[list[float]] = []
    fallback: list[bool] = []
    for row in logits.double().tolist():
        fallback.append(not all(math.isfinite(z) for z in row))
        if fallback[-1]:
            row = [FALLBACK_LOGIT if e == rule.fallback else -FALLBACK_LOGIT for e in range(experts)]
        used.append(row)
        scores = _scores([z if lives[e] else -math.inf for e, z in enumerate(row)], rule)
        merit = [
            score + b - (0.0 if score > 0 else ABSENT) for score, b in zip(scores, corrections, strict=True)
        ]
        inside = _inside(merit, rule)
        rank = row if rule.by_logit(correction is not None) else merit
        # The groups kept, then the others, by rank; then the dead; ties by increasing id.
        order = sorted(
            range(experts), key=lambda e: (0 if inside[e] else 1, -rank[e], e) if lives[e] else (2, 0.0, e)
        )
        chosen.append(order[: rule.k])
        weights.append(
            _weights([row[e] if lives[e] else -math.inf for e in chosen[-1]], scores, chosen[-1], rule)
        )
    shape = (len(logits), rule.k)
    return Routed(
        torch.tensor(weights, dtype=torch.float64).reshape(shape),
        torch.tensor(chosen, dtype=torch.int64).reshape(shape),
        torch.tensor(used, dtype=torch.float64).reshape(logits.shape),
        torch.tensor(fallback, dtype=torch.bool),
    )


def _scores(row: Sequence[float], rule: GateRule) -> list[float]:
    if rule.score == "sigmoid":
        return [1 / (1 + math.exp(-z)) if z > -700 else 0.0 for z in row]
    top = max(row)
    if top == -math.inf:
        return [0.0] * len(row)
    total = sum(math.exp(z - top) for z in row)
    return [math.exp(z - top) / total for z in row]


def _inside(merit: Sequence[float], rule: GateRule) -> list[bool]:
    """Which experts are in the groups kept; ties go to the lower group."""
    size = len(merit) // rule.groups
    groups = [merit[g * size : (g + 1) * size] for g in range(rule.groups)]
    best = [sum(sorted(group, reverse=True)[: rule.judged_by]) for group in groups]
    kept = sorted(range(rule.groups), key=lambda g: (-best[g], g))[: rule.kept]
    return [e // size in kept for e in range(len(merit))]


def _weights(
    chosen_logits: Sequence[float], scores: Sequence[float], chosen: Sequence[int], rule: GateRule
) -> list[float]:
    if not rule.renormalise:
        return [scores[e] * rule.scale for e in chosen]
    # In logarithms, so that scores too small for a float still have a ratio.
    logs = [_log_sigmoid(z) if rule.score == "sigmoid" else z for z in chosen_logits]
    top = max(logs)
    if top == -math.inf:
        return [0.0] * len(logs)
    total = sum(math.exp(value - top) for value in logs)
    return [rule.scale * math.exp(value - top) / total for value in logs]


def _log_sigmoid(z: float) -> float:
    return z - math.log1p(math.exp(z)) if z < 0 else -math.log1p(math.exp(-z))


def dispatch(experts: Tensor, count: int) -> Dispatch:
    """Sort slots by expert.

    Args:
        experts: [T, k] int, as `Routed.experts`.
        count: E.
    """
    slots = experts.flatten().tolist()
    order = sorted(range(len(slots)), key=lambda slot: (slots[slot], slot))
    places = [0] * len(slots)
    for place, slot in enumerate(order):
        places[slot] = place
    return Dispatch(
        torch.tensor([slots.count(e) for e in range(count)], dtype=experts.dtype),
        torch.tensor(order, dtype=experts.dtype),
        torch.tensor(places, dtype=experts.dtype).reshape(experts.shape),
    )


def gather(hidden: Tensor, slots: Dispatch) -> Tensor:
    """Rows [T * k, H] in the order of their experts: row `order // k` at each place."""
    k = slots.places.shape[1]
    rows = [hidden[slot // k] for slot in slots.order.tolist()]
    return torch.stack(rows) if rows else hidden.new_empty(0, hidden.shape[1])


def scatter_back(outputs: Tensor, weights: Tensor, slots: Dispatch) -> Tensor:
    """The experts' combined outputs of each row [T, H], `sum_j weights[t, j] * outputs[places[t, j]]`."""
    mixed = torch.zeros(len(weights), outputs.shape[1], dtype=outputs.dtype)
    for t, places in enumerate(slots.places.tolist()):
        for j, place in enumerate(places):
            mixed[t] += weights[t, j].to(outputs.dtype) * outputs[place]
    return mixed
