"""Latency of `serve` against LiteLLM's own router, in front of the same stub of a model.

    python benchmarks/endpoint.py
    python benchmarks/endpoint.py --rates '[20, 100]' --seconds 20
    python benchmarks/endpoint.py --through_litellm true

Three processes: the stub, which answers at once, `serve`, and this one, which sends requests at a fixed rate
whether or not earlier ones are answered, in rounds that alternate between `serve` (over HTTP) and LiteLLM's
router (in this process, without a server), whole answers and streams. Prints Markdown: milliseconds until the
answer, or until a stream's first words; the differences; the ratio of answers a second; and the CPU time of a
request, of this process and of `serve` together, which other programs change less than the other figures.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import jsonargparse
import numpy as np

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from stub_endpoint import first_words, serving_stub

Call = Callable[[str, bool], Awaitable["float | None"]]
"""Asks for an answer, streamed or not; the time of the answer or of its first words, None for an error."""

OURS, THEIRS = "serve", "LiteLLM's router"


def main(
    rates: Sequence[int] = (20, 100), seconds: int = 10, rounds: int = 2, through_litellm: bool = False
) -> None:
    """Measure and print.

    Args:
        rates: requests a second.
        seconds: of each round.
        rounds: of each side, rate and kind of answer.
        through_litellm: let `serve` call the stub through LiteLLM, as it calls servers of other protocols.
    """
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_measure(Path(name), rates, seconds, rounds, through_litellm))


async def _measure(
    folder: Path, rates: Sequence[int], seconds: int, rounds: int, through_litellm: bool
) -> None:
    async with serving_stub(folder, through_litellm=through_litellm) as stubbed:
        calls = {OURS: _through_serve(stubbed.http), THEIRS: _through_litellm(stubbed.stub)}
        for call in calls.values():
            for streamed in (False, True):
                await asyncio.gather(*(call(f"warm up {number}", streamed) for number in range(50)))
        gc.collect()
        gc.freeze()  # as `serve` does: no full collection while requests are sent
        columns = ("p50, ms", "p99, ms", "errors", "answered a second", "CPU, ms")
        print(f"| requests a second | answers | through | {' | '.join(columns)} |")
        print("|---:|---|---|---:|---:|---:|---:|---:|")
        for rate in rates:
            for streamed in (False, True):
                measured: dict[str, list[tuple[float | None, float]]] = {name: [] for name in calls}
                cpu = dict.fromkeys(calls, 0.0)
                for number in range(rounds):
                    for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
                        before = time.process_time() + stubbed.cpu_seconds()
                        measured[name] += await _sent(calls[name], rate, seconds, streamed)
                        cpu[name] += time.process_time() + stubbed.cpu_seconds() - before
                _print(rate, "first words" if streamed else "whole", measured, cpu, rounds)


async def _sent(call: Call, rate: int, seconds: int, streamed: bool) -> list[tuple[float | None, float]]:
    began = time.perf_counter()

    async def one(number: int) -> tuple[float | None, float]:
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        start = time.perf_counter()
        at = await call(f"What is {number} plus {number % 7}?", streamed)
        return None if at is None else at - start, time.perf_counter() - began

    return list(await asyncio.gather(*(one(number) for number in range(rate * seconds))))


def _print(
    rate: int,
    answers: str,
    measured: dict[str, list[tuple[float | None, float]]],
    cpu: dict[str, float],
    rounds: int,
) -> None:
    """Print seconds (None for an error) and ends of the requests, and the CPU time, of both sides."""
    percentiles, answered = {}, {}
    for name, rows in measured.items():
        milliseconds = [1000 * seconds for seconds, _ in rows if seconds is not None]
        percentiles[name] = np.percentile(milliseconds or [np.nan], [50, 99])
        errors = len(rows) - len(milliseconds)
        answered[name] = len(milliseconds) / rounds / max(end for _, end in rows)
        p50, p99 = percentiles[name]
        cpu[name] *= 1000 / len(rows)
        figures = f"{p50:.1f} | {p99:.1f} | {errors} | {answered[name]:.1f} | {cpu[name]:.1f}"
        print(f"| {rate} | {answers} | {name} | {figures} |", flush=True)
    p50, p99 = percentiles[OURS] - percentiles[THEIRS]
    ratio = answered[OURS] / answered[THEIRS]
    figures = f"{p50:+.1f} | {p99:+.1f} | | {ratio:.3f} | {cpu[OURS] / cpu[THEIRS]:.2f}"
    print(f"| {rate} | {answers} | difference, ratio | {figures} |", flush=True)


def _through_serve(http: httpx.AsyncClient) -> Call:
    async def call(prompt: str, streamed: bool) -> float | None:
        if streamed:
            return await first_words(http, prompt)
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        with suppress(httpx.TransportError):
            if (await http.post("/v1/chat/completions", json=body)).status_code == 200:
                return time.perf_counter()
        return None

    return call


def _through_litellm(base: str) -> Call:
    import litellm

    parameters = {"api_base": base, "api_key": "none", "timeout": 30}
    router = litellm.Router(
        model_list=[
            {"model_name": "auto", "litellm_params": {"model": f"openai/{name}", **parameters}}
            for name in ("small", "large")
        ]
    )

    async def call(prompt: str, streamed: bool) -> float | None:
        first = None
        with suppress(Exception):
            messages = [{"role": "user", "content": prompt}]
            answer = await router.acompletion(model="auto", messages=messages, stream=streamed)
            if not streamed:
                return time.perf_counter()
            async for chunk in answer:
                if first is None and chunk.choices and chunk.choices[0].delta.content:
                    first = time.perf_counter()
            return first
        return None

    return call


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
