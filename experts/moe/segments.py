"""Segments of a gated feed-forward network, cut along its intermediate dimension; pure functions.

With intermediate size F, `FFN(x) = sum over f of down[:, f] * act(gate[f] x) * up[f] x` is a sum over
neurons. It is therefore exactly the sum of the networks of any partition of the neurons (DeepSeekMoE, Dai et
al. 2024, section 3.1, https://arxiv.org/abs/2401.06066).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FFN", "average", "by_disagreement", "cut", "mean", "take"]


class FFN(NamedTuple):
    """The weights of a gated feed-forward network.

    Attributes:
        gate: [F, H], the projection before the activation.
        up: [F, H].
        down: [H, F].
    """

    gate: Tensor
    up: Tensor
    down: Tensor


def take(ffn: FFN, neurons: Tensor) -> FFN:
    """Return the network of some neurons.

    Args:
        ffn: of F neurons.
        neurons: [F'] int64, ids in the order of the new network.
    """
    return FFN(ffn.gate[neurons], ffn.up[neurons], ffn.down[:, neurons].contiguous())


def mean(tensors: Iterable[Tensor]) -> Tensor:
    """Return the mean of one or more tensors in float32; memory holds two of them at a time."""
    total, count = torch.zeros(()), 0
    for tensor in tensors:
        total = total + tensor.float()
        count += 1
    return total / count


def average(ffns: Sequence[FFN]) -> FFN:
    """Return the mean of the weights, computed in float32, in the first network's dtype."""
    return FFN(*(mean(tensors).to(tensors[0].dtype) for tensors in zip(*ffns, strict=True)))


def by_disagreement(ffns: Sequence[FFN]) -> Tensor:
    """Return neurons [F] int64 in increasing order of the networks' deviation from their mean, ties by id."""
    score = torch.zeros(ffns[0].gate.shape[0])
    for tensors, across in zip(zip(*ffns, strict=True), (1, 1, 0), strict=True):
        middle = mean(tensors)
        for tensor in tensors:
            score += (tensor.float() - middle).square().sum(dim=across)
    return score.argsort(stable=True)


def cut(ffns: Sequence[FFN], segments: int, shared: int) -> tuple[FFN, list[FFN]]:
    """Return one shared network and the segments of every network.

    The neurons with the smallest deviation between the networks are averaged into the shared network, which
    is exact for equal networks. Segments of one network are consecutive, in the order of the networks.

    Args:
        ffns: N networks of F neurons.
        segments: m, segments of an FFN; divides F.
        shared: K_s, shared segments, less than m.

    Returns:
        The shared network of `F / m * K_s` neurons, and N * (m - K_s) networks of F / m neurons.
    """
    neurons = ffns[0].gate.shape[0]
    width = neurons // segments
    assert width * segments == neurons
    order = by_disagreement(ffns)
    common, own = order[: width * shared].sort().values, order[width * shared :].sort().values
    together = average([take(ffn, common) for ffn in ffns])
    return together, [take(ffn, part) for ffn in ffns for part in own.split(width)]
