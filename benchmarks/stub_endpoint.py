"""A stub of a model that answers at once, and `serve` in front of it, for benchmarks."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import numpy as np

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem, export, fit

__all__ = ["Stubbed", "first_words", "serving_stub"]

ROOT = Path(__file__).resolve().parents[1]
# Four words with every answer: whole, or a chunk each.
STUB = """
import json, sys, uvicorn
usage = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}
shared = {"id": "x", "created": 1, "model": "m"}
words = ["four ", "words ", "it ", "is"]
choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}
whole = json.dumps({**shared, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
def event(choices, **more):
    chunk = {**shared, "object": "chat.completion.chunk", "choices": choices, **more}
    return f"data: {json.dumps(chunk)}\\n\\n".encode()
def piece(delta, reason=None):
    return event([{"index": 0, "delta": delta, "finish_reason": reason}])
chunks = [piece({"role": "assistant", "content": word}) for word in words]
chunks += [piece({}, "stop"), event([], usage=usage) + b"data: [DONE]\\n\\n"]
async def app(scope, receive, send):
    content, more = b"", True
    while more:
        message = await receive()
        content, more = content + message.get("body", b""), message.get("more_body", False)
    streamed = json.loads(content).get("stream", False)
    kind = b"text/event-stream" if streamed else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    for chunk in chunks if streamed else []:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"" if streamed else whole})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off")
"""


class Stubbed:
    """A running `serve` and its stub.

    Attributes:
        http: a client of `serve`.
        stub: address of the stub, which ends in `/v1`.
        process: of `serve`.
    """

    def __init__(self, http: httpx.AsyncClient, stub: str, process: subprocess.Popen[bytes]) -> None:
        self.http, self.stub, self.process = http, stub, process

    def cpu_seconds(self) -> float:
        """Return the CPU time that `serve` has taken (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving_stub(
    folder: Path, *options: str, through_litellm: bool = False
) -> AsyncGenerator[Stubbed, None]:
    """Start the stub and `serve`, each in a process of its own, and end them.

    Args:
        folder: for the router, the model list and the log.
        options: more words of the command line of `serve`.
        through_litellm: let `serve` call the stub through LiteLLM, as it calls servers of other protocols.
    """
    stub, port = _free_port(), _free_port()
    base = f"http://127.0.0.1:{stub}/v1"
    models = _inputs(folder, base, "{extra_body: {}}" if through_litellm else "{}")
    words = ["serve", "--router", "router", "--models", str(models), "--port", str(port), *options]
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    processes = [
        subprocess.Popen([sys.executable, "-c", STUB, str(stub)]),
        subprocess.Popen(
            [sys.executable, str(ROOT / "train_router.py"), *words], cwd=folder, env=environment
        ),
    ]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            await _ready(http)
            yield Stubbed(http, base, processes[1])
    finally:
        for process in processes:
            process.terminate()
            process.wait()


async def first_words(http: httpx.AsyncClient, prompt: str) -> float | None:
    """Ask for a stream and read it; return `time.perf_counter` of its first words, None for an error.

    Args:
        http: a client of a server of the OpenAI protocol.
        prompt: text of the request.
    """
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "stream": True}
    first, done = None, False
    with suppress(httpx.TransportError):
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if first is None and '"content"' in line:
                    first = time.perf_counter()
                done = done or line == "data: [DONE]"
    return first if done else None


async def _ready(http: httpx.AsyncClient) -> None:
    for _ in range(3000):
        with suppress(httpx.TransportError):
            await http.get("/healthz")
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the server does not answer")


def _inputs(folder: Path, base: str, model_options: str) -> Path:
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
    rest = f"api_base: {base}, price: {{input: 1, output: 4}}, options: {model_options}"
    lines = [f"  - {{name: {name}, model: openai/{name}, {rest}}}" for name in table.experts]
    path = folder / "models.yaml"
    path.write_text("models:\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
