"""Measured costs of an expert: parameters, FLOPs, memory and latency."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..io.errors import InputError

__all__ = ["Profile", "profile"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The measured costs of one expert.

    Args:
        parameters: number of learned parameters.
        flops_per_item: floating-point operations of one item; a multiply-add counts as 2. Matrix products,
            convolutions and attention are counted, elementwise operations are not.
        latency_s: median seconds of a batch of one item.
        resident_bytes: bytes of parameters and buffers.
    """

    parameters: int
    flops_per_item: float
    latency_s: float
    resident_bytes: int


def profile(module: nn.Module, example: torch.Tensor, *, repeats: int = 20) -> Profile:
    """Return the costs of a module, measured on one input on the device where both are.

    Args:
        module: maps inputs [B, ...] to outputs; it runs in its current mode, without gradients.
        example: [B, ...] inputs, B >= 1; the first item is used.
        repeats: number of timed runs, after two untimed ones.

    Raises:
        InputError: the example is empty.
    """
    if example.ndim == 0 or len(example) == 0:
        raise InputError("example", tuple(example.shape), "has no items", "give at least one input")
    item = example[:1]
    counter = FlopCounterMode(display=False)
    seconds: list[float] = []
    with torch.inference_mode():
        with counter:
            module(item)
        for _ in range(repeats + 2):
            start = time.perf_counter()
            module(item)
            if item.is_cuda:
                torch.cuda.synchronize(item.device)
            seconds.append(time.perf_counter() - start)
    tensors = [*module.parameters(), *module.buffers()]
    return Profile(
        parameters=sum(tensor.numel() for tensor in module.parameters()),
        flops_per_item=float(counter.get_total_flops()),
        latency_s=statistics.median(seconds[2:]),
        resident_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )
