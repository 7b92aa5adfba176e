"""How fast a gate routes on a GPU: the tables of docs/benchmarks/kernels.md.

    python benchmarks/gpu.py --out runs/gpu

One command, no network. For four published gates and one of 128 experts, from 1 to 16,384 rows of bfloat16:
our kernels against transformers' router (eager, and compiled with CUDA graphs), against `torch.mm` with our
selection, and against the whole stage with torch's sort and histogram. CUDA events, warm-up, the L2 cache
flushed before every call; medians and quartiles; the time that reading and writing each byte once would take.
Prints which card it ran on, writes `gpu.json` and a figure. Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from markdown_tables import as_markdown
from rich.console import Console
from torch import Tensor

from experts.io.atomic import replacing, write_json
from router_rl.bench.gates.shapes import SHAPES, Shape, transformers_router_of, weights_of
from router_rl.bench.table_layout import TextTable
from router_rl.reports.terminal import progress_of
from router_rl.routing.kernels import GateRule, Routed, route

ROWS = (1, 4, 16, 64, 256, 1024, 4096, 16_384)
FLUSHED = 256 * 2**20  # bytes written to empty the L2 cache; an H100's holds 50 MiB
TARGET_SHAPE = Shape(
    name="128 experts, k 8",
    hidden=2048,
    experts=128,
    rule=GateRule(k=8),
    router_class=SHAPES["Qwen3-30B-A3B"].router_class,
    config=SHAPES["Qwen3-30B-A3B"].config,
)
GATES = (TARGET_SHAPE, *(shape for shape in SHAPES.values() if shape.name != "Qwen3-30B-A3B"))
OURS = "kernels, whole stage"
# Bytes a second where a driver does not tell the memory's clock: NVIDIA's data sheets.
BANDWIDTH = {"H100 PCIe": 2.0e12, "H100": 3.35e12, "H200": 4.8e12, "A100": 2.04e12, "B200": 8.0e12}


def floor_seconds(shape: Shape, rows: int, bandwidth: float) -> float:
    """Seconds to read hidden states and weight (2 bytes each) and write what comes of it, each once.

    Args:
        shape: the gate.
        rows: T.
        bandwidth: bytes a second.

    Returns:
        of the whole stage: weights, experts, order and places of 4 bytes a slot, and the counts.
    """
    read = 2 * shape.hidden * (rows + shape.experts)
    written = 16 * rows * shape.rule.k + 4 * shape.experts
    return (read + written) / bandwidth


def bandwidth_of(properties: Any) -> float | None:
    """Bytes a second of a card's memory, or None where neither the driver nor a data sheet tells."""
    clock, width = getattr(properties, "memory_clock_rate", 0), getattr(properties, "memory_bus_width", 0)
    if clock and width:
        return 2 * 1e3 * clock * width / 8  # kHz, twice a cycle, bits
    return next((value for name, value in BANDWIDTH.items() if name in properties.name), None)


def forms_of(shape: Shape, hidden: Tensor) -> dict[str, Callable[[], object]]:
    """Everything that is timed, each a call on the GPU."""
    from gpu_select import select  # beside this file; needs triton

    weights = weights_of(shape, torch.Generator().manual_seed(0))
    transformers_router: Any = transformers_router_of(shape, weights)
    there = {name: value.cuda() for name, value in weights.items()}
    weight = there["weight"].bfloat16()
    bias, correction = there.get("bias"), there.get("correction")
    transformers_router = transformers_router.cuda()
    if not shape.corrected:  # DeepSeek's router multiplies in float32
        transformers_router = transformers_router.bfloat16()
    compiled: Any = torch.compile(transformers_router, mode="reduce-overhead")

    def ours(dispatch: bool) -> Routed:
        return route(
            hidden,
            weight,
            bias,
            correction,
            rule=shape.rule,
            ids=torch.int32,
            dispatch=dispatch,
            logits=False,
            path="triton",
        )

    def in_two() -> object:
        logits = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        return select(logits if bias is None else logits + bias, correction, shape.rule)

    def staged(router: Callable[[Tensor], Any]) -> object:
        experts = router(hidden)[2].flatten()
        return experts.sort(stable=True), torch.histc(experts.float(), shape.experts, 0, shape.experts - 1)

    return {
        OURS: lambda: ours(dispatch=True),
        f"{OURS}, CUDA graph": graphed(lambda: ours(dispatch=True)),
        "kernels, no slots": lambda: ours(dispatch=False),
        "torch.mm + Triton select": in_two,
        "transformers, eager": lambda: transformers_router(hidden),
        "transformers, compiled, CUDA graphs": lambda: compiled(hidden),
        "transformers + sort + histogram": lambda: staged(transformers_router),
    }


