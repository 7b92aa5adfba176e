"""A gated feed-forward network cut along its intermediate dimension; pure functions.

With intermediate size F, `FFN(x) = sum over f of down[:, f] * act(gate[f] x) * up[f] x`: a sum over neurons,
so it is exactly the sum of the networks made of any partition of them, in any order (DeepSeekMoE, Dai et al.
2024, section 3.1, https://arxiv.org/abs/2401.06066).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FFN", "average", "by_disagreement", "cut", "mean", "take"]


class FFN(NamedTuple):
    """A gated network's weights.

    Attributes:
        gate: [F, H], through the activation.
        up: [F, H].
        down: [H, F].
    """

    gate: Tensor
    up: Tensor
    down: Tensor


def take(ffn: FFN, neurons: Tensor) -> FFN:
    """The network of some neurons [F'] int64, in their order."""
    return FFN(ffn.gate[neurons], ffn.up[neurons], ffn.down[:, neurons].contiguous())


def mean(tensors: Iterable[Tensor]) -> Tensor:
    """The mean of one or more tensors in float32, two of them in memory."""
    total, count = torch.zeros(()), 0
    for tensor in tensors:
        total = total + tensor.float()
        count += 1
    return total / count


def average(ffns: Sequence[FFN]) -> FFN:
    """The mean of the weights, in float32, returned in the first network's dtype."""
    return FFN(*(mean(tensors).to(tensors[0].dtype) for tensors in zip(*ffns, strict=True)))


def by_disagreement(ffns: Sequence[FFN]) -> Tensor:
    """Neurons [F] int64 by how far the networks' weights are from their mean, least first; ties by id."""
    score = torch.zeros(ffns[0].gate.shape[0])
    for tensors, across in zip(zip(*ffns, strict=True), (1, 1, 0), strict=True):
        middle = mean(tensors)
        for tensor in tensors:
            score += (tensor.float() - middle).square().sum(dim=across)
    return score.argsort(stable=True)


def cut(ffns: Sequence[FFN], segments: int, shared: int) -> tuple[FFN, list[FFN]]:
    """What networks have in common as one that runs always, and the rest of each in segments of one size.

    The neurons on which the networks agree most are averaged into the shared experts; where the networks are
    equal this is exact. Segments of one network stand together, in the order of the networks.

    Args:
        ffns: N networks of F neurons.
        segments: into how many an FFN is cut, m; divides F.
        shared: how many of them are shared, K_s, less than m.

    Returns:
        The shared network, of `F / m * K_s` neurons, and N * (m - K_s) networks of F / m neurons.
    """
    neurons = ffns[0].gate.shape[0]
    width = neurons // segments
    assert width * segments == neurons
    order = by_disagreement(ffns)
    common, own = order[: width * shared].sort().values, order[width * shared :].sort().values
    together = average([take(ffn, common) for ffn in ffns])
    return together, [take(ffn, part) for ffn in ffns for part in own.split(width)]
