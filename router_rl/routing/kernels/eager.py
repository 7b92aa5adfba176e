"""The gate on a CPU, where Python may read values: torch's own top-k, wherever its result is unique.

Where a value is not finite, a score is 0 or relevant scores tie, `torch_path` chooses. The time of one row is
that of the operator calls, so there are few of them, and small tensors are read in Python.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from . import torch_path
from .kernel_rule import GateRule, Routed

__all__ = ["gate", "select"]

_INFINITY = float("inf")
_SCORES_ABOVE = -80.0  # softmax and sigmoid of a logit above it are not 0 in float32 (see its use below)
_NEAR = 1e-6  # sums of scores closer than this may rank differently in float32
_FEW = 64  # up to so many numbers, Python is faster than torch
# Few experts times many rows: measured on x86 with MKL, up to three times as fast transposed.
_NARROW, _MANY_ROWS = 16, 8


def gate(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, correction: Tensor | None, rule: GateRule
) -> Routed:
    """Route T rows between experts that are all alive; as `torch_path.gate`, and without gradients."""
    T, E = hidden.shape[0], weight.shape[0]
    if not hidden.dtype == weight.dtype == torch.float32:
        logits = torch_path.logits_of(hidden, weight, bias)
    elif E > _NARROW or T < _MANY_ROWS:
        logits = F.linear(hidden, weight, bias)
    else:
        logits = torch.mm(weight, hidden.mT).mT
        logits = logits if bias is None else logits + bias
    if T == 1 and correction is None and rule.score == "softmax" and rule.groups == 1:
        routed = _one_row(logits, E, rule)
    else:
        routed = select(logits, correction, rule) if T else None
    return torch_path.select(logits, correction, None, rule) if routed is None else routed


def select(logits: Tensor, correction: Tensor | None, rule: GateRule) -> Routed | None:
    """Choose and weight as `torch_path.select` does where the top-k is unique, else None.

    Args:
        logits: [T, E] float32 or float64, T at least 1.
        correction: [E] or None.
        rule: how logits are scored, chosen and weighted.
    """
    by_logit = rule.by_logit(correction is not None)
    low, high = _span(logits)
    if not (low > -_INFINITY and high < _INFINITY):  # a NaN is neither
        return None
    scores, rank, columns = None, logits, None
    single = logits.shape[0] == 1
    if not by_logit or rule.groups > 1:
        if low < _SCORES_ABOVE + (max(high, 0.0) if rule.score == "softmax" else 0.0):
            return None  # a score may be 0
        scores = logits.sigmoid() if rule.score == "sigmoid" else logits.softmax(dim=-1)
        merit = scores if correction is None else scores + correction
        rank = logits if by_logit else merit
        if rule.groups > 1 and single:
            barred = _barred(merit, rule)
            if barred is None:
                return None
            rank = rank + barred
        elif rule.groups > 1:
            columns = _columns_kept(merit, rule)
            if columns is None:
                return None
            rank = rank.gather(1, columns)
    best = _largest(rank, rule.k)
    if best is None:
        return None
    values, experts = best
    experts = experts if columns is None else columns.gather(1, experts)
    if scores is None and rule.renormalise:
        weights = _softmax(values)
    else:
        scores = logits.softmax(dim=-1) if scores is None else scores
        weights = scores.gather(1, experts)
        if rule.renormalise and single:
            weights.mul_(rule.scale / sum(weights.tolist()[0]))
        elif rule.renormalise:
            weights.div_(weights.sum(dim=1, keepdim=True))
    if rule.scale != 1 and not (single and rule.renormalise and scores is not None):
        weights.mul_(rule.scale)
    return Routed(weights, experts, logits, torch.zeros(logits.shape[0], dtype=torch.bool))


def _one_row(logits: Tensor, E: int, rule: GateRule) -> Routed | None:
    """`select` of one row [1, E] that is ranked by its logits."""
    k = rule.k
    if E <= _NARROW:
        row = logits.tolist()[0]
        if len(set(row)) < E or not -_INFINITY < sum(row) < _INFINITY:
            return None
        values, experts = logits.topk(k)
    else:
        values, experts = logits.topk(k + (k < E))
        row = values.tolist()[0]  # a NaN ranks first, then infinity
        if not row[0] < _INFINITY or len(set(row)) < len(row) or logits.min().item() == -_INFINITY:
            return None
        if k < E:  # in a third of the time of a slice
            values.resize_(1, k)
            experts.resize_(1, k)
    weights = values.softmax(1) if rule.renormalise else logits.softmax(1).gather(1, experts)
    if rule.scale != 1:
        weights.mul_(rule.scale)
    return Routed(weights, experts, logits, torch.zeros(1, dtype=torch.bool))


def _softmax(values: Tensor) -> Tensor:
    """Softmax of rows [T, k]: torch is slow on many short rows, but not on a few long columns."""
    return values.softmax(1) if values.numel() <= 128 else values.mT.softmax(0).mT


def _span(logits: Tensor) -> tuple[float, float]:
    """The smallest and the largest; NaN where there is one."""
    low, high = (logits if logits.is_contiguous() else logits.mT).aminmax()  # slow across strides
    return low.item(), high.item()


def _largest(rank: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """Values and columns [T, k] of the largest, best first; None where they depend on the order of ties."""
    T, n = rank.shape
    width = min(k + 1, n)
    values, columns = rank.topk(width)
    if width > 1 and not _falls(values):
        return None
    if width == k:
        return values, columns
    size, strides = (T, k), (width, 1)
    return values.as_strided(size, strides), columns.as_strided(size, strides)  # in half the time of slices


def _falls(values: Tensor) -> bool:
    """Whether each row of contiguous values [T, n], n > 1, is strictly decreasing."""
    T, n = values.shape
    if T * n <= _FEW:
        return all(len(set(row)) == n for row in values.tolist())
    size, strides = (T, n - 1), (n, 1)
    return (values.as_strided(size, strides) - values.as_strided(size, strides, 1)).min().item() > 0


def _barred(merit: Tensor, rule: GateRule) -> Tensor | None:
    """[E], minus infinity where a group is not kept by the one row [1, E], else 0; None where groups tie."""
    size = merit.shape[1] // rule.groups
    best = merit.view(rule.groups, size).topk(rule.judged_by).values.tolist()
    score = [sum(values) for values in best]
    order = sorted(range(rule.groups), key=score.__getitem__, reverse=True)
    if rule.kept < rule.groups:
        last, next_ = score[order[rule.kept - 1]], score[order[rule.kept]]
        if last - next_ <= _NEAR * (abs(last) + abs(next_)):
            return None
    return _bar(frozenset(order[: rule.kept]), rule.groups, size)


@lru_cache(maxsize=128)
def _bar(kept: frozenset[int], groups: int, size: int) -> Tensor:
    columns = [0.0 if group in kept else -_INFINITY for group in range(groups) for _ in range(size)]
    return torch.tensor(columns)


def _columns_kept(merit: Tensor, rule: GateRule) -> Tensor | None:
    """Ids [T, kept * E/groups] of the experts in the groups kept, or None where groups or their best tie."""
    T, E = merit.shape
    size = E // rule.groups
    grouped = merit.view(T, rule.groups, size)
    if rule.judged_by == 1:
        best = grouped.amax(dim=-1)
    elif rule.judged_by == 2 and merit.numel() > 4096:  # a top-k of many short rows is slow
        first = grouped.amax(dim=-1)
        top = grouped == first.unsqueeze(-1)
        if int(top.count_nonzero()) != first.numel():
            return None
        best = first + grouped.masked_fill(top, -_INFINITY).amax(dim=-1)
    else:
        best = grouped.topk(rule.judged_by).values.sum(dim=-1)
    values, kept = best.topk(min(rule.kept + 1, rule.groups))
    if values.shape[1] > 1 and not _falls(values):
        return None
    ids = kept[:, : rule.kept].unsqueeze(-1) * size + torch.arange(size)
    return ids.flatten(1)
