"""A router of engines behind the endpoint reads what the environment shows it, and what engines report."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from served_replay import NAMES, PRICES, Clock, Replay, api_problem
from two_models import queue_router_of

from experts import InputError
from experts.llm.endpoints import read_models
from experts.llm.server_options import ContinuousOptions
from router_rl import QueueingProblem, export
from router_rl.methods.agents.env_training import new_policy
from router_rl.methods.queueing.index_router import index_router, scorer_of, with_weights
from router_rl.methods.queueing.learned_latency import learned_router
from router_rl.problems.problem import ActionPolicy
from router_rl.serving.decider import Decider
from router_rl.serving.engine_metrics import EngineLoad, engine_load, watch_engines
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.served_engines import ServedEngines
from router_rl.serving.served_queues import ServedQueues
from router_rl.serving.served_servers import Call, RequestTokens

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")

PLUS = "What is 3 plus 4?"
WEIGHTS = {"quality": 1.0, "compute": 0.1, "lateness": 0.5, "first": 0.5, "wait": 0.2, "jobs": 0.02}
SLOW = {"step_s": (0.05, 0.08), "prefill_s": 1e-3, "max_seqs": (4, 3)}
SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {"continuous": ContinuousOptions(), "loads": 0.5},
    "full": {"continuous": ContinuousOptions(**SLOW), "loads": 1.5},
    "small_caches": {"continuous": ContinuousOptions(**SLOW, kv_tokens=(1_500, 900)), "loads": 1.2},
    "outages": {"continuous": ContinuousOptions(**SLOW), "mean_up": 6.0, "mean_repair": 2.0},
    "chunks": {"continuous": ContinuousOptions(**SLOW, chunk=100)},
}
AHEAD, TOKEN = slice(14, 16), slice(18, 20)


def engine_problem(**options: Any) -> QueueingProblem:
    """Return a problem of two engines, whose trace has the lengths of prompts and answers."""
    return api_problem("continuous", **options)


def exported(problem: QueueingProblem, kind: str, folder: Path) -> LoadedRouter:
    """Export a router or a policy that reads every part of the state."""
    generator = torch.Generator().manual_seed(1)
    if kind == "network":
        policy = new_policy(problem, problem.core("train", problem.case, lanes=2, seed=5), 16, 0)
        with torch.no_grad():
            for weight in policy.layers.parameters():
                weight.normal_(0.0, 0.3, generator=generator)
        module = problem.finish(ActionPolicy(actions=policy.act, module=policy)).module
        export(module.requires_grad_(False).eval(), folder)
        return LoadedRouter.of(folder)
    router = learned_router(problem, 0) if kind == "learned" else index_router(problem)
    with_weights(router, WEIGHTS)
    prices = scorer_of(router).prices
    prices.copy_(0.02 * torch.randn(prices.shape, generator=generator))
    export(problem.finish(router), folder, rows=problem)
    return LoadedRouter.of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["index", "learned", "network"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_served_router_reads_and_decides_as_in_the_environment(
    tmp_path: Path, setting: str, kind: str
) -> None:
    """At each request of an episode, to float tolerance, with the loads and the tokens of the environment.

    A prompt counts as not computed until its first token, so with several chunks a prompt, and where a
    sequence is preempted, the tokens ahead differ from those of the environment. Sequences that end in the
    same step count in another order, so the running mean of token times differs by up to a hundredth.
    """
    problem = engine_problem(**SETTINGS[setting])
    loaded = exported(problem, kind, tmp_path / "router")
    replay = Replay(problem, loaded, problem.core("test", problem.case, lanes=1, seed=3))
    features, chosen, rows, differ = loaded.router.features, [], [], 0
    for _ in range(problem.config.window + 1):
        observation, served, expert = replay.step()
        state, seen = served[:, features:].clone(), observation[:, features:]
        close = torch.isclose(state[:, AHEAD], seen[:, AHEAD], rtol=1e-5, atol=1e-3)
        differ += int((~close).sum())
        if setting == "chunks":
            assert (state[:, AHEAD] >= seen[:, AHEAD] - 1e-3).all()
        whole = served if setting in ("chunks", "small_caches") else observation
        if setting in ("chunks", "small_caches"):
            state[:, AHEAD] = seen[:, AHEAD]
        torch.testing.assert_close(state[:, TOKEN], seen[:, TOKEN], rtol=1e-2, atol=1e-5)
        state[:, TOKEN] = seen[:, TOKEN]
        torch.testing.assert_close(state, seen, rtol=1e-5, atol=1e-5)
        with torch.inference_mode():
            mask = replay.decider.breaker.mask()  # an engine that is down is not chosen
            best = int(loaded.router(whole[:, :features], whole[:, features:], mask).experts[0, 0])
        assert expert == NAMES[best]
        chosen.append(expert)
        rows.append(seen[0])
    parts = torch.stack(rows)
    assert set(chosen) == set(NAMES) or kind == "network"
    assert (parts[:, 2:4] > 0).any()  # requests at work
    assert (parts[:, 12:14] > 0).any()  # used caches
    assert (parts[:, :2] > 0).any() or setting == "usual"  # requests that wait
    assert (differ > 0) == (setting in ("chunks", "small_caches"))
    assert bool(parts[:, 4:6].any()) == (setting == "outages")


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a router that sends a prompt to the model that is right, unless its engine is full."""
    problem = engine_problem(continuous=ContinuousOptions(**SLOW))
    return queue_router_of(problem, tmp_path_factory.mktemp("routers") / "engines", quality=1.0, wait=10.0)


