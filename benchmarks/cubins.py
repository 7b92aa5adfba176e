"""Compile the gate's kernels to cubins, with no GPU: registers, shared memory, spills, tensor-core products.

    python benchmarks/cubins.py --capabilities '[80, 90, 100]' --gates '[qwen3]'

One JSON line a kernel, for the gates named or for all. A process of its own, since Triton decides when it is
imported whether it interprets.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jsonargparse
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from router_rl.routing.kernels import GateRule
from router_rl.routing.kernels import triton_kernels as kernels
from router_rl.routing.kernels import triton_places as placing
from router_rl.routing.kernels.triton_path import FUSION, shape_of, splits_of, sums_of

V3 = GateRule(k=8, score="sigmoid", groups=8, kept=4, scale=2.5)
# name: the rule, E, H, dtype, whether scores are corrected and experts masked
GATES: dict[str, tuple[GateRule, int, int, torch.dtype, bool]] = {
    "mixtral": (GateRule(k=2), 8, 4096, torch.bfloat16, False),
    "qwen3": (GateRule(k=8), 128, 2048, torch.bfloat16, False),
    "deepseek_v3": (V3, 256, 7168, torch.bfloat16, True),
    "deepseek_v3_float32": (V3, 256, 7168, torch.float32, True),
    "largest": (GateRule(k=16, groups=8, kept=4, renormalise=False), 512, 16_384, torch.float32, True),
}
ROWS = (1, 64, 1024, 16_384)  # few, most of the few, split, whole
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
}
FIXED = {
    "bias": "*fp32", "correction": "*fp32", "alive": "*u8", "weights_out": "*fp32", "experts_out": "*i64",
    "logits_out": "*fp32", "fallback_out": "*u8", "counts_out": "*i64", "order": "*i64", "place_of": "*i64",
    "partial": "*fp32", "staged": "*fp32", "tickets": "*i32", "histogram": "*i32", "experts": "*i64",
    "grad_weights": "*fp32", "grad_logits": "*fp32", "logits": "*fp32", "weights": "*fp32",
    "fallback": "*u8", "out": "*fp32", "scale": "fp32",
}  # fmt: skip


class Job(NamedTuple):
    """A kernel to compile: its name, function, constants, warps and the types that depend on the gate."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    warps: int
    inputs: dict[str, str]


def product_job(name: str, rows: int) -> Job:
    """The kernel that multiplies and chooses for a gate at a number of rows, with slots."""
    rule, experts, hidden, dtype, full = GATES[name]
    shape = shape_of(rows, dtype, dtype, experts, rule)
    flags = {"BIASED": full, "CORRECTED": full, "MASKED": full, "LOGITS": True, "DISPATCH": True}
    kernel, own = kernels.gate_kernel, {}
    if "BE" in shape.constants:
        splits, _ = splits_of(rows, hidden, shape)
        kernel, own = kernels.split_kernel, {"PLACES": rows <= 64, "SB": sums_of(splits, shape)}
    inputs = {"x": POINTERS[dtype], "w": POINTERS[dtype]}
    label = f"{name} {kernel.__name__} {rows}"
    return Job(label, kernel, shape.constants | flags | own, shape.warps, inputs)


def jobs(names: Sequence[str]) -> Iterator[Job]:
    """Every kernel of the gates named."""
    for name in names:
        rule, experts, _, dtype, full = GATES[name]
        yield from (product_job(name, rows) for rows in ROWS)
        padded = max(triton.next_power_of_2(experts), 2)
        sizes = {"E": experts, "K": rule.k, "EP": padded}
        shape = shape_of(ROWS[-1], dtype, dtype, experts, rule)
        tiles = {"BT": shape.rows, "BS": min(shape.rows, max(1, 4096 // padded)), "SCANNED": True, "BB": 1}
        yield Job(f"{name} scan_kernel", placing.scan_kernel, {"E": experts, "BE": 16, "BB": 256}, 4, {})
        yield Job(f"{name} place_kernel", placing.place_kernel, sizes | tiles, shape.warps, {})
        backward = {
            "KP": triton.next_power_of_2(rule.k), "SIGMOID": rule.score == "sigmoid",
            "RENORMALISE": rule.renormalise, "MASKED": full, "LOGITS": True,
            "BT": max(1, min(32, 4096 // padded)),
        }  # fmt: skip
        yield Job(f"{name} backward_kernel", kernels.backward_kernel, sizes | backward, 4, {})


def compiled(job: Job, capability: int) -> dict[str, int]:
    """What a kernel takes and does, as ptxas counts it and the PTX says.

    Returns:
        registers of a thread, threads and bytes of shared memory of a program, bytes spilled, and how many
        instructions of its PTX multiply by tensor cores: `wgmma` of a warp group, `mma` of a warp.
    """
    kernel, constants = job.kernel, job.constants
    signature = {
        name: "constexpr" if name in constants else (job.inputs | FIXED).get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in ("sx0", "sw0", "H", "width")
    }
    strides = [name for name in ("sx1", "sw1") if name in kernel.arg_names]
    constants = constants | dict.fromkeys(strides, 1)
    signature |= dict.fromkeys(strides, "constexpr")
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, values, aligned)
    triton.knobs.nvidia.dump_ptxas_log = True
    said = io.StringIO()
    # A kernel found in a cache would say nothing.
    with tempfile.TemporaryDirectory() as triton.knobs.cache.dir, contextlib.redirect_stdout(said):
        found = triton.compile(
            source,
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": job.warps, "num_stages": 3, "maxnreg": 255, **FUSION},
        )
    assert len(found.asm["cubin"]) > 1000
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said.getvalue())
    assert len(spills) == 2
    (registers,) = re.findall(r"Used (\d+) registers", said.getvalue())
    ptx = found.asm["ptx"]
    return {
        "registers": int(registers),
        "threads": 32 * job.warps,
        "shared": found.metadata.shared,
        "spilled": sum(int(count) for count in spills),
        "wgmma": len(re.findall(r"^\s*wgmma\.mma_async", ptx, re.MULTILINE)),
        "mma": len(re.findall(r"^\s*mma\.sync|tcgen05\.mma\.", ptx, re.MULTILINE)),
    }


def main(capabilities: tuple[int, ...] = (80, 90, 100), gates: tuple[str, ...] = tuple(GATES)) -> None:
    """Print a line of JSON for each kernel of each gate on each GPU.

    Args:
        capabilities: compute capabilities, times ten.
        gates: names in `GATES`.
    """
    for capability in capabilities:
        for job in jobs(gates):
            print(
                json.dumps({"kernel": job.name, "capability": capability, **compiled(job, capability)}),
                flush=True,
            )


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
