"""A router between two models, and its server in front of the fault server."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fault_server import FaultServer
from two_models import queue_router_of, sums

from router_rl import Objective, QueueingProblem, RoutingProblem, export, fit
from router_rl.serving import app
from router_rl.serving.app import create_app
from router_rl.serving.serve_options import ServeOptions
from router_rl.serving.server import Server


def answer(model: str, prompt: str) -> str:
    """The answer of a model: it names itself, so that a test sees who answered."""
    return f"{model} answers in some words"


class Running:
    """A server that listens, and a client of it."""

    def __init__(self, server: Server, url: str) -> None:
        self.server, self.url = server, url
        self.http = httpx.Client(base_url=url, timeout=30)

    def chat(self, prompt: str, **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": prompt}]
        return self.http.post("/v1/chat/completions", json={"messages": messages, **fields})

    def rows(self) -> list[dict[str, Any]]:
        """Return the log, once everything is stored."""
        deadline = time.monotonic() + 20
        while self.server.writer.waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        return list(self.server.store.decisions())


@pytest.fixture(scope="session")
def make_router(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that trains a router: `plus` to `small` and `times` to `large`, or the reverse.

    Other words make another text pipeline of as many features.
    """

    def make(
        name: str, sign: float = 1.0, method: str = "ridge", words: tuple[str, str] = ("plus", "times")
    ) -> Path:
        problem = RoutingProblem(sums(sign, words=words), Objective(compute_weight=0.05))
        folder = tmp_path_factory.mktemp("routers") / name
        export(fit(method, problem), folder, rows=problem)
        return folder

    return make


@pytest.fixture(scope="session")
def queue_router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a router that sends a prompt to the model that is right, unless a request waits there."""
    problem = QueueingProblem(sums(latency_s=(1.0, 2.0)), loads=(0.5,), window=40, episodes=2)
    folder = tmp_path_factory.mktemp("routers") / "queues"
    return queue_router_of(problem, folder, quality=1.0, wait=3.0)


@pytest.fixture(scope="session")
def router(make_router: Callable[..., Path]) -> Path:
    return make_router("router", 1.0)


@pytest.fixture(scope="session")
def other_router(make_router: Callable[..., Path]) -> Path:
    """Return a router that sends every prompt where `router` does not."""
    return make_router("other", -1.0)


@pytest.fixture
def backend() -> Iterator[FaultServer]:
    with FaultServer(answer) as server:
        yield server


@pytest.fixture
def models(backend: FaultServer, tmp_path: Path) -> Path:
    lines = [
        f"  - {{name: {name}, model: openai/{name}, api_base: {backend.url}, timeout: 2, "
        f"price: {{input: {price}, output: {4 * price}}}}}"
        for name, price in (("small", 0.1), ("large", 2.0))
    ]
    path = tmp_path / "models.yaml"
    path.write_text("models:\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def serve(router: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a context manager: a server in a thread, and a client of it."""
    # A full collection over all that the tests have imported, at each start, takes longer than most tests.
    quick = SimpleNamespace(collect=lambda: None, freeze=gc.freeze, unfreeze=gc.unfreeze)
    monkeypatch.setattr(app, "gc", quick)

    @contextmanager
    def run(folder: Path = router, listed: Path = models, **changes: Any) -> Iterator[Running]:
        options = ServeOptions(**{"log": f"sqlite:///{tmp_path}/log.db", "poll_s": 0.05, **changes})
        server = Server(folder, listed, options)
        config = uvicorn.Config(create_app(server), port=0, log_level="warning", access_log=False)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        while not running.started and thread.is_alive():
            time.sleep(0.01)
        port = running.servers[0].sockets[0].getsockname()[1]
        client = Running(server, f"http://127.0.0.1:{port}")
        try:
            yield client
        finally:
            client.http.close()
            running.should_exit = True
            thread.join(20)

    return run
