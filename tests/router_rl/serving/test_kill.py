"""A server that is killed under load: every answered decision and outcome is in the log, none twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from router_rl.serving.log_store import LogStore

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_kill_9_loses_no_answered_decision_and_no_outcome(
    router: Path, models: Path, serve: Callable[..., Any], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = f"sqlite:///{tmp_path}/log.db"
    words = ["serve", "--router", str(router), "--models", str(models), "--log", log, "--port", str(port)]
    words += ["--online", "thompson"]
    process = subprocess.Popen([sys.executable, str(ROOT / "train_router.py"), *words])
    url, answered, scored = f"http://127.0.0.1:{port}", list[str](), list[str]()
    try:
        _wait_for(url, process)

        def ask(first: int) -> None:
            with suppress(httpx.TransportError), httpx.Client(base_url=url, timeout=30) as client:
                for number in range(first, first + 1000):
                    message = {"role": "user", "content": f"What is {number} plus 4?"}
                    body = {"messages": [message], "stream": number % 2 == 0}
                    with client.stream("POST", "/v1/chat/completions", json=body) as got:
                        decision = got.headers["x-router-rl-decision"]
                        answered.append(decision)
                        got.read()
                    outcome = {"decision": decision, "score": 1.0}
                    if client.post("/v1/outcomes", json=outcome).status_code == 200:
                        scored.append(decision)

        threads = [threading.Thread(target=ask, args=(1000 * at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        while len(scored) < 40:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    finally:
        process.kill()
        process.wait()
    store = LogStore(log, create=False)
    rows = list(store.decisions())
    store.close()
    logged = [row["id"] for row in rows]
    assert len(logged) == len(set(logged))
    assert set(answered) <= set(logged)
    known = {row["id"] for row in rows if row["score"] is not None}
    assert set(scored) <= known
    counted = sum(row["score"] is not None and row["cost_usd"] is not None for row in rows)
    assert counted >= len(known) - 8  # of streams that were killed the cost is unknown
    with serve(online="thompson") as running:  # the same log
        assert running.server.learner.decisions() == counted


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while True:
        with suppress(httpx.TransportError):
            httpx.get(f"{url}/healthz")
            return
        if process.poll() is not None:
            pytest.fail("the server ended")
        time.sleep(0.1)
