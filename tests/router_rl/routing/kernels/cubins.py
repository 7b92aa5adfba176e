"""Compile the gate's kernels to cubins, with no GPU: registers, shared memory and spills of each.

    python tests/router_rl/routing/kernels/cubins.py 80 90 100 [qwen3 ...]

One JSON line a kernel, for the gates named or for all. A process of its own, since Triton decides when it is
imported whether it interprets.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from router_rl.routing.kernels import GateRule
from router_rl.routing.kernels import triton_kernels as kernels
from router_rl.routing.kernels.triton_path import shape_of

V3 = GateRule(k=8, score="sigmoid", groups=8, kept=4, scale=2.5)
# name: the rule, E, dtype, whether scores are corrected and experts masked
GATES: dict[str, tuple[GateRule, int, torch.dtype, bool]] = {
    "mixtral": (GateRule(k=2), 8, torch.bfloat16, False),
    "qwen3": (GateRule(k=8), 128, torch.bfloat16, False),
    "deepseek_v3": (V3, 256, torch.bfloat16, True),
    "largest": (GateRule(k=16, groups=8, kept=4, renormalise=False), 512, torch.float32, True),
}
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
}
FIXED = {
    "bias": "*fp32", "correction": "*fp32", "alive": "*u8", "weights_out": "*fp32", "experts_out": "*i64",
    "logits_out": "*fp32", "fallback_out": "*u8", "counts_out": "*i64", "order": "*i64", "places": "*i64",
    "partial": "*fp32", "staged": "*fp32", "tickets": "*i32", "histogram": "*i32", "experts": "*i64",
    "grad_weights": "*fp32", "grad_logits": "*fp32", "logits": "*fp32", "weights": "*fp32",
    "fallback": "*u8", "out": "*fp32", "scale": "fp32",
}  # fmt: skip


def jobs(names: list[str]) -> Iterator[tuple[str, Any, dict[str, Any], int, int, dict[str, str]]]:
    """Name, function, constants, warps, stages and the types that depend on the gate."""
    for name in names:
        rule, experts, dtype, full = GATES[name]
        inputs = {"x": POINTERS[dtype], "w": POINTERS[dtype]}
        flags = {"BIASED": full, "CORRECTED": full, "MASKED": full, "LOGITS": True, "DISPATCH": True}
        for rows in (64, 16_384):
            shape = shape_of(rows, dtype, dtype, experts, rule)
            kernel = kernels.small_kernel if rows == 64 else kernels.gate_kernel
            yield f"{name} {kernel.__name__}", kernel, shape.constants | flags, shape.warps, 3, inputs
        padded = triton.next_power_of_2(experts)
        sizes = {"E": experts, "K": rule.k, "EP": padded}
        tiles = {
            "BT": shape.rows,
            "BS": min(shape.rows, 4096 // padded),
            "BB": max(1, min(32, 4096 // padded)),
        }
        yield f"{name} place_kernel", kernels.place_kernel, sizes | tiles, shape.warps, 3, {}
        backward = {
            "KP": triton.next_power_of_2(rule.k), "SIGMOID": rule.score == "sigmoid",
            "RENORMALISE": rule.renormalise, "MASKED": full, "LOGITS": True,
            "BT": max(1, min(32, 4096 // padded)),
        }  # fmt: skip
        yield f"{name} backward_kernel", kernels.backward_kernel, sizes | backward, 4, 3, {}


def compiled(
    kernel: Any, constants: dict[str, Any], warps: int, stages: int, inputs: dict[str, str], capability: int
) -> dict[str, int]:
    """Registers of a thread, shared memory of a program and spilled bytes, as ptxas counts them."""
    signature = {
        name: "constexpr" if name in constants else (inputs | FIXED).get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in ("sx0", "sw0", "H", "width")
    }
    constants = constants | {name: 1 for name in ("sx1", "sw1") if name in kernel.arg_names}
    signature |= {name: "constexpr" for name in ("sx1", "sw1") if name in kernel.arg_names}
    source = ASTSource(
        kernel, signature, {(kernel.arg_names.index(n),): v for n, v in constants.items()}, aligned
    )
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = triton.compile(
            source,
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": warps, "num_stages": stages, "maxnreg": 255},
        )
    assert len(found.asm["cubin"]) > 1000
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said.getvalue())
    assert len(spills) == 2
    (registers,) = re.findall(r"Used (\d+) registers", said.getvalue())
    return {
        "registers": int(registers),
        "shared": found.metadata.shared,
        "spilled": sum(int(count) for count in spills),
    }


def main(capabilities: list[int], names: list[str]) -> None:
    triton.knobs.nvidia.dump_ptxas_log = True
    with tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder  # a kernel found in a cache would tell nothing
        for capability in capabilities:
            for name, *job in jobs(names):
                found = {"kernel": name, "capability": capability, **compiled(*job, capability)}
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    main([int(word) for word in words if word.isdigit()], [w for w in words if w in GATES] or list(GATES))
