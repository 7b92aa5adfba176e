"""A server that is killed under load: every answered decision is in the log, none twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fault_server import FaultServer

from router_rl.serving.log_store import LogStore

ROOT = Path(__file__).resolve().parents[3]


def test_kill_9_loses_no_answered_decision(
    router: Path, models: Path, backend: FaultServer, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = f"sqlite:///{tmp_path}/log.db"
    words = ["serve", "--router", str(router), "--models", str(models), "--log", log, "--port", str(port)]
    process = subprocess.Popen([sys.executable, str(ROOT / "train_router.py"), *words])
    url, answered = f"http://127.0.0.1:{port}", list[str]()
    try:
        _wait_for(url, process)

        def ask(first: int) -> None:
            with suppress(httpx.TransportError), httpx.Client(base_url=url, timeout=30) as client:
                for number in range(first, first + 1000):
                    message = {"role": "user", "content": f"What is {number} plus 4?"}
                    body = {"messages": [message], "stream": number % 2 == 0}
                    with client.stream("POST", "/v1/chat/completions", json=body) as got:
                        answered.append(got.headers["x-router-rl-decision"])
                        got.read()

        threads = [threading.Thread(target=ask, args=(1000 * at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 40:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    finally:
        process.kill()
        process.wait()
    store = LogStore(log, create=False)
    logged = [row["id"] for row in store.decisions()]
    store.close()
    assert len(logged) == len(set(logged))
    assert set(answered) <= set(logged)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while True:
        with suppress(httpx.TransportError):
            httpx.get(f"{url}/healthz")
            return
        if process.poll() is not None:
            pytest.fail("the server ended")
        time.sleep(0.1)
