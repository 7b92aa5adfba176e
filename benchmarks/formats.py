"""Every format of one router: size on disk, time of a call, agreement (docs/benchmarks/formats.md).

    python benchmarks/formats.py --out runs/formats

An MLP router with top-2 of 8 experts on made-up rows, exported in each format and called from Python on one
thread, as its runtime calls it; llama.cpp's gate is linear, so for gguf the router is distilled and its
agreement is with the MLP.
Times are lower quartiles of repeats that go round the formats, and ratios to the trained router in the same
run, so that a busy machine disturbs them alike; say what else ran. Writes `formats.json`, prints Markdown.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import torch

from experts.io.atomic import write_json
from router_rl.exports import export, find_format, format_names
from router_rl.exports.layer_formats import load_layer, put_into_small_model
from router_rl.exports.transformers import distil
from router_rl.routing import MLPScorer, Router, TopK

EXPERTS, K = 8, 2


def main(
    out: Path = Path("runs/formats"),
    features: int = 256,
    hidden: int = 64,
    rows: tuple[int, ...] = (1, 16, 1024),
    repeats: int = 200,
    seed: int = 0,
) -> None:
    """Measure and print.

    Args:
        out: folder for the JSON.
        features: D.
        hidden: width of the router's hidden layer.
        rows: batch sizes to time.
        repeats: of each call.
        seed: of the weights and rows.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    router = made(features, hidden)
    calls: dict[str, Callable[..., Any]] = {"trained router": router}
    found: dict[str, dict[str, Any]] = {"trained router": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in format_names():
            written, agreement = router, None
            if name == "gguf":  # a linear gate
                distilled = distil([router], [torch.randn(8192, features)])
                written, agreement = distilled.routers[0], distilled.agreement[0]
            began = time.perf_counter()
            parity = export(written, Path(folder) / name, format=name)
            found[name] = {
                "kilobytes": sum(p.stat().st_size for p in (Path(folder) / name).iterdir()) / 1000,
                "export_seconds": time.perf_counter() - began,
                "agreement": parity.to_json()["index_agreement"] if agreement is None else agreement,
                "weights_max_error": parity.to_json()["weights_max_error"],
                "distilled": agreement is not None,
            }
            calls[name] = as_its_runtime_calls_it(name, Path(folder) / name)
        with torch.no_grad():
            for count in rows:
                for name, microseconds in timed(calls, torch.randn(count, features), repeats).items():
                    found[name][f"microseconds_{count}"] = microseconds
    facts = {"features": features, "hidden": hidden, "seed": seed, "repeats": repeats, "rows": list(rows)}
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread"
    write_json(out / "formats.json", {**facts, "machine": machine, "formats": found})
    print(markdown(found, rows))


def as_its_runtime_calls_it(name: str, folder: Path) -> Callable[..., Any]:
    """The exported router without what the parity check adds."""
    if name in ("vllm", "sglang"):
        router = load_layer(folder)
        return lambda batch: router.custom_routing_function(batch, None, K, True)
    if name == "transformers":
        return put_into_small_model(load_layer(folder))[0]
    return find_format(name).load(folder)


def made(features: int, hidden: int) -> Router:
    """A router whose weights are drawn so that no expert is rare."""
    scorer = MLPScorer(features, EXPERTS, (hidden,))
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return Router(scorer, TopK(k=K), [f"expert-{n}" for n in range(EXPERTS)]).eval()


def timed(calls: dict[str, Callable[..., Any]], batch: torch.Tensor, repeats: int) -> dict[str, float]:
    """Microseconds of each call, the lower quartile; one call of each in turn."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 10):
        for name, call in calls.items():
            began = time.perf_counter()
            call(batch)
            if repeat >= 10:  # warm
                spent[name].append(time.perf_counter() - began)
    return {name: statistics.quantiles(values, n=4)[0] * 1e6 for name, values in spent.items()}


def markdown(found: dict[str, dict[str, Any]], rows: tuple[int, ...]) -> str:
    """The table."""
    heads = [f"us, {count} row{'s' * (count > 1)} (ratio)" for count in rows]
    lines = [
        "| format | kB | export s | agreement | " + " | ".join(heads) + " |",
        "| --- | ---: | ---: | ---: | " + " | ".join("---:" for _ in rows) + " |",
    ]
    base = found["trained router"]
    for name, row in found.items():
        cells = [
            f"{row[f'microseconds_{n}']:.0f} ({row[f'microseconds_{n}'] / base[f'microseconds_{n}']:.2f})"
            for n in rows
        ]
        if "kilobytes" in row:
            mark = " (distilled)" if row["distilled"] else ""
            facts = [
                f"{row['kilobytes']:.0f}",
                f"{row['export_seconds']:.1f}",
                f"{row['agreement']:.3f}{mark}",
            ]
        else:
            facts = ["", "", ""]
        lines.append("| " + " | ".join([name, *facts, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
