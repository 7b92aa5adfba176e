"""Latency of `serve` against LiteLLM's own router, in front of the same stub of a model.

    python benchmarks/endpoint.py
    python benchmarks/endpoint.py --rates '[20, 100]' --seconds 20

Three processes: the stub, which answers at once, `serve`, and this one, which sends requests at a fixed rate
whether or not earlier ones are answered, in rounds that alternate between `serve` (over HTTP) and LiteLLM's
router (in this process, without a server). Prints Markdown: milliseconds of each, and their difference.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import jsonargparse
import numpy as np

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem, export, fit

ROOT = Path(__file__).resolve().parents[1]
STUB = """
import json, sys, uvicorn
usage = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}
message = {"role": "assistant", "content": "four words it is"}
choice = {"index": 0, "message": message, "finish_reason": "stop"}
body = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
                   "usage": usage}).encode()
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off")
"""
Call = Callable[[str], Awaitable[bool]]


def main(rates: Sequence[int] = (20, 100), seconds: int = 10, rounds: int = 2) -> None:
    """Measure and print.

    Args:
        rates: requests a second.
        seconds: of each round.
        rounds: of each side and rate.
    """
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_measure(Path(name), rates, seconds, rounds))


async def _measure(folder: Path, rates: Sequence[int], seconds: int, rounds: int) -> None:
    stub, port = _free_port(), _free_port()
    models = _inputs(folder, f"http://127.0.0.1:{stub}/v1")
    words = ["serve", "--router", "router", "--models", str(models), "--port", str(port)]
    processes = [
        subprocess.Popen([sys.executable, "-c", STUB, str(stub)]),
        subprocess.Popen([sys.executable, str(ROOT / "train_router.py"), *words], cwd=folder),
    ]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            await _ready(http)
            calls = {"serve": _through_serve(http), "LiteLLM's router": _through_litellm(stub)}
            for call in calls.values():
                await asyncio.gather(*(call(f"warm up {number}") for number in range(50)))
            gc.collect()
            gc.freeze()  # as `serve` does: no full collection while requests are sent
            print("| requests a second | through | p50, ms | p99, ms | errors | answered a second |")
            print("|---:|---|---:|---:|---:|---:|")
            for rate in rates:
                _print(rate, await _rounds(calls, rate, seconds, rounds), rounds)
    finally:
        for process in processes:
            process.terminate()
            process.wait()


async def _rounds(
    calls: dict[str, Call], rate: int, seconds: int, rounds: int
) -> dict[str, list[tuple[float, bool, float]]]:
    """Return seconds, success and end of every request, by side."""
    measured: dict[str, list[tuple[float, bool, float]]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            measured[name] += await _sent(calls[name], rate, seconds)
    return measured


async def _sent(call: Call, rate: int, seconds: int) -> list[tuple[float, bool, float]]:
    began = time.perf_counter()

    async def one(number: int) -> tuple[float, bool, float]:
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        start = time.perf_counter()
        good = await call(f"What is {number} plus {number % 7}?")
        end = time.perf_counter()
        return end - start, good, end - began

    return list(await asyncio.gather(*(one(number) for number in range(rate * seconds))))


def _print(rate: int, measured: dict[str, list[tuple[float, bool, float]]], rounds: int) -> None:
    percentiles = {}
    for name, rows in measured.items():
        milliseconds = 1000 * np.array([row[0] for row in rows])
        percentiles[name] = np.percentile(milliseconds, [50, 99])
        errors = sum(not row[1] for row in rows)
        answered = len(rows) / rounds / max(row[2] for row in rows)
        p50, p99 = percentiles[name]
        print(f"| {rate} | {name} | {p50:.1f} | {p99:.1f} | {errors} | {answered:.1f} |", flush=True)
    p50, p99 = percentiles["serve"] - percentiles["LiteLLM's router"]
    print(f"| {rate} | difference | {p50:+.1f} | {p99:+.1f} | | |", flush=True)


def _through_serve(http: httpx.AsyncClient) -> Call:
    async def call(prompt: str) -> bool:
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        with suppress(httpx.TransportError):
            return (await http.post("/v1/chat/completions", json=body)).status_code == 200
        return False

    return call


def _through_litellm(stub: int) -> Call:
    import litellm

    base = f"http://127.0.0.1:{stub}/v1"
    parameters = {"api_base": base, "api_key": "none", "timeout": 30}
    router = litellm.Router(
        model_list=[
            {"model_name": "auto", "litellm_params": {"model": f"openai/{name}", **parameters}}
            for name in ("small", "large")
        ]
    )

    async def call(prompt: str) -> bool:
        with suppress(Exception):
            await router.acompletion(model="auto", messages=[{"role": "user", "content": prompt}])
            return True
        return False

    return call


async def _ready(http: httpx.AsyncClient) -> None:
    for _ in range(600):
        with suppress(httpx.TransportError):
            await http.get("/healthz")
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the server does not answer")


def _inputs(folder: Path, base: str) -> Path:
    """Write a router of prompts and a model list."""
    rows = 200
    right = np.arange(rows) % 2
    table = OutcomeTable(
        experts=("small", "large"),
        query_id=np.array([f"q{row}" for row in range(rows)], dtype=object),
        prompt=np.array(
            [f"What is {row} {'plus' if row % 2 else 'times'} {row % 7}?" for row in range(rows)]
        ),
        features=None,
        quality=np.stack([right, 1 - right], axis=1).astype(np.float32),
        cost=np.tile(np.float32([[1e-4, 2e-3]]), (rows, 1)),
        split=np.resize(["train", "train", "validation", "test"], rows),
    )
    problem = RoutingProblem(table, Objective(compute_weight=0.05))
    export(fit("ridge", problem), folder / "router", rows=problem)
    price = "price: {input: 1, output: 4}"
    lines = [
        f"  - {{name: {name}, model: openai/{name}, api_base: {base}, {price}}}" for name in table.experts
    ]
    path = folder / "models.yaml"
    path.write_text("models:\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
