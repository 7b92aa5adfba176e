"""docs/serve.md runs as written, against a server of this machine."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fault_server import FaultServer

import train_router
from experts import DecisionLog, OutcomeTable

ROOT = Path(__file__).resolve().parents[1]
ASKED = 120  # requests of each server that learns or is exported


def answer(model: str, prompt: str) -> str:
    """`small` can add, `large` can multiply too."""
    first, second = map(int, re.findall(r"\d+", prompt))
    if "plus" in prompt:
        return f"It is {first + second}."
    return f"It is {first * second if model == 'large' else 0}."


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    assert {kind for kind, _ in blocks} == {"yaml", "json", "sh", "python"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("LARGE_KEY", "key-of-large")
    names: dict[str, object] = {"__name__": "serve"}
    statuses: list[dict[str, Any]] = []
    url = ""
    with FaultServer(answer) as server, ExitStack() as started:
        serving = ExitStack()  # one server at a time: the page restarts it with other options
        started.callback(lambda: serving.close())
        for kind, block in blocks:
            if kind == "yaml":
                assert "http://localhost:8000/v1" in block
                Path("models.yaml").write_text(block.replace("http://localhost:8000/v1", server.url))
            elif kind == "json":
                example = json.loads(block)
                rows = [
                    {"prompt": f"What is {i} {name} {j}?", "reference": str(right), "group": name}
                    for i in range(11, 19)
                    for j in (15, *range(26, 51))
                    for name, right in (("plus", i + j), ("times", i * j))
                ]
                assert example in rows
                Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            elif kind == "sh":
                for line in block.splitlines():
                    program, *arguments = shlex.split(line)
                    assert program == "train_router.py"
                    if "log.parquet" in arguments:
                        _log(names["router"])
                    if arguments[0] == "serve":
                        serving.close()
                        serving = ExitStack()
                        url = serving.enter_context(_serving(arguments))
                        if "--shadow" in arguments or "--online" in arguments:
                            _asked_and_scored(url)
                            statuses.append(_status(url))
                        continue
                    if arguments[:2] == ["log", "export"]:
                        _asked_and_scored(url)
                    assert train_router.main(arguments) == 0
            else:
                exec(compile(block.replace("http://127.0.0.1:8080", url), "serve.md", "exec"), names)
        _close_litellm()
        assert {body["authorization"] for body in server.requests if body["model"] == "large"} == {
            "Bearer key-of-large"
        }
    shadow, online = statuses
    assert shadow["shadow"]["decisions"] == ASKED
    assert 0.0 <= shadow["shadow"]["utility"]["dr"]["mean"] <= 1.1
    assert online["online"]["method"] == "thompson"
    assert online["online"]["decisions"] >= 2 * ASKED  # those of the servers before it, and its own
    assert online["router"]["folder"] == "router"  # after the rollback
    table = OutcomeTable.read(tmp_path / "table.parquet", progress=False)
    assert table.quality.mean(axis=0).tolist() == [0.5, 1.0]
    printed = capsys.readouterr().out.splitlines()
    expected = [
        "['small', 'large']",
        "It is 30.",
        "Answer(expert='small', text='It is 29.')",
        "large It is 210.",
        "No drift.",
    ]
    shown = [line for line in printed if line in expected]
    assert shown[-1] == "No drift."
    # The log of the server is monitored too; 1% of logs raise an alarm by chance.
    assert [line for line in shown if line != "No drift."] == expected[:-1]


@contextmanager
def _serving(arguments: list[str]) -> Iterator[str]:
    """Run the command in a process of its own; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "train_router.py"), *arguments, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with suppress(httpx.TransportError):
                httpx.get(f"{url}/healthz")
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def _asked_and_scored(url: str) -> None:
    """Requests with outcomes, of both kinds, until each model has answered some."""
    with httpx.Client(base_url=url, timeout=30) as client:
        for number in range(ASKED):
            kind = "plus" if number % 2 else "times"
            first = 11 + number % 8
            message = {"role": "user", "content": f"What is {first} {kind} 15?"}
            got = client.post("/v1/chat/completions", json={"messages": [message]})
            right = (
                str(first + 15 if number % 2 else first * 15)
                in got.json()["choices"][0]["message"]["content"]
            )
            decision = got.headers["x-router-rl-decision"]
            client.post("/v1/outcomes", json={"decision": decision, "score": float(right)})


def _status(url: str) -> dict[str, Any]:
    """Return what the live page shows."""
    return httpx.get(f"{url}/v1/status", timeout=300).json()


def _log(router) -> None:
    """What the router served, from the table: nothing has changed."""
    table = OutcomeTable.read("table.parquet", progress=False)
    chosen = router.route([str(prompt) for prompt in table.prompt]).experts[:, 0].numpy()
    rows = np.arange(len(table))
    DecisionLog(
        experts=table.experts,
        query_id=table.query_id,
        action=chosen,
        propensity=np.ones(len(table)),
        quality=table.quality[rows, chosen],
        cost=table.cost[rows, chosen],
    ).write(Path("log.parquet"))


def _close_litellm() -> None:
    """Close what it would keep open for the next call."""
    import litellm

    for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
        if not asyncio.iscoroutinefunction(getattr(client, "close", None)):
            client.close()
    litellm.in_memory_llm_clients_cache.flush_cache()
