"""Launches of the Triton kernels: one up to 64 rows or without slots, else two or three; one for gradients.

Up to 2,048 rows the product is split over hidden units, so that a decode batch occupies the GPU.

Workspace comes from torch's allocator; EP is E rounded up to a power of two group by group:

- up to 2,048 rows, partial sums: `splits * ceil(T / BT) * BT * EP` float32;
- for more rows, logits: `T * EP` float32, if a program multiplies more rows than it chooses for at a time
  (`BS < BT`);
- for slots of more than 64 rows, a histogram: `ceil(T / BT) * E` int32.

Tickets, one int32 per chunk of rows, are kept for each device and stream. Kernels of one stream run one after
another, so they share tickets. A CUDA graph being captured gets its own: it may be replayed on any stream.

A fused multiply-add rounds once where two operations round twice: `FUSION` is off in every launch, whatever
the environment says, so that all kernels, on any GPU, choose by the same sums of scores and corrections.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..router_error import RouterError
from . import triton_kernels, triton_places
from .kernel_rule import GateRule, Routed

__all__ = ["Shape", "launches_of", "logits_gradient", "route", "shape_of", "splits_of", "sums_of"]

kernels: Any = triton_kernels
placing: Any = triton_places
FUSION = {"enable_fp_fusion": False}
_MOST_EXPERTS, _MOST_CHOSEN, _MOST_HIDDEN = 512, 16, 16_384
_SMALL = 64  # rows up to which one launch does everything
_SPLIT = 2048  # rows up to which the product is split over hidden units
_FEW, _MANY = 16, 64  # rows of a program: as few as a tensor core takes; as many as `wgmma` takes
_MOST_SPLITS = 32  # of more than 64 rows: the sums of all splits are read back by one program
_SCANNED = 64  # blocks of rows from which their histogram is scanned first
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
    small, split = rows <= _SMALL, rows <= _SPLIT
    # Enough rows for `wgmma`, and for each program to read the weight not too often.
    if split:
        many = _FEW if small else _MANY
    elif wide:
        many = _wide_rows(padded)
    else:
        many = max(_MANY, min(128, 32_768 // padded, power(rows // _PROGRAMS)))
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
        "BS": min(many, power(rows), max(1, 4096 // padded)),
        "EP": padded,
        "WIDE": wide,
        # Of float32, few rows wait for memory anyway; more are multiplied by tensor cores, each number split
        # into two of tf32 (2^-11 and 2^-22 of it are lost), with an error below 2^-20 of the sum of |x w|.
        "PRECISION": "tf32x3" if wide and not small else "ieee",
    }
    if split:
        constants |= {"BE": min(padded, 64 if small or wide else 128), "EI": max(power(experts), 2)}
    return Shape(constants, padded, 8 if padded > 64 else 4, many, units)


def _wide_rows(padded: int) -> int:
    """Rows of a program that multiplies float32 by EP columns."""
    return max(16, min(64, 8192 // padded))


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
    shape = shape_of(T, hidden.dtype, weight.dtype, E, rule)
    blocks = triton.cdiv(T, shape.rows)
    small = T <= _SMALL
    flags = {
        "BIASED": bias is not None,
        "CORRECTED": correction is not None,
        "MASKED": alive is not None,
        "LOGITS": logits,
        "DISPATCH": dispatch,
    }
    # An absent tensor is never read, but the kernel needs a pointer.
    given = [weight if value is None else value.contiguous() for value in (bias, correction, alive)]
    given = [value.view(torch.uint8) if value.dtype == torch.bool else value for value in given]
    strides = (*hidden.stride(), *weight.stride())
    common = shape.constants | flags | FUSION | {"num_warps": shape.warps, "num_stages": 3, "maxnreg": 255}
    fell = fallback.view(torch.uint8)
    histogram = new((blocks * E if dispatch and not small else 0,), dtype=torch.int32)
    with torch.cuda.device_of(hidden):  # a kernel starts on the current device
        if T <= _SPLIT:
            splits, width = splits_of(T, H, shape)
            partial = new((splits * blocks * shape.rows * shape.padded,), dtype=torch.float32)
            own = {"PLACES": dispatch and small, "SB": sums_of(splits, shape)}
            kernels.split_kernel[(blocks, splits * (shape.padded // shape.constants["BE"]))](
                hidden, weight, *given, weights, experts, z, fell, counts, order, places, histogram, partial,
                _tickets(hidden.device), T, H, splits, width, blocks, *strides, rule.scale, **common | own,
            )  # fmt: skip
        else:
            staged = new(
                (T * shape.padded if shape.constants["BS"] < shape.rows else 0,), dtype=torch.float32
            )
            kernels.gate_kernel[(blocks,)](
                hidden, weight, *given, weights, experts, z, fell, histogram, staged, T, H, *strides,
                rule.scale, **common,
            )  # fmt: skip
        if dispatch and not small:
            _place(experts, histogram, counts, order, places, shape)
        return outputs


def _place(
    experts: Tensor, histogram: Tensor, counts: Tensor, order: Tensor, places: Tensor, shape: Shape
) -> None:
    """Sort the slots by expert, from how many of each block of rows use each."""
    T, k = experts.shape
    E, blocks = len(counts), triton.cdiv(T, shape.rows)
    scanned = blocks > _SCANNED
    if scanned:
        placing.scan_kernel[(triton.cdiv(E, 16),)](histogram, counts, blocks, E=E, BE=16, BB=256)
    padded = max(triton.next_power_of_2(E), 2)
    placing.place_kernel[(blocks,)](
        experts, histogram, counts, order, places, T, blocks, E=E, K=k, BT=shape.rows, EP=padded,
        BS=min(shape.rows, max(1, 4096 // padded)), BB=max(1, min(32, 4096 // padded)), SCANNED=scanned,
        num_warps=shape.warps, maxnreg=255,
    )  # fmt: skip


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
            LOGITS=grad_logits is not None, BT=rows, EP=padded, **FUSION,
        )  # fmt: skip
    return out


def launches_of(T: int, shape: Shape, *, dispatch: bool) -> int:
    """How many kernels a call launches."""
    if T <= _SMALL or not dispatch:
        return min(T, 1)
    return 2 + (triton.cdiv(T, shape.rows) > _SCANNED)


def splits_of(T: int, H: int, shape: Shape) -> tuple[int, int]:
    """Splits of the hidden units, so that programs occupy a GPU, and hidden units a split."""
    programs = triton.cdiv(T, shape.rows) * (shape.padded // shape.constants["BE"])
    wanted = max(1, _PROGRAMS // programs)
    wanted = wanted if T <= _SMALL else min(wanted, _MOST_SPLITS)
    width = triton.cdiv(triton.cdiv(H, wanted), shape.hidden) * shape.hidden
    return triton.cdiv(H, width), width


def sums_of(splits: int, shape: Shape) -> int:
    """How many splits are read and summed at a time, by a tree: 32 numbers a thread."""
    size = 8192 if shape.warps == 8 else 4096
    room = size // (shape.constants["BS"] * shape.padded)
    return max(1, min(triton.next_power_of_2(splits), room))


_kept: dict[tuple[int | None, int], Tensor] = {}
_lock = threading.Lock()


def _tickets(device: torch.device) -> Tensor:
    size = max(_SMALL // _FEW, _SPLIT // 16) + 1
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
