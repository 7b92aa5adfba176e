"""The gate's device code. Imports triton, so nothing imports this before it is used.

Shapes: T rows, E experts, K chosen, H hidden. Experts lie in EP columns, a power of two: GP groups of SP, the
ids rising with the column, so that the first of equal columns is the lowest id. A program works on BT rows.
`_select` does what `naive.select` says, `triton_places` what `naive.dispatch` says.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_places import places, used

__all__ = ["backward_kernel", "gate_kernel", "split_kernel"]

_INF: tl.constexpr = tl.constexpr(float("inf"))
_FALLBACK: tl.constexpr = tl.constexpr(1e4)  # FALLBACK_LOGIT
_ABSENT: tl.constexpr = tl.constexpr(1e3)  # ABSENT


@triton.jit
def _expert_of(column, E: tl.constexpr, G: tl.constexpr, SP: tl.constexpr):
    """The expert's id of each column, and whether there is one."""
    inside = column % SP
    return (column // SP) * (E // G) + inside, (inside < E // G) & (column // SP < G)


@triton.jit
def _product(
    x, w, row, rows, ids, exists, first, last, sx0, sx1, sw0, sw1, BH: tl.constexpr, BT: tl.constexpr,
    BE: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`x W^T` over hidden units first to last, accumulated in float32: [BT, BE]."""
    acc = tl.zeros((BT, BE), tl.float32)
    x_row = x + row.to(tl.int64)[:, None] * sx0
    w_row = w + ids.to(tl.int64)[None, :] * sw0
    for start in range(first, last, BH):
        h = start + tl.arange(0, BH)
        far = h.to(tl.int64)
        a = tl.load(x_row + far[None, :] * sx1, mask=(row < rows)[:, None] & (h < last)[None, :], other=0.0)
        b = tl.load(w_row + far[:, None] * sw1, mask=exists[None, :] & (h < last)[:, None], other=0.0)
        if WIDE:  # one of them is float32
            a, b = a.to(tl.float32), b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _log_sigmoid(z):
    return tl.minimum(z, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(z)))


@triton.jit
def _group_best(merit, JUDGED: tl.constexpr, SP: tl.constexpr, BT: tl.constexpr, GP: tl.constexpr):
    """The sum [BT, GP] of each group's best."""
    grouped = tl.reshape(merit, (BT, GP, SP))
    place = tl.arange(0, SP)[None, None, :]
    best = tl.zeros((BT, GP), tl.float32)
    for _ in tl.static_range(JUDGED):
        top = tl.max(grouped, axis=2)
        best += top
        first = tl.min(tl.where(grouped == top[:, :, None], place, SP), axis=2)
        grouped = tl.where(place == first[:, :, None], -_INF, grouped)
    return best


@triton.jit
def _select(
    z, row, rows, column, ids, exists, correction, alive, weights_out, experts_out, logits_out, fallback_out,
    scale, FALLBACK: tl.constexpr, E: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, G: tl.constexpr,
    GP: tl.constexpr, SP: tl.constexpr, KEPT: tl.constexpr, JUDGED: tl.constexpr, SIGMOID: tl.constexpr,
    RENORMALISE: tl.constexpr, CORRECTED: tl.constexpr, MASKED: tl.constexpr, LOGITS: tl.constexpr,
    BT: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    """Choose and weigh for rows of logits z [BT, EP] and store the result; return the uses [BT, EP] int32."""
    here = row < rows
    odd = tl.max(tl.where(exists[None, :] & ~(tl.abs(z) < _INF), 1, 0), axis=1)
    tl.store(fallback_out + row, odd == 1, mask=here)
    only = tl.where(ids == FALLBACK, _FALLBACK, -_FALLBACK)
    z = tl.where(odd[:, None] == 1, only[None, :], z)
    if LOGITS:
        where = row.to(tl.int64)[:, None] * E + ids[None, :]
        tl.store(logits_out + where, z, mask=here[:, None] & exists[None, :])
    lives = exists
    if MASKED:
        lives = lives & (tl.load(alive + ids, mask=exists, other=0) != 0)
    z = tl.where(lives[None, :], z, -_INF)
    top = tl.max(z, axis=1)
    top = tl.where(top == -_INF, 0.0, top)  # no expert is alive
    rank = z
    if CORRECTED or G > 1 or not RENORMALISE:
        if SIGMOID:
            score = tl.where(lives[None, :], tl.sigmoid(z), 0.0)
        else:
            power = tl.exp(z - top[:, None])
            total = tl.sum(power, axis=1)
            score = power / tl.where(total > 0, total, 1.0)[:, None]
    else:
        score = tl.sigmoid(z) if SIGMOID else z
    by_logit: tl.constexpr = not (SIGMOID or CORRECTED)
    if G > 1 or not by_logit:
        merit = tl.where(score > 0, score, score - _ABSENT)
        if CORRECTED:
            merit += tl.load(correction + ids, mask=exists, other=0.0).to(tl.float32)[None, :]
        if not by_logit:
            rank = merit
    tier = tl.where(lives, 1, 0)[None, :] + tl.zeros((BT, EP), tl.int32)
    if G > 1:
        group = tl.arange(0, GP)[None, :]
        best = _group_best(tl.where(exists[None, :], merit, -_INF), JUDGED, SP, BT, GP)
        kept = tl.zeros((BT, GP), tl.int32)
        best = tl.where(group < G, best, -_INF)
        for _ in tl.static_range(KEPT):
            most = tl.max(tl.where(kept == 0, best, -_INF), axis=1)
            first = tl.min(tl.where((kept == 0) & (best == most[:, None]), group, GP), axis=1)
            kept = tl.where(group == first[:, None], 1, kept)
        inside = tl.reshape(tl.broadcast_to(kept[:, :, None], (BT, GP, SP)), (BT, EP))
        tier = tl.where(tier == 1, 1 + inside, 0)
    # -1 are the padding columns and those already chosen.
    tier = tl.where(exists[None, :], tier, -1)
    rank = tl.where(tier > 0, rank, 0.0)
    slot = tl.arange(0, KP)[None, :]
    chosen = tl.zeros((BT, KP), tl.int32)
    value = tl.full((BT, KP), -_INF, tl.float32)
    uses = tl.zeros((BT, EP), tl.int32)
    for j in tl.static_range(K):
        if MASKED:
            level = tl.max(tier, axis=1)
        elif G > 1:
            level = tl.full((BT,), 2, tl.int32)  # the groups kept have K experts
        else:
            level = tl.full((BT,), 1, tl.int32)
        free = tier == level[:, None]
        most = tl.max(tl.where(free, rank, -_INF), axis=1)
        first = tl.min(tl.where(free & (rank == most[:, None]), column[None, :], EP), axis=1)
        taken = column[None, :] == first[:, None]
        logit = tl.max(tl.where(taken, z, -_INF), axis=1)
        tier = tl.where(taken, -1, tier)
        uses = tl.where(taken, 1, uses)
        expert = (first // SP) * (E // G) + first % SP
        chosen = tl.where(slot == j, expert[:, None], chosen)
        value = tl.where(slot == j, logit[:, None], value)
    alive_slot = value > -_INF
    if RENORMALISE:
        if SIGMOID:
            value = tl.where(alive_slot, _log_sigmoid(tl.where(alive_slot, value, 0.0)), -_INF)
        most = tl.max(value, axis=1)
        power = tl.exp(value - tl.where(most == -_INF, 0.0, most)[:, None])
        total = tl.sum(power, axis=1)
        weight = power / tl.where(total > 0, total, 1.0)[:, None]
    elif SIGMOID:
        weight = tl.sigmoid(value)
    else:
        weight = tl.exp(value - top[:, None]) / tl.where(total > 0, total, 1.0)[:, None]
    weight = tl.where(alive_slot, weight * scale, 0.0)
    out = row.to(tl.int64)[:, None] * K + slot
    mask = here[:, None] & (slot < K)
    tl.store(weights_out + out, weight, mask=mask)
    tl.store(experts_out + out, chosen, mask=mask)
    return tl.where(here[:, None], uses, 0)


@triton.jit
def gate_kernel(
    x, w, bias, correction, alive, weights_out, experts_out, logits_out, fallback_out, histogram, staged,
    rows, H, sx0, sx1, sw0, sw1, scale, FALLBACK: tl.constexpr, E: tl.constexpr, K: tl.constexpr,
    KP: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr, KEPT: tl.constexpr,
    JUDGED: tl.constexpr, SIGMOID: tl.constexpr, RENORMALISE: tl.constexpr, BIASED: tl.constexpr,
    CORRECTED: tl.constexpr, MASKED: tl.constexpr, LOGITS: tl.constexpr, DISPATCH: tl.constexpr,
    BT: tl.constexpr, BH: tl.constexpr,
    BS: tl.constexpr, EP: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Many rows: a program routes BT of them and counts the experts they use."""
    block = tl.program_id(0)
    row = block * BT + tl.arange(0, BT)
    column = tl.arange(0, EP)
    ids, exists = _expert_of(column, E, G, SP)
    z = _product(x, w, row, rows, ids, exists, 0, H, sx0, sx1, sw0, sw1, BH, BT, EP, WIDE, PRECISION)
    if BIASED:
        z += tl.load(bias + ids, mask=exists, other=0.0).to(tl.float32)[None, :]
    if BS == BT:
        uses = _select(
            z, row, rows, column, ids, exists, correction, alive, weights_out, experts_out, logits_out,
            fallback_out, scale, FALLBACK, E, K, KP, G, GP, SP, KEPT, JUDGED, SIGMOID, RENORMALISE,
            CORRECTED, MASKED, LOGITS, BT, EP,
        )  # fmt: skip
        count = tl.sum(uses, axis=0)
    else:  # more logits than registers: by way of the cache
        tl.store(staged + row.to(tl.int64)[:, None] * EP + column[None, :], z, mask=(row < rows)[:, None])
        tl.debug_barrier()
        count = tl.zeros((EP,), tl.int32)
        for start in range(block * BT, tl.minimum((block + 1) * BT, rows), BS):
            own = start + tl.arange(0, BS)
            where = staged + own.to(tl.int64)[:, None] * EP + column[None, :]
            part = tl.load(where, mask=(own < rows)[:, None], other=0.0, cache_modifier=".cg")
            some = _select(
                part, own, rows, column, ids, exists, correction, alive, weights_out, experts_out, logits_out,
                fallback_out, scale, FALLBACK, E, K, KP, G, GP, SP, KEPT, JUDGED, SIGMOID, RENORMALISE,
                CORRECTED, MASKED, LOGITS, BS, EP,
            )  # fmt: skip
            count += tl.sum(some, axis=0)
    if DISPATCH:
        tl.store(histogram + block.to(tl.int64) * E + ids, count, mask=exists)


@triton.jit
def split_kernel(
    x, w, bias, correction, alive, weights_out, experts_out, logits_out, fallback_out, counts_out, order,
    place_of, histogram, partial, tickets, rows, H, splits, width, chunks, sx0, sx1, sw0, sw1, scale,
    FALLBACK: tl.constexpr, E: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, G: tl.constexpr,
    GP: tl.constexpr, SP: tl.constexpr, KEPT: tl.constexpr, JUDGED: tl.constexpr, SIGMOID: tl.constexpr,
    RENORMALISE: tl.constexpr, BIASED: tl.constexpr, CORRECTED: tl.constexpr, MASKED: tl.constexpr,
    LOGITS: tl.constexpr, DISPATCH: tl.constexpr, PLACES: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr,
    EP: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr, SB: tl.constexpr, WIDE: tl.constexpr,
    PRECISION: tl.constexpr, EI: tl.constexpr,
):  # fmt: skip
    """Up to 2,048 rows: experts and hidden units are split too; a chunk's last program to finish chooses.

    Partial sums are added in an order that depends on the number of splits alone, so that equal calls give
    equal bits. Tickets are zero before and after. Slots of few rows are placed here (PLACES), those of more
    are counted for `place_kernel`.
    """
    blocks: tl.constexpr = EP // BE
    chunk = tl.program_id(0)
    part = tl.program_id(1)
    row = chunk * BT + tl.arange(0, BT)
    some = (part % blocks) * BE + tl.arange(0, BE)
    split = part // blocks
    ids, exists = _expert_of(some, E, G, SP)
    first, last = split * width, tl.minimum(H, (split + 1) * width)
    acc = _product(
        x, w, row, rows, ids, exists, first, last, sx0, sx1, sw0, sw1, BH, BT, BE, WIDE, PRECISION
    )  # fmt: skip
    size = chunks * BT * EP
    tl.store(partial + split * size + row[:, None] * EP + some[None, :], acc, mask=(row < rows)[:, None])
    tl.debug_barrier()  # all of this program's sums are stored before its ticket says so
    if tl.atomic_add(tickets + chunk, 1, sem="acq_rel") == splits * blocks - 1:
        column = tl.arange(0, EP)
        name, there = _expert_of(column, E, G, SP)
        count = tl.zeros((EP,), tl.int32)
        for start in range(chunk * BT, tl.minimum((chunk + 1) * BT, rows), BS):
            own = start + tl.arange(0, BS)
            cell = partial + own[:, None] * EP + column[None, :]
            z = tl.zeros((BS, EP), tl.float32)
            for begin in range(0, splits, SB):
                other = begin + tl.arange(0, SB)
                mask = (other < splits)[:, None, None] & (own < rows)[None, :, None]
                where = cell[None, :, :] + (other * size)[:, None, None]
                z += tl.sum(tl.load(where, mask=mask, other=0.0, cache_modifier=".cg"), axis=0)
            if BIASED:
                z += tl.load(bias + name, mask=there, other=0.0).to(tl.float32)[None, :]
            uses = _select(
                z, own, rows, column, name, there, correction, alive, weights_out, experts_out, logits_out,
                fallback_out, scale, FALLBACK, E, K, KP, G, GP, SP, KEPT, JUDGED, SIGMOID, RENORMALISE,
                CORRECTED, MASKED, LOGITS, BS, EP,
            )  # fmt: skip
            count += tl.sum(uses, axis=0)
        if DISPATCH and not PLACES:
            tl.store(histogram + chunk * E + name, count, mask=there)
        tl.store(tickets + chunk, 0)
        tl.debug_barrier()
        if PLACES:  # noqa: SIM102 - a compile-time branch, then one of the GPU's
            if tl.atomic_add(tickets + chunks, 1, sem="acq_rel") == chunks - 1:
                expert = tl.arange(0, EI)
                counts = tl.zeros((EI,), tl.int32)
                for start in range(0, rows, BS):
                    of = start + tl.arange(0, BS)
                    counts += tl.sum(used(experts_out, of, rows, expert, E, K, BS, EI), axis=0)
                tl.store(counts_out + expert, counts, mask=expert < E)
                base = tl.cumsum(counts, axis=0) - counts
                for start in range(0, rows, BS):
                    of = start + tl.arange(0, BS)
                    base = places(base, experts_out, order, place_of, of, rows, expert, E, K, BS, EI)
                tl.store(tickets + chunks, 0)


@triton.jit
def backward_kernel(
    grad_weights, grad_logits, logits, experts, weights, fallback, alive, out, rows, scale, E: tl.constexpr,
    K: tl.constexpr, KP: tl.constexpr, SIGMOID: tl.constexpr, RENORMALISE: tl.constexpr,
    MASKED: tl.constexpr, LOGITS: tl.constexpr, BT: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    """The gradient of the logits, as `gradient.logits_gradient` writes it down."""
    row = tl.program_id(0) * BT + tl.arange(0, BT)
    column = tl.arange(0, EP)
    slot = tl.arange(0, KP)[None, :]
    here = row < rows
    cell = row.to(tl.int64)[:, None] * E + column[None, :]
    inside = here[:, None] & (column < E)[None, :]
    at = row.to(tl.int64)[:, None] * K + slot
    mask = here[:, None] & (slot < K)
    expert = tl.load(experts + at, mask=mask, other=0).to(tl.int32)
    g = tl.load(grad_weights + at, mask=mask, other=0.0).to(tl.float32) * scale
    lives = mask
    if MASKED:
        lives = lives & (tl.load(alive + expert, mask=mask, other=0) != 0)
    chosen = tl.load(logits + row.to(tl.int64)[:, None] * E + expert, mask=mask, other=0.0)
    if RENORMALISE:
        share = tl.load(weights + at, mask=mask, other=0.0) / scale
        d = share * (g - tl.sum(g * share, axis=1)[:, None])
        if SIGMOID:
            d = d * tl.sigmoid(-chosen)
    elif SIGMOID:
        d = g * tl.sigmoid(chosen) * tl.sigmoid(-chosen)
    else:
        d = g
    d = tl.where(lives, d, 0.0)
    dz = tl.zeros((BT, EP), tl.float32)
    for j in tl.static_range(K):
        own = tl.sum(tl.where(slot == j, d, 0.0), axis=1)
        name = tl.sum(tl.where(slot == j, expert, 0), axis=1)
        dz += tl.where(column[None, :] == name[:, None], own[:, None], 0.0)
    if not (RENORMALISE or SIGMOID):
        lives_row = column < E
        if MASKED:
            lives_row = lives_row & (tl.load(alive + column, mask=column < E, other=0) != 0)
        z = tl.load(logits + cell, mask=inside, other=0.0)
        z = tl.where(lives_row[None, :], z, -_INF)
        top = tl.max(z, axis=1)
        power = tl.exp(z - tl.where(top == -_INF, 0.0, top)[:, None])
        total = tl.sum(power, axis=1)
        p = power / tl.where(total > 0, total, 1.0)[:, None]
        dz = p * (dz - tl.sum(dz * p, axis=1)[:, None])
    if LOGITS:
        dz += tl.load(grad_logits + cell, mask=inside, other=0.0).to(tl.float32)
    fell = tl.load(fallback + row, mask=here, other=0) != 0
    tl.store(out + cell, tl.where(fell[:, None], 0.0, dz), mask=inside)