def graphed(function: Callable[[], object]) -> Callable[[], object]:
    """The call captured as a CUDA graph, to be replayed."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def microseconds(function: Callable[[], object], repeats: int, warm_up: int, scratch: Tensor) -> list[float]:
    """Microseconds of each call on the GPU, the cache flushed before."""
    for _ in range(warm_up):
        function()
    pairs: list[tuple[Any, Any]] = []
    for _ in range(repeats):
        scratch.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in pairs]


def check_alike(shape: Shape, hidden: Tensor) -> None:
    """The kernels route as the torch path does, or nothing is timed."""
    weights = {
        name: value.cuda() for name, value in weights_of(shape, torch.Generator().manual_seed(0)).items()
    }
    tensors = (hidden, weights["weight"].bfloat16(), weights.get("bias"), weights.get("correction"))
    with torch.inference_mode():
        found = route(*tensors, rule=shape.rule, path="triton", dispatch=True)
        wanted = route(*tensors, rule=shape.rule, path="torch", dispatch=True)
    same = (found.experts == wanted.experts).all(dim=1)
    share = float(same.float().mean())
    error = float((found.weights - wanted.weights)[same].abs().max()) if same.any() else 0.0
    if share < 0.99 or error > 1e-3:
        raise RuntimeError(
            f"{shape.name}, {len(hidden)} rows: the kernels route {share:.4f} of the rows as torch does, "
            f"with an error of {error:.2g} in the weights; nothing is timed"
        )


def measure(repeats: int, warm_up: int, rows: Sequence[int]) -> dict[str, Any]:
    """Every form of every gate at every number of rows."""
    properties = torch.cuda.get_device_properties(0)
    bandwidth = bandwidth_of(properties)
    scratch = torch.empty(FLUSHED // 4, dtype=torch.int32, device="cuda")
    cells: list[dict[str, Any]] = []
    with progress_of("timings", Console(stderr=True)) as progress:
        for shape in GATES:
            for count in rows:
                generator = torch.Generator(device="cuda").manual_seed(count)
                hidden = torch.randn(count, shape.hidden, device="cuda", generator=generator).bfloat16()
                check_alike(shape, hidden)
                forms: dict[str, Any] = {}
                with torch.inference_mode():
                    for name, form in forms_of(shape, hidden).items():
                        found = microseconds(form, repeats, warm_up, scratch)
                        forms[name] = statistics.quantiles(found, n=4)
                floor = None if bandwidth is None else 1e6 * floor_seconds(shape, count, bandwidth)
                cells.append({"gate": shape.name, "rows": count, "floor_us": floor, "quartiles_us": forms})
                progress(len(cells), len(GATES) * len(rows), f"{shape.name}: {count} rows")
    return {
        "schema_version": 1,
        "card": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "bandwidth": bandwidth,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "repeats": repeats,
        "cells": cells,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The tables: one a gate, then the two targets."""
    tables: list[TextTable] = []
    for gate in dict.fromkeys(cell["gate"] for cell in found["cells"]):
        cells = [cell for cell in found["cells"] if cell["gate"] == gate]
        rows: list[Sequence[str]] = [
            (form, *(_quartiles(cell["quartiles_us"][form]) for cell in cells))
            for form in cells[0]["quartiles_us"]
        ]
        rows.append(("byte floor", *(_number(cell["floor_us"]) for cell in cells)))
        rows.append((f"{OURS} / floor", *(_over_floor(cell) for cell in cells)))
        tables.append(TextTable(f"{gate}, µs", ("rows", *(f"{cell['rows']:,}" for cell in cells)), rows))
    tables[-1] = tables[-1]._replace(
        note=f"{found['card']} (compute capability {found['compute_capability']}), torch {found['torch']}, "
        f"CUDA {found['cuda']}; bfloat16; median (quartiles) of {found['repeats']} calls, each after a flush "
        "of the L2 cache."
    )
    return as_markdown([*tables, _targets(found)])


