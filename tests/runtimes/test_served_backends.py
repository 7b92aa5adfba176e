"""`serve` in front of two real servers: queues form, their load is read, one is killed and comes back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from runtimes.chat_backend import ChatBackend, write_chat_model
from served_replay import api_problem
from two_models import queue_router_of, sums

from experts.llm.server_options import ContinuousOptions
from router_rl import QueueingProblem
from router_rl.serving.app import create_app
from router_rl.serving.serve_options import ServeOptions
from router_rl.serving.served_engines import ServedEngines
from router_rl.serving.served_servers import ServersNow
from router_rl.serving.server import Server

# LiteLLM reads streams with a name that Pydantic has deprecated.
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning"),
]

PLUS = "What is 3 plus 4?"
TOKENS = 250
TOGETHER = 6


@pytest.fixture(scope="module")
def backends(
    runtime: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, ChatBackend]]:
    """Return two running servers of vLLM by name."""
    python, folder = runtime("vllm").python, tmp_path_factory.mktemp("backends")
    model = write_chat_model(folder / "model")
    both = {
        name: ChatBackend(python, model, name, folder / f"{name}.log", core)
        for core, name in enumerate(("small", "large"))
    }
    try:
        for each in both.values():
            each.start()
        for each in both.values():
            each.wait()
        yield both
    finally:
        for each in both.values():
            each.kill()


@contextmanager
def _served(
    backends: dict[str, ChatBackend], problem: QueueingProblem, folder: Path
) -> Iterator[tuple[Server, httpx.Client]]:
    """Serve a router that wants `small` for sums, and the other model where a request waits there."""
    router = queue_router_of(problem, folder / "router", quality=1.0, wait=2.0)
    models = folder / "models.yaml"
    models.write_text(
        "models:\n"
        + "".join(
            f"  - {{name: {name}, model: openai/{name}, api_base: {each.url}, price: {{output: 1}}, "
            f"metrics: {each.url.removesuffix('/v1')}/metrics, replicas: 1, timeout: 60, "
            f"max_tokens: {TOKENS}, "
            "options: {temperature: 0, extra_body: {ignore_eos: true}}}\n"
            for name, each in backends.items()
        )
    )
    server = Server(router, models, ServeOptions(log=f"sqlite:///{folder}/log.db"))
    running = uvicorn.Server(uvicorn.Config(create_app(server), port=0, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
            yield server, http
    finally:
        running.should_exit = True
        thread.join(30)


class _Requests:
    """Requests that are sent together, and who answered them."""

    def __init__(self, http: httpx.Client, count: int = TOGETHER) -> None:
        self.answered: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._ask, args=(http, number)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, http: httpx.Client, number: int) -> None:
        body = {"messages": [{"role": "user", "content": PLUS}], "stream": number % 2 == 1}
        got = http.post("/v1/chat/completions", json=body)
        complete = (
            "[DONE]" in got.text if body["stream"] else got.json()["usage"]["completion_tokens"] == TOKENS
        )
        self.statuses[got.status_code if complete else 0] += 1
        self.answered[got.headers.get("x-router-rl-expert", "none")] += 1

    @property
    def open(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(120)


def _most_in_flight(http: httpx.Client, requests: _Requests) -> dict[str, tuple[int, int]]:
    """Return the longest queues until all are answered: requests in flight and waiting, by model."""
    most = {"small": (0, 0), "large": (0, 0)}
    while requests.open:
        for name, queue in http.get("/v1/status").json()["queues"].items():
            most[name] = max(most[name], (queue["in_flight"], queue["waiting"]))
        time.sleep(0.02)
    return most


def test_a_router_of_engines_reads_the_load_of_vllm(backends: dict[str, ChatBackend], tmp_path: Path) -> None:
    """The engines have one seat each, so all but two requests wait, and the caches hold the others."""
    problem = api_problem("continuous", continuous=ContinuousOptions(max_seqs=1), loads=0.5, window=40)
    with _served(backends, problem, tmp_path) as (server, http):
        engines = server.decider.queues.servers(server.decider.live.router)
        assert isinstance(engines, ServedEngines)
        loads: list[ServersNow] = []
        answered: Counter[str] = Counter()
        deadline = time.monotonic() + 120
        # A short answer can pass between two readings, and a busy server answers its metrics late.
        while not all(any(each.taken[at] and each.used[at] for each in loads) for at in range(2)):
            assert time.monotonic() < deadline, (answered, loads[-1:])
            requests = _Requests(http)
            while requests.open:
                # What the servers report, without our own calls.
                loads.append(engines.now({}, time.monotonic()))
                time.sleep(0.02)
            assert requests.statuses == {200: TOGETHER}
            answered += requests.answered
        assert answered["large"] >= 1, "the policy sends requests to the other model"
        for at in range(2):
            assert {each.taken[at] for each in loads} >= {0.0, 1.0}
            assert 0.0 < max(each.used[at] for each in loads) < 1.0
        waiting = max(sum(each.waiting) for each in loads)
        assert 1.0 <= waiting <= TOGETHER - 1
        recent = engines.recent()
        assert all(first != usual for first, usual in zip(recent[0], engines.constants.first, strict=True))
        deadline = time.monotonic() + 10
        while any(engines.now({}, time.monotonic()).taken):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_queues_form_and_a_killed_server_comes_back(backends: dict[str, ChatBackend], tmp_path: Path) -> None:
    problem = QueueingProblem(sums(latency_s=(1.0, 1.0)), loads=(0.5,), window=40, episodes=2)
    with _served(backends, problem, tmp_path) as (server, http):
        alone = _Requests(http, 1)
        alone.join()
        assert (alone.answered, alone.statuses) == ({"small": 1}, {200: 1})

        queued = _Requests(http)
        most = _most_in_flight(http, queued)
        assert queued.statuses == {200: TOGETHER}
        assert all(waiting == max(0, in_flight - 1) for in_flight, waiting in most.values())
        assert max(waiting for _, waiting in most.values()) >= 1, "more requests than a server works on"
        assert queued.answered["large"] >= 2, "the policy sends requests to the other model"
        slow = server.status()["arrivals"]["slowdown"]
        assert slow["small"] != 1.0, "latencies are measured"

        hit = _Requests(http)
        while not http.get("/v1/status").json()["queues"]["small"]["in_flight"]:
            assert hit.open
            time.sleep(0.01)
        backends["small"].kill()
        hit.join()
        # A stream that had begun is cut; every other request is answered by the other model.
        assert hit.statuses[200] + hit.statuses[0] == TOGETHER
        assert hit.statuses[0] <= 1
        down = _Requests(http, 2)
        down.join()
        assert down.answered == {"large": 2}
        assert http.get("/v1/status").json()["experts"]["small"]["failed"] >= 1

        backends["small"].start()
        backends["small"].wait()
        deadline = time.monotonic() + 60
        while (again := _Requests(http, 1)) and not again.join() and again.answered != {"small": 1}:
            assert again.statuses == {200: 1}
            assert time.monotonic() < deadline, "the server that came back gets no request"
            time.sleep(0.5)
        rows = list(server.store.decisions())
        assert not any(each["in_flight"] for each in server.decider.queue_status().values())
    assert {row["status"] for row in rows} >= {"ok", "failed"}
    assert all(0.0 < row["propensity"] <= 1.0 for row in rows)
