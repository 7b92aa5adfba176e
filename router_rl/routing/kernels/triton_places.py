"""The device code that sorts slots by expert. Imports triton, so nothing imports this before it is used.

Names as in `triton_kernels`. The many rows of a batch lie in blocks of BT, and a histogram [blocks, E] holds
how many slots of each block use each expert.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["place_kernel", "places", "scan_kernel", "used"]


@triton.jit
def used(experts, row, rows, column, E: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, EP: tl.constexpr):
    """The experts that rows use, [BT, EP] int32, read back from memory; a column is an expert's id."""
    uses = tl.zeros((BT, EP), tl.int32)
    for j in tl.static_range(K):
        expert = tl.load(experts + row.to(tl.int64) * K + j, mask=row < rows, other=E, cache_modifier=".cg")
        uses = tl.where(column[None, :] == expert.to(tl.int32)[:, None], 1, uses)
    return uses


@triton.jit
def places(
    base, experts, order, place_of, row, rows, column, E: tl.constexpr, K: tl.constexpr, BT: tl.constexpr,
    EP: tl.constexpr,
):  # fmt: skip
    """Place the slots of some rows, each expert's from base [EP] on; return the base of the next rows."""
    uses = used(experts, row, rows, column, E, K, BT, EP)
    place = base[None, :] + tl.cumsum(uses, axis=0) - uses
    for j in tl.static_range(K):
        slot = row.to(tl.int64) * K + j
        expert = tl.load(experts + slot, mask=row < rows, other=E, cache_modifier=".cg").to(tl.int32)
        own = tl.sum(tl.where(column[None, :] == expert[:, None], place, 0), axis=1)
        tl.store(place_of + slot, own, mask=row < rows)
        tl.store(order + own, slot, mask=row < rows)
    return base + tl.sum(uses, axis=0)


@triton.jit
def scan_kernel(
    histogram, counts_out, blocks, E: tl.constexpr, BE: tl.constexpr, BB: tl.constexpr
):  # fmt: skip
    """Replace the slots of each block by those of all blocks before it; a program has BE experts."""
    column = tl.program_id(0) * BE + tl.arange(0, BE)
    before = tl.zeros((BE,), tl.int32)
    for start in range(0, blocks, BB):
        block = start + tl.arange(0, BB)
        cell = histogram + block.to(tl.int64)[:, None] * E + column[None, :]
        there = (block < blocks)[:, None] & (column < E)[None, :]
        own = tl.load(cell, mask=there, other=0)
        tl.store(cell, before[None, :] + tl.cumsum(own, axis=0) - own, mask=there)
        before += tl.sum(own, axis=0)
    tl.store(counts_out + column, before, mask=column < E)


@triton.jit
def place_kernel(
    experts, histogram, counts_out, order, place_of, rows, blocks, E: tl.constexpr, K: tl.constexpr,
    BT: tl.constexpr, BS: tl.constexpr, EP: tl.constexpr, BB: tl.constexpr, SCANNED: tl.constexpr,
):  # fmt: skip
    """A program places the slots of its block after those of earlier blocks.

    Few blocks read the histogram whole, each for itself; many would take time that grows with their square,
    so `scan_kernel` runs first.
    """
    block = tl.program_id(0)
    column = tl.arange(0, EP)
    if SCANNED:
        counts = tl.load(counts_out + column, mask=column < E, other=0).to(tl.int32)
        before = tl.load(histogram + block.to(tl.int64) * E + column, mask=column < E, other=0)
    else:
        before = tl.zeros((EP,), tl.int32)
        counts = tl.zeros((EP,), tl.int32)
        for start in range(0, blocks, BB):
            other = start + tl.arange(0, BB)
            there = (other < blocks)[:, None] & (column < E)[None, :]
            cell = histogram + other.to(tl.int64)[:, None] * E + column[None, :]
            own = tl.load(cell, mask=there, other=0)
            counts += tl.sum(own, axis=0)
            before += tl.sum(tl.where((other < block)[:, None], own, 0), axis=0)
        if block == 0:
            tl.store(counts_out + column, counts, mask=column < E)
    base = tl.cumsum(counts, axis=0) - counts + before
    for start in range(block * BT, tl.minimum((block + 1) * BT, rows), BS):
        row = start + tl.arange(0, BS)
        base = places(base, experts, order, place_of, row, rows, column, E, K, BS, EP)
