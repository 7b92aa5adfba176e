"""The Triton kernels' launches: one for few rows, two for many (one without the slots), one to go back.

Workspace, besides what is returned, from torch's allocator: for up to 64 rows, partial sums,
`splits * ceil(T / 16) * 16 * EP` float32 (at most 1 MiB), where EP is E rounded up to a power of two group by
group; for more rows `T * EP` float32 where more rows are multiplied than chosen for at a time (`BS < BT`),
and with slots `ceil(T / BT) * E` int32. Tickets, five int32 a device and stream, are kept: kernels of one
stream follow each other, so they never meet. A CUDA graph being captured gets its own, since it may be
replayed on any stream.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..router_error import RouterError
from . import triton_kernels
from .kernel_rule import GateRule, Routed

__all__ = ["Shape", "logits_gradient", "route", "shape_of"]

kernels: Any = triton_kernels
_MOST_EXPERTS, _MOST_CHOSEN, _MOST_HIDDEN = 512, 16, 16_384
_SMALL = 64  # rows up to which one launch does everything
_CHUNK = 16  # rows of a program of that launch
_PROGRAMS = 132  # as many as an H100 has multiprocessors; results do not depend on it where it is fixed


class Shape(NamedTuple):
    """Compile-time sizes of a gate; see `triton_kernels`."""

    constants: dict[str, Any]
    padded: int
    warps: int
    rows: int
    hidden: int


def shape_of(rows: int, hidden: torch.dtype, weight: torch.dtype, experts: int, rule: GateRule) -> Shape:
    """The sizes a rule's kernel is compiled for.

    Args:
        rows: T.
        hidden: dtype of the hidden states.
        weight: dtype of the weight.
        experts: E.
        rule: the gate's.
    """
    power = triton.next_power_of_2
    groups = power(rule.groups)
    size = power(experts // rule.groups)
    size = max(size, 16 // groups, 1)  # a tensor core wants 16 columns
    padded = groups * size
    wide = torch.float32 in (hidden, weight) or hidden != weight
    small = rows <= _SMALL
    # Rows enough that all multiprocessors work; then more, since each program reads the weight once.
    most = max(16, min(64, 8192 // padded) if wide else min(128, 32_768 // padded))
    many = _CHUNK if small else max(16, min(most, power(rows // _PROGRAMS)))
    units = 16 if wide and padded > 256 and not small else 32 if wide else 64
    constants = {
        "FALLBACK": rule.fallback,
        "E": experts,
        "K": rule.k,
        "KP": power(rule.k),
        "G": rule.groups,
        "GP": groups,
        "SP": size,
        "KEPT": rule.kept,
        "JUDGED": rule.judged_by,
        "SIGMOID": rule.score == "sigmoid",
        "RENORMALISE": rule.renormalise,
        "BT": many,
        "BH": units,
        # Rows chosen for at a time: 16 logits a thread stay in its registers, with all that is done to them.
        "BS": min(many, max(1, 4096 // padded)),
        "EP": padded,
        "WIDE": wide,
    }
    if small:
        constants |= {"BE": min(padded, 64), "EI": max(power(experts), 2)}
    return Shape(constants, padded, 8 if padded > 64 else 4, many, units)


def route(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    correction: Tensor | None,
    alive: Tensor | None,
    rule: GateRule,
    *,
    ids: torch.dtype,
    dispatch: bool,
    logits: bool,
) -> tuple[Tensor, ...]:
    """Run the kernels; arguments and results are those of `router_rl::route`.

    Raises:
        RouterError: a size or dtype that the kernels are not made for.
    """
    T, H = hidden.shape
    E, k = weight.shape[0], rule.k
    _check(hidden, weight, rule)
    new = hidden.new_empty
    weights, experts = new((T, k), dtype=torch.float32), new((T, k), dtype=ids)
    z, fallback = new((T if logits else 0, E), dtype=torch.float32), new((T,), dtype=torch.bool)
    slots = T * k if dispatch else 0
    counts = (
        hidden.new_zeros((E if dispatch else 0,), dtype=ids)
        if T == 0
        else new((E if dispatch else 0,), dtype=ids)
    )
    order, places = new((slots,), dtype=ids), new((T, k) if dispatch else (0,), dtype=ids)
    outputs = (weights, experts, z, fallback, counts, order, places)
    if T == 0:
        return outputs
    small = T <= _SMALL
    shape = shape_of(T, hidden.dtype, weight.dtype, E, rule)
    flags = {
        "BIASED": bias is not None,
        "CORRECTED": correction is not None,
        "MASKED": alive is not None,
        "LOGITS": logits,
        "DISPATCH": dispatch,
    }
    # What is absent is never read, but a pointer has to stand there.
    given = [weight if value is None else value.contiguous() for value in (bias, correction, alive)]
    given = [value.view(torch.uint8) if value.dtype == torch.bool else value for value in given]
    strides = (*hidden.stride(), *weight.stride())
    common = shape.constants | flags | {"num_warps": shape.warps, "num_stages": 3, "maxnreg": 255}
    fell = fallback.view(torch.uint8)
    with torch.cuda.device_of(hidden):  # a kernel starts on the current device
        if small:
            chunks, splits, width = _small(T, H, shape)
            partial = new((splits * chunks * _CHUNK * shape.padded,), dtype=torch.float32)
            kernels.small_kernel[(chunks, splits * (shape.padded // shape.constants["BE"]))](
                hidden, weight, *given, weights, experts, z, fell, counts, order, places, partial,
                _tickets(hidden.device), T, H, splits, width, chunks, *strides, rule.scale, **common,
            )  # fmt: skip
            return outputs
        blocks = triton.cdiv(T, shape.rows)
        histogram = new((blocks * E if dispatch else 0,), dtype=torch.int32)
        staged = new((T * shape.padded if shape.constants["BS"] < shape.rows else 0,), dtype=torch.float32)
        kernels.gate_kernel[(blocks,)](
            hidden, weight, *given, weights, experts, z, fell, histogram, staged, T, H, *strides, rule.scale,
            **common,
        )  # fmt: skip
        if dispatch:
            padded = max(triton.next_power_of_2(E), 2)
            kernels.place_kernel[(blocks,)](
                experts, histogram, counts, order, places, T, blocks, E=E, K=k, BT=shape.rows, EP=padded,
                BS=min(shape.rows, max(1, 4096 // padded)), BB=max(1, min(32, 4096 // padded)),
                num_warps=shape.warps, maxnreg=255,
            )  # fmt: skip
        return outputs


def logits_gradient(
    grad_weights: Tensor, grad_logits: Tensor | None, routed: Routed, alive: Tensor | None, rule: GateRule
) -> Tensor:
    """`gradient.logits_gradient` in one launch, [T, E] float32."""
    T, E = routed.logits.shape
    out = torch.empty_like(routed.logits)
    if T == 0:
        return out
    padded = max(triton.next_power_of_2(E), 2)
    rows = max(1, min(32, 4096 // padded))
    lives = routed.fallback if alive is None else alive.contiguous()
    with torch.cuda.device_of(out):
        kernels.backward_kernel[(triton.cdiv(T, rows),)](
            grad_weights.contiguous(), out if grad_logits is None else grad_logits.contiguous(),
            routed.logits, routed.experts, routed.weights, routed.fallback.view(torch.uint8),
            lives.view(torch.uint8), out, T, rule.scale, E=E, K=rule.k, KP=triton.next_power_of_2(rule.k),
            SIGMOID=rule.score == "sigmoid", RENORMALISE=rule.renormalise, MASKED=alive is not None,
            LOGITS=grad_logits is not None, BT=rows, EP=padded,
        )  # fmt: skip
    return out


def _small(T: int, H: int, shape: Shape) -> tuple[int, int, int]:
    """Chunks of rows, splits of the hidden units, and hidden units a split."""
    chunks = triton.cdiv(T, _CHUNK)
    wanted = max(1, _PROGRAMS // (chunks * (shape.padded // shape.constants["BE"])))
    width = triton.cdiv(triton.cdiv(H, wanted), shape.hidden) * shape.hidden
    return chunks, triton.cdiv(H, width), width


_kept: dict[tuple[int | None, int], Tensor] = {}
_lock = threading.Lock()


def _tickets(device: torch.device) -> Tensor:
    size = _SMALL // _CHUNK + 1
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(size, dtype=torch.int32, device=device)
    key = (device.index, torch.cuda.current_stream(device).cuda_stream)
    with _lock:
        if key not in _kept:
            _kept[key] = torch.zeros(size, dtype=torch.int32, device=device)
        return _kept[key]


def _check(hidden: Tensor, weight: Tensor, rule: GateRule) -> None:
    E, H = weight.shape
    for name, value, most in (
        ("experts", E, _MOST_EXPERTS),
        ("k", rule.k, _MOST_CHOSEN),
        ("hidden", H, _MOST_HIDDEN),
    ):
        if value > most:
            raise RouterError(f"{name}={value} is more than the kernels' {most}; use path='torch'")
    known = (torch.float32, torch.bfloat16, torch.float16)
    if hidden.dtype not in known or weight.dtype not in known:
        raise RouterError(
            f"hidden is {hidden.dtype} and weight {weight.dtype}; the kernels take float32, bfloat16, float16"
        )
