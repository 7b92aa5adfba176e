"""What the gate's kernels ask of a GPU, without one: a table of docs/benchmarks/kernels.md.

    python benchmarks/roofline.py --out runs/roofline

Compiles the kernel that multiplies and chooses for three published gates at four numbers of rows (compute
capability 9.0), and counts launches, programs, registers, shared memory, what an H100's multiprocessor holds
of it, products of tensor cores, floating-point operations and bytes. The floors are what the card's data
sheet allows, not times: nothing runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cubins
import jsonargparse
import torch
import triton
from markdown_tables import as_markdown

from experts.io.atomic import write_json
from router_rl.bench.table_layout import TextTable
from router_rl.routing.kernels.triton_path import launches_of, shape_of, splits_of

GATES = {"mixtral": "Mixtral-8x7B", "qwen3": "Qwen3-30B-A3B", "deepseek_v3": "DeepSeek-V3"}
ROWS = (1, 64, 1024, 16_384)
# NVIDIA's data sheet and tuning guide of the H100 SXM: bytes a second; dense bfloat16 operations a second;
# multiprocessors, and of each: registers, shared memory, threads and programs.
BANDWIDTH, OPERATIONS = 3.35e12, 989e12
PROCESSORS, REGISTERS, SHARED, THREADS, PROGRAMS = 132, 65_536, 228 * 1024, 2048, 32
# Times that others published of their kernels, not run here: what, card, rows, microseconds, where.
PUBLISHED = (
    ("choice, 128 experts", "H200", "1", "1.83", "sgl-project/sglang, pull request 25835"),
    ("choice, 128 experts, k 8", "not named", "256", "4.10", "NVIDIA/Megatron-LM, pull request 6456"),
    (
        "choice and slots, 256 experts, k 8",
        "not named",
        "64",
        "9.25",
        "NVIDIA/TensorRT-LLM, pull request 15656",
    ),
    (
        "choice and slots, 256 experts, k 8",
        "not named",
        "8,192",
        "20.4",
        "NVIDIA/TensorRT-LLM, pull request 15656",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a call asks of a GPU, with slots sorted and logits not kept.

    Attributes:
        launches: of kernels.
        programs: of the launch that multiplies.
        operations: of the product, two for each hidden unit of each row and expert.
        floor_bytes: hidden states and weight read once, results written once.
        asked_bytes: all that the programs load and store; repeated loads are mostly served by the L2 cache.
    """

    launches: int
    programs: int
    operations: int
    floor_bytes: int
    asked_bytes: int


def work_of(name: str, rows: int) -> Work:
    """Count for one of `cubins.GATES`.

    Args:
        name: of the gate.
        rows: T.
    """
    rule, experts, hidden, dtype, _ = cubins.GATES[name]
    shape = shape_of(rows, dtype, dtype, experts, rule)
    blocks = triton.cdiv(rows, shape.rows)
    size = torch.finfo(dtype).bits // 8
    weight, states = size * experts * hidden, size * rows * hidden
    slots = rows * rule.k
    written = (
        slots * (4 + 4 + 4 + 4) + 4 * experts + rows
    )  # weights, experts, order, places; counts; fallbacks
    programs, columns, sums = blocks, 1, 0
    if "BE" in shape.constants:
        columns = shape.padded // shape.constants["BE"]
        splits, _ = splits_of(rows, hidden, shape)
        programs, sums = blocks * columns * splits, 2 * 4 * splits * rows * shape.padded
    elif shape.constants["BS"] < shape.rows:
        sums = 2 * 4 * rows * shape.padded
    launches = launches_of(rows, shape, dispatch=True)
    histogram = 4 * blocks * experts
    placed = {1: 0, 2: histogram * (1 + blocks), 3: 4 * histogram}[launches] + 2 * 4 * slots
    return Work(
        launches=launches,
        programs=programs,
        operations=2 * rows * experts * hidden,
        floor_bytes=weight + states + written,
        asked_bytes=blocks * weight + columns * states + sums + placed + written,
    )


def programs_at_once(compiled: dict[str, int]) -> int:
    """How many programs of a kernel one multiprocessor of an H100 holds.

    Args:
        compiled: registers of a thread, threads and bytes of shared memory of a program.
    """
    registers = -(-compiled["registers"] // 8) * 8 * compiled["threads"]  # given out in eights
    limits = (
        REGISTERS // registers,
        SHARED // (compiled["shared"] + 1024),  # the system keeps 1 KiB of each
        THREADS // compiled["threads"],
        PROGRAMS,
    )
    return min(limits)


def measure() -> list[dict[str, Any]]:
    """Every gate at every number of rows."""
    found: list[dict[str, Any]] = []
    for name in GATES:
        for rows in ROWS:
            job = cubins.product_job(name, rows)
            compiled = cubins.compiled(job, 90)
            found.append({"gate": name, "rows": rows, **compiled, **asdict(work_of(name, rows))})
    return found


def tables(found: list[dict[str, Any]]) -> list[TextTable]:
    """One of programs, one of floors, one of published times."""
    programs: list[Sequence[str]] = []
    floors: list[Sequence[str]] = []
    for cell in found:
        at_once = programs_at_once(cell)
        label = [GATES[cell["gate"]], f"{cell['rows']:,}"]
        programs.append(
            [
                *label,
                str(cell["launches"]),
                f"{cell['programs']:,}",
                str(cell["registers"]),
                f"{cell['shared'] / 1024:.0f}",
                f"{at_once * cell['threads'] // 32} of 64",
                f"{cell['programs'] / (PROCESSORS * at_once):.2f}",
                f"{cell['wgmma']} / {cell['mma']}",
            ]
        )
        floors.append(
            [
                *label,
                f"{cell['operations'] / 1e9:.3f}",
                f"{1e6 * cell['operations'] / OPERATIONS:.2f}",
                f"{cell['floor_bytes'] / 1e6:.2f}",
                f"{1e6 * cell['floor_bytes'] / BANDWIDTH:.2f}",
                f"{cell['asked_bytes'] / 1e6:.2f}",
            ]
        )
    return [
        TextTable(
            "Programs of the kernel that multiplies and chooses, compute capability 9.0",
            (
                "gate",
                "rows",
                "launches",
                "programs",
                "registers a thread",
                "KiB shared a program",
                "warps a multiprocessor",
                "waves",
                "wgmma / mma",
            ),
            programs,
        ),
        TextTable(
            "Work, and the least that it can take on an H100",
            ("gate", "rows", "GFLOP", "µs of tensor cores", "MB once", "µs of memory", "MB asked for"),
            [tuple(row) for row in floors],
        ),
        TextTable("Published by others", ("what", "card", "rows", "µs", "by"), list(PUBLISHED)),
    ]


def main(out: Path = Path("runs/roofline")) -> None:
    """Compile, count and print.

    Args:
        out: folder for `roofline.json`.
    """
    found = measure()
    write_json(out / "roofline.json", {"schema_version": 1, "triton": triton.__version__, "cells": found})
    print(as_markdown(tables(found)))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
