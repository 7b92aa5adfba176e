"""Resident memory of `serve` over many requests.

    python benchmarks/serve_memory.py
    python benchmarks/serve_memory.py --requests 60000 --minutes 20

Three processes: a stub of a model that answers at once, `serve` with its decision log in SQLite, and this
one, which keeps 32 requests on their way. Every prompt is another one; every fourth answer is streamed, every
seventh decision gets a score. Prints Markdown, a row for each 10,000 requests, and the growth since request
20,000, which must stay below 20 MB: else the exit status is 1.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import jsonargparse
import psutil
from stub_endpoint import Stubbed, serving_stub

MOST_MB = 20.0
SETTLED = 20_000  # requests until caches and buffers are full
AT_ONCE = 32
STEP = 10_000  # requests of a row


def main(requests: int = 200_000, minutes: float = 60.0) -> None:
    """Send requests, print the memory, and exit with status 1 if it grows by 20 MB or more.

    Args:
        requests: how many to send.
        minutes: stop earlier, after so long.
    """
    with tempfile.TemporaryDirectory() as folder:
        grown = asyncio.run(_measured(Path(folder), requests, minutes))
    if grown is not None and grown >= MOST_MB:
        sys.exit(1)


async def _measured(folder: Path, requests: int, minutes: float) -> float | None:
    """Return the largest growth since request 20,000, MB; None if that was not reached."""
    began, settled, most, done = time.monotonic(), None, 0.0, 0
    errors: Counter[str] = Counter()
    deadline = began + 60.0 * minutes
    async with serving_stub(folder, "--explore", "0.1") as stubbed:
        server = psutil.Process(stubbed.process.pid)
        print("| requests | resident, MB | since request 20,000, MB | errors | requests a second |")
        print("|---:|---:|---:|---:|---:|", flush=True)
        while done < requests and time.monotonic() < deadline:
            start = time.monotonic()
            sent, failed = await _sent(stubbed, done, min(STEP, requests - done), deadline)
            done += sent
            errors += failed
            resident = server.memory_info().rss / 1e6
            if done >= SETTLED:
                settled = resident if settled is None else settled
                most = max(most, resident - settled)
            growth = "" if settled is None else f"{resident - settled:+.1f}"
            rate = sent / (time.monotonic() - start)
            print(f"| {done:,} | {resident:.1f} | {growth} | {errors.total()} | {rate:.0f} |", flush=True)
        log = (await stubbed.http.get("/v1/status")).json()["log"]
    print(
        f"\nLog: {log['waiting']} rows waiting, {log['lost']} lost. Seconds: {time.monotonic() - began:.0f}."
    )
    print("Errors: " + (", ".join(f"{count} {kind}" for kind, count in errors.most_common()) or "none") + ".")
    if settled is None:
        return None
    print(f"Largest growth since request {SETTLED:,}: {most:.1f} MB (at most {MOST_MB:g}).")
    return most


async def _sent(stubbed: Stubbed, first: int, count: int, deadline: float) -> tuple[int, Counter[str]]:
    """Send requests, 32 at once, until a deadline; return how many were sent, and the failures by kind."""
    numbers = iter(range(first, first + count))
    ends: Counter[str] = Counter()

    async def work() -> None:
        for number in numbers:
            try:
                ends[await _asked(stubbed.http, number)] += 1
            except httpx.TransportError as error:
                ends[type(error).__name__] += 1
            if time.monotonic() > deadline:
                return

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    sent = ends.total()
    del ends[""]
    return sent, ends


async def _asked(http: httpx.AsyncClient, number: int) -> str:
    """Send a request, and a score if it is a seventh one; return what was wrong, "" if nothing."""
    prompt = f"What is {number} {'plus' if number % 2 else 'times'} {number % 7}?"
    body = {"messages": [{"role": "user", "content": prompt}], "stream": number % 4 == 0}
    got = await http.post("/v1/chat/completions", json=body)
    if got.status_code != 200:
        return f"answers of status {got.status_code} ({got.text[:80]})"
    if body["stream"] and not got.text.endswith("data: [DONE]\n\n"):
        return "streams cut"
    if number % 7 != 0:
        return ""
    outcome = {"decision": got.headers["x-router-rl-decision"], "score": number % 3 / 2}
    scored = await http.post("/v1/outcomes", json=outcome)
    return "" if scored.status_code == 200 else f"scores of status {scored.status_code}"


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