def _targets(found: Mapping[str, Any]) -> TextTable:
    cells = [cell for cell in found["cells"] if cell["gate"] == TARGET_SHAPE.name]
    few = [cell for cell in cells if cell["rows"] <= 64]
    slowest = max(cell["quartiles_us"][OURS][1] for cell in few)
    rows: list[Sequence[str]] = [("µs at up to 64 rows", "≤ 4", f"{slowest:.1f}", _met(slowest <= 4))]
    last = next((cell for cell in cells if cell["rows"] == 16_384), None)
    if last is not None and last["floor_us"]:
        ratio = last["quartiles_us"][OURS][1] / last["floor_us"]
        rows.append(("over the byte floor at 16,384 rows", "≤ 1.3", f"{ratio:.2f}", _met(ratio <= 1.3)))
    return TextTable(f"Targets, {TARGET_SHAPE.name}, set for an H100", ("", "target", "found", ""), rows)


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _quartiles(values: Sequence[float]) -> str:
    low, middle, high = values
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _over_floor(cell: Mapping[str, Any]) -> str:
    return "" if not cell["floor_us"] else f"{cell['quartiles_us'][OURS][1] / cell['floor_us']:.2f}"


COLOURS = ("#c0392b", "#e67e22", "#b9770e", "#7d3c98", "#2471a3", "#1e8449", "#117864", "#555")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "", "7 3", "2 3", "1 4")


def drawing(found: Mapping[str, Any], gate: str = TARGET_SHAPE.name) -> str:
    """Microseconds by rows as an SVG, both logarithmic, one line a form and one for the byte floor."""
    cells = [cell for cell in found["cells"] if cell["gate"] == gate]
    lines = {
        form: [(cell["rows"], cell["quartiles_us"][form][1]) for cell in cells]
        for form in cells[0]["quartiles_us"]
    }
    if all(cell["floor_us"] for cell in cells):
        lines["byte floor"] = [(cell["rows"], cell["floor_us"]) for cell in cells]
    width, height, left, top, right = 640, 460, 56, 28, 14
    bottom = height - 44 - 18 * ((len(lines) + 1) // 2)
    values = [value for line in lines.values() for _, value in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    most = math.log2(max(cell["rows"] for cell in cells)) or 1.0

    def place(rows: float, value: float) -> tuple[float, float]:
        x = left + math.log2(rows) / most * (width - right - left)
        return x, bottom - (math.log10(value) - low) / max(1, high - low) * (bottom - top)

    title = f"Microseconds to route, by rows, {gate}, {found['card']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#777">',
        f"<title>{escape(title)}</title>",
        f'<text x="4" y="14">↑ µs, median; {escape(gate)}; {escape(found["card"])}</text>',
    ]
    for power in range(low, high + 1):
        y = place(1, 10.0**power)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#8884" fill="none"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for cell in cells:
        x = place(cell["rows"], 1)[0]
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{cell["rows"]}</text>')
    parts.append(f'<text x="{width - right}" y="{bottom + 32}" text-anchor="end">rows →</text>')
    for number, (name, line) in enumerate(lines.items()):
        look = f'stroke="{COLOURS[number]}" stroke-width="2" stroke-dasharray="{DASHES[number]}" fill="none"'
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<path d="M{path}" {look}><title>{escape(name)}</title></path>')
        x, y = left + (number % 2) * 290, bottom + 52 + 18 * (number // 2)
        parts.append(f'<path d="M{x} {y - 4}h34" {look}/><text x="{x + 42}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main(out: Path = Path("runs/gpu"), repeats: int = 200, warm_up: int = 25, quick: bool = False) -> None:
    """Measure, print and draw.

    Args:
        out: folder for `gpu.json` and `gpu.svg`.
        repeats: calls timed of each form.
        warm_up: calls before them.
        quick: two numbers of rows and few calls, to see that it runs.
    """
    if not torch.cuda.is_available():
        print("No GPU here, so nothing was measured. Run this on a machine with one.")
        return
    print(f"Card: {torch.cuda.get_device_name(0)}")
    found = measure(5, 3, (1, 1024)) if quick else measure(repeats, warm_up, ROWS)
    write_json(out / "gpu.json", found)
    with replacing(out / "gpu.svg") as temporary:
        temporary.write_text(drawing(found), encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