def served(folder: Path) -> tuple[Decider, ServedQueues, Clock, ServedEngines]:
    """Return the decider and the queues of a router of engines, on a clock that stands still."""
    clock, loaded = Clock(), LoadedRouter.of(folder)
    queues = ServedQueues(metrics=NAMES, clock=clock)
    decider = Decider(Live(loaded), PRICES, queues=queues)
    engines = queues.servers(loaded)
    assert isinstance(engines, ServedEngines)
    return decider, queues, clock, engines


def test_a_load_and_the_requests_sent_since(engine_folder: Path) -> None:
    """`small` has 4 seats; 3 are taken when it is asked, and two requests follow."""
    decider, queues, clock, engines = served(engine_folder)
    loaded = decider.live.router
    assert engines.constants.seats[0] == 4
    with queues.request("small") as before:
        queues.sent(before, RequestTokens(7.0), 0.0)
        clock.now += 0.1
        queues.reported("small", EngineLoad(3.0, 0.0, 0.4), clock.now)
        assert engines.now({}, clock.now)[:3] == ([0.0, 0.0], [3.0, 0.0], [0.4, 0.0])
        clock.now += 0.1
        with queues.request("small") as first, queues.request("small") as second:
            for call in (first, second):
                queues.sent(call, RequestTokens(5.0), 0.0)
            assert queues.waiting(loaded, "small") == 1
            current = engines.now(queues._calls, clock.now)
            assert (current.waiting, current.taken) == ([1.0, 0.0], [4.0, 0.0])
            assert current.ahead == [17.0, 0.0]
            queues.reported("small", EngineLoad(2.0, 1.0, 0.4), clock.now - 0.01)  # a seat without room
            current = engines.now(queues._calls, clock.now)
            assert (current.waiting[0], current.taken[0]) == (3.0, 2.0)
            queues.reported("small", EngineLoad(4.0, 1.0, 0.5), clock.now)
            assert engines.now(queues._calls, clock.now)[:2] == ([1.0, 0.0], [4.0, 0.0])
            queues.sent(second, RequestTokens(5.0), 2.0)  # waits for a rate limit of the list
            assert engines.now(queues._calls, clock.now).waiting[0] == 2.0
    assert queues.waiting(loaded, "small") == 1
    assert queues.waiting(loaded, "other") is None


def test_an_old_load_is_not_used(engine_folder: Path) -> None:
    _, queues, clock, engines = served(engine_folder)
    queues.reported("small", EngineLoad(4.0, 9.0, 0.9), clock.now)
    clock.now += 4.0
    assert engines.now({}, clock.now)[:3] == ([9.0, 0.0], [4.0, 0.0], [0.9, 0.0])
    clock.now += 2.0
    with queues.request("small"), queues.request("large"):
        assert engines.now(queues._calls, clock.now)[:3] == ([0.0, 0.0], [1.0, 1.0], [0.25, 1 / 3])


def test_first_tokens_and_times(engine_folder: Path) -> None:
    _, queues, clock, engines = served(engine_folder)
    first, token = (each[0] for each in engines.recent())
    assert (first, token) == (engines.constants.first[0], engines.constants.token_s[0])
    with queues.request("small") as call:
        queues.sent(call, RequestTokens(50.0), 0.0, streamed=True)
        clock.now += 10.0
        assert engines.now(queues._calls, clock.now).ahead == [50.0, 0.0]
        queues.first_token(call)
        assert engines.now(queues._calls, clock.now).ahead == [0.0, 0.0]
        assert engines.recent()[0][0] == pytest.approx(first + (10.0 - first) / 8)
        clock.now += 3.0
        queues.answered(call, (50, 7), seconds=13.0, first_s=10.0)
    assert engines.recent()[1][0] == pytest.approx(token + (0.5 - token) / 8)
    means = [each[0] for each in engines.recent()]
    with queues.request("small") as call:  # not streamed: computed when a first token is due
        queues.sent(call, RequestTokens(50.0), 0.0)
        assert engines.now(queues._calls, clock.now).ahead == [50.0, 0.0]
        assert engines.now(queues._calls, clock.now + 1.01 * means[0]).ahead == [0.0, 0.0]
        queues.answered(call, (50, 1), seconds=2.0, first_s=None)
    assert engines.recent()[0][0] == pytest.approx(means[0] + (2.0 - means[0]) / 8)
    before = engines.recent()
    with queues.request("other") as call:
        queues.sent(call, RequestTokens(50.0), 0.0, streamed=True)
        queues.first_token(call)
        queues.answered(call, (50, 7), seconds=1.0, first_s=0.5)
    assert engines.recent() == before
    assert engines.slowdown[1] == 1.0


VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
process_open_fds 41.0
"""
SGLANG = """sglang:num_running_reqs{model_name="m",tp_rank="0",priority=""} 5.0
sglang:num_running_reqs{model_name="m",tp_rank="0",priority="1"} 2.0
sglang:num_running_reqs{model_name="m",tp_rank="1",priority=""} 5.0
sglang:token_usage{model_name="m"} 0.75
sglang:num_queue_reqs{model_name="m"} 6.0
"""


def test_metrics_are_read() -> None:
    assert engine_load(VLLM) == EngineLoad(4.0, 2.0, 0.375)
    assert engine_load(VLLM.replace("kv_cache", "gpu_cache")) == EngineLoad(4.0, 2.0, 0.375)
    assert engine_load(SGLANG) == EngineLoad(5.0, 6.0, 0.75)
    for wrong in ("", "<html>", "process_open_fds 41.0", "\n".join(SGLANG.splitlines()[:4])):
        with pytest.raises(ValueError, match="not the metrics of vLLM or SGLang"):
            engine_load(wrong)
    with pytest.raises(ValueError, match="three"):
        engine_load(VLLM.replace("3.0", "three"))


class Metrics:
    """A server of metrics, in a thread."""

    def __init__(self, text: str) -> None:
        self.text: str | None = text
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = (outer.text or "").encode()
                self.send_response(503 if outer.text is None else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/metrics"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def make_metrics() -> Iterator[Callable[[str], Metrics]]:
    made: list[Metrics] = []

    def make(text: str) -> Metrics:
        made.append(Metrics(text))
        return made[-1]

    yield make
    for each in made:
        each.server.shutdown()
        each.server.server_close()


@pytest.fixture
def metrics(make_metrics: Callable[[str], Metrics]) -> Metrics:
    return make_metrics(VLLM)


def test_an_engine_that_cannot_be_read_is_said_once(
    metrics: Metrics, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, EngineLoad, float]] = []

    async def watch() -> None:
        task = asyncio.create_task(watch_engines({"small": metrics.address}, lambda *each: seen.append(each)))
        for text in (VLLM, None, "<html>", SGLANG):
            metrics.text = text
            await asyncio.sleep(0.4)
        task.cancel()

    began = time.monotonic()
    asyncio.run(watch())
    assert {load for _, load, _ in seen} == {EngineLoad(4.0, 2.0, 0.375), EngineLoad(5.0, 6.0, 0.75)}
    assert {name for name, *_ in seen} == {"small"}
    assert all(began <= asked <= time.monotonic() for *_, asked in seen)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("models.small.metrics") == 2
    assert "cannot be read: 503" in said
    assert "until then its load is that of the requests of this server" in said
    assert said.endswith("models.small.metrics: is read again")


def test_models_without_metrics_are_named(tmp_path: Path, engine_folder: Path) -> None:
    live = Live(LoadedRouter.of(engine_folder))
    words = r"models\.large\.metrics.*trained on engines.*http://localhost:8000/metrics"
    with pytest.raises(InputError, match=words):
        Decider(live, PRICES, queues=ServedQueues(metrics=["small"]))
    path = tmp_path / "models.yaml"
    for wrong in ("localhost:8000", "3", '"http://a\\nb"'):
        path.write_text(f"models:\n  - {{name: a, model: openai/a, metrics: {wrong}}}\n")
        with pytest.raises(InputError, match=r"models.*metrics"):
            read_models(path)


def test_a_full_engine_sends_requests_to_the_other_model(
    serve: Callable[..., Any], engine_folder: Path, models: Path, make_metrics: Callable[[str], Metrics]
) -> None:
    idle = SGLANG.replace("5.0", "0.0").replace("6.0", "0.0").replace("0.75", "0.0")
    metrics, other = make_metrics(idle), make_metrics(idle)
    text = models.read_text()
    for name, each in (("small", metrics), ("large", other)):
        text = text.replace(f"{{name: {name}", f"{{metrics: '{each.address}', name: {name}")
    models.write_text(text)
    with serve(engine_folder) as running:
        decider = running.server.decider
        engines = decider.queues.servers(decider.live.router)
        usual, ended = engines.constants.first[0], decider.queues.answered
        calls: list[Call] = []
        decider.queues.answered = lambda call, *more: calls.append(call) or ended(call, *more)
        assert running.chat(PLUS, stream=True).headers["x-router-rl-expert"] == "small"
        assert engines.recent()[0][0] != usual
        assert running.chat(PLUS).headers["x-router-rl-expert"] == "small"
        assert [(call.streamed, call.first is not None) for call in calls] == [(True, True), (False, False)]
        metrics.text = SGLANG
        deadline = time.monotonic() + 10.0
        while running.http.get("/v1/status").json()["queues"]["small"]["waiting"] != 6:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert running.chat(PLUS).headers["x-router-rl-expert"] == "large"
