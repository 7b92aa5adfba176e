"""A queue router behind the endpoint: it reads requests in flight, arrivals, failures and speeds."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_server import FaultServer
from two_models import queue_router_of, sums

from experts import InputError
from experts.table.prices import Price
from router_rl import QueueingProblem
from router_rl.routing import LiveQueues, load_router
from router_rl.routing.policies.live_queues import adapted_queues, predicted_service
from router_rl.serving.chat_request import ChatRequest, Deadlines
from router_rl.serving.decider import Decider
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.served_queues import ServedQueues

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")

PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"
PRICES = {"small": Price(input=0.1, output=0.4), "large": Price(input=2.0, output=8.0)}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def asking(running: Any, *prompts: str, **fields: Any) -> Iterator[list[Any]]:
    """Send prompts one after another, each before the earlier ones are answered; wait for all at the end."""
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda text=prompt: answers.append(running.chat(text, **fields)))
        for prompt in prompts
    ]
    for count, thread in enumerate(threads, 1):
        thread.start()
        _until(lambda sent=count: sum(in_flight(running).values()) == sent)
    yield answers
    for thread in threads:
        thread.join(20)


def in_flight(running: Any) -> dict[str, int]:
    return {name: each["in_flight"] for name, each in running.server.decider.queue_status().items()}


def _until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_decider_reads_what_live_queues_do(queue_router: Path) -> None:
    clock = Clock()
    loaded = LoadedRouter.of(queue_router)
    decider = Decider(Live(loaded), PRICES, queues=ServedQueues(deadline_s=3.0, clock=clock))
    reference = LiveQueues(load_router(queue_router))
    assert loaded.router.text is not None
    with ExitStack() as held:
        for step in range(40):
            clock.now += 0.1 + 0.3 * (step % 3)
            prompt = TIMES if step % 4 == 0 else PLUS
            counts = [decider.queues.in_flight(name) for name in ("small", "large")]
            if step == 30:
                decider.breaker.failed("large")
            decision = decider.decide(
                prompt, arrived=True, deadlines=Deadlines(1.5 if step % 5 == 0 else None)
            )
            expected = reference.route(
                loaded.router.text([prompt])[0],
                clock.now,
                waiting=[max(0, count - 1) for count in counts],
                taken=[min(1, count) for count in counts],
                deadline_s=1.5 if step % 5 == 0 else 3.0,
                down=[False, step >= 30],
            )
            if step < 30:
                assert list(decision.scores.values()) == pytest.approx(expected.logits[0].tolist(), rel=1e-6)
            else:
                assert decision.scores["small"] == pytest.approx(float(expected.logits[0, 0]), rel=1e-6)
                assert decision.expert == "small"
            held.enter_context(decider.queues.request(decision.expert))
            if step % 8 == 7:
                held.close()  # all are answered


def test_only_requests_that_are_answered_count_as_arrivals(
    serve: Callable[..., Any], queue_router: Path, backend: FaultServer
) -> None:
    with serve(queue_router) as running:
        running.chat(PLUS)
        queues = running.server.decider.queues
        before = queues._gaps.means(1.0)
        for _ in range(20):
            got = running.http.post("/v1/route", json={"prompt": PLUS, "deadline_s": 2, "session": "a"})
            assert got.json()["expert"] == "small"
        assert queues._gaps.means(1.0) == before
        assert in_flight(running) == {"small": 0, "large": 0}
        faulty = f"{PLUS} <<500>>"
        best = running.server.decider.decide(faulty).expert
        backend.exempt |= {"small", "large"} - {best}
        assert running.chat(faulty).headers["x-router-rl-expert"] != best  # two attempts, and one arrival
        after = queues._gaps.means(1.0)
        weight = queues._gaps._weights
        assert after != before
        assert weight == pytest.approx([7 / 8, 63 / 64])


def test_a_queue_sends_requests_to_the_other_model(
    serve: Callable[..., Any], queue_router: Path, backend: FaultServer
) -> None:
    backend.seconds = 1.0
    with serve(queue_router) as running:
        with asking(running, PLUS, PLUS, PLUS) as answers:
            assert in_flight(running) == {"small": 2, "large": 1}
            status = running.http.get("/v1/status").json()["queues"]
            assert status["small"] == {"in_flight": 2, "waiting": 1, "excluded": None}
            metrics = running.http.get("/metrics").text
            for line in ('in_flight{expert="small"} 2.0', 'queued{expert="small"} 1.0'):
                assert f"router_rl_{line}" in metrics
        assert all(each.status_code == 200 for each in answers)
        assert in_flight(running) == {"small": 0, "large": 0}
        assert sorted(row["expert"] for row in running.rows()) == ["large", "small", "small"]
        assert running.chat(PLUS).headers["x-router-rl-expert"] == "small"


def test_replicas_of_the_model_list_hold_more_requests(
    serve: Callable[..., Any], queue_router: Path, backend: FaultServer, models: Path
) -> None:
    models.write_text(models.read_text().replace("{name: small,", "{name: small, replicas: 3,"))
    backend.seconds = 1.0
    with serve(queue_router) as running, asking(running, PLUS, PLUS, PLUS):
        assert in_flight(running) == {"small": 3, "large": 0}
        queue = running.http.get("/v1/status").json()["queues"]["small"]
        assert queue == {"in_flight": 3, "waiting": 0, "excluded": None}


@pytest.mark.slow
def test_nothing_stays_in_flight(serve: Callable[..., Any], queue_router: Path) -> None:
    with serve(queue_router) as running:
        for fault in ("500", "400", "429", "cut", "hang", "midcut"):
            for stream in (False, True):
                running.chat(f"{PLUS[:-1]} {stream}? <<{fault}>>", stream=stream)
                _until(lambda: not any(in_flight(running).values()))
        ends = {(row["status"], row["expert"]) for row in running.rows()}
    assert ends >= {("failed", "small"), ("failed", "large")}
    assert "cut" in {status for status, _ in ends}


@pytest.mark.parametrize("words", [0, 1])
def test_a_client_that_leaves_is_not_in_flight(
    serve: Callable[..., Any], queue_router: Path, backend: FaultServer, words: int
) -> None:
    """Also where it leaves before the first word, so that nothing of the answer is ever sent."""
    backend.seconds, backend.pace = 0.3, 0.2
    with serve(queue_router) as running:
        address = running.url.removeprefix("http://").split(":")
        body = f'{{"stream": true, "messages": [{{"role": "user", "content": "{PLUS}"}}]}}'
        with socket.create_connection((address[0], int(address[1]))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            _until(lambda: in_flight(running)["small"] == 1)
            if words:
                connection.recv(1)
        _until(lambda: not any(in_flight(running).values()))
        _until(lambda: running.rows()[0]["status"] == "gone")


def test_an_answer_that_nobody_reads_ends(serve: Callable[..., Any], queue_router: Path) -> None:
    """Its stream is closed before the first chunk is asked for."""
    request = ChatRequest.of({"messages": [{"role": "user", "content": PLUS}], "stream": True})
    with serve(queue_router) as running:

        async def left() -> None:
            started = await running.server.answering.start(request)
            assert in_flight(running)["small"] == 1
            assert started.chunks is not None
            await started.chunks.aclose()
            assert in_flight(running)["small"] == 0

        asyncio.run(left())
        assert [row["status"] for row in running.rows()] == ["gone"]


def test_shadow_and_canary_read_the_queues(queue_router: Path, router: Path) -> None:
    """In each of the four places, beside a router that reads none."""
    queued, plain = LoadedRouter.of(queue_router), LoadedRouter.of(router)
    decider = Decider(Live(plain, queued, 0.25, shadow=queued), PRICES, queues=ServedQueues())
    assert decider.decide(PLUS).propensities == {"small": 1.0, "large": 0.0}
    with decider.queues.request("small"), decider.queues.request("small"):
        busy = decider.decide(PLUS)
        assert busy.propensities == {"small": 0.75, "large": 0.25}
        assert busy.shadow == (queued.digest, "large")
        assert decider.is_full("small")
        decider.replace(Live(queued, plain, 0.25, shadow=plain))
        assert decider.decide(PLUS).propensities == {"small": 0.25, "large": 0.75}
    assert decider.decide(PLUS).propensities == {"small": 1.0, "large": 0.0}


def test_exploration_is_around_the_choice_of_the_queues(queue_router: Path) -> None:
    decider = Decider(Live(LoadedRouter.of(queue_router)), PRICES, queues=ServedQueues(), explore=0.2)
    decider.reseed(0)
    with decider.queues.request("small"), decider.queues.request("small"):
        decisions = [decider.decide(PLUS) for _ in range(500)]
    assert decisions[0].propensities == pytest.approx({"small": 0.1, "large": 0.9})
    share = sum(each.expert == "small" for each in decisions) / 500
    assert share == pytest.approx(0.1, abs=0.04)


def test_an_expert_that_is_down_is_not_chosen(queue_router: Path) -> None:
    decider = Decider(Live(LoadedRouter.of(queue_router)), PRICES, queues=ServedQueues())
    decider.limited("small", 30.0)
    decision = decider.decide(PLUS)
    assert (decision.expert, decision.excluded) == ("large", {"small": "rate limited"})
    adapted = decider.queues.adapted(decider.live.router)
    assert adapted is not None
    assert decider.queues.state(adapted, {"small": "rate limited"}, 2.0)[0, 4:7].tolist() == [1.0, 0.0, 2.0]
    decider.failed("large")
    assert decider.decide(PLUS).expert == "large"  # no other is left, and a limit is a limit


def test_the_deadline_of_a_request_is_read(serve: Callable[..., Any], queue_router: Path) -> None:
    with serve(queue_router, deadline_s=5.0) as running:
        read: list[float] = []
        decider = running.server.decider
        states = decider.queues.state
        decider.queues.state = lambda *a: read.append(float((found := states(*a))[0, 6])) or found
        assert running.chat(PLUS).status_code == 200
        for value in (0.5, "2.5"):
            assert running.chat(PLUS, metadata={"deadline_s": value}).status_code == 200
        assert read == pytest.approx([5.0, 0.5, 2.5], rel=1e-3)
        for wrong in (0, -1, "soon", True, "inf", "nan", [1]):
            got = running.chat(PLUS, metadata={"deadline_s": wrong})
            assert got.status_code == 400
            assert got.json()["error"]["param"] == "metadata.deadline_s"


def test_what_cannot_be_served_is_named(tmp_path: Path) -> None:
    problem = QueueingProblem(sums(latency_s=(1.0, 2.0)), loads=(0.5,), window=40, episodes=2, budget=0.5)
    folder = queue_router_of(problem, tmp_path / "budget", quality=1.0)
    with pytest.raises(InputError, match=r"was trained with a budget.*train it without --problem\.budget"):
        LoadedRouter.of(folder)


def test_an_adapted_router_is_the_router_of_slower_experts(queue_router: Path) -> None:
    """Everything in seconds grows by the factor, so decisions at times that grow too are the same."""
    router = load_router(queue_router)
    slower = adapted_queues(router, [1, 1], [3.0, 3.0])
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, router.features, generator=generator)
    state = torch.rand(50, router.state_size, generator=generator) * 4.0
    state[:, :6] = state[:, :6].round()
    later = state.clone()
    later[:, 6] *= 3.0  # deadline
    later[:, 8:10] *= 3.0  # gaps
    state[:, 4:6] = later[:, 4:6] = 0.0  # down: repairs take as long as before
    torch.testing.assert_close(slower(features, later).logits, router(features, state).logits)
    torch.testing.assert_close(predicted_service(slower, features), 3.0 * predicted_service(router, features))
    wide = adapted_queues(router, [2, 1], [1.0, 1.0])
    state[:, 0], state[:, 2] = 0.0, 1.0  # one request at the first expert: a second replica is free
    waits = router.scorer.terms(torch.cat([features, state], dim=1))[:, 0, 3]
    none = wide.scorer.terms(torch.cat([features, state], dim=1))[:, 0, 3]
    assert (waits < 0).all()
    assert (none == 0).all()


def test_measured_speeds_change_the_choice(queue_router: Path) -> None:
    """One request before is too many where `small` takes a second, and none where it takes 50 ms."""
    loaded = LoadedRouter.of(queue_router)
    decider = Decider(Live(loaded), PRICES, queues=ServedQueues())
    (queues,) = (adapted for adapted, _ in decider.decide(PLUS).predicted)
    with decider.queues.request("small"):
        assert decider.decide(PLUS).expert == "large"
    for _ in range(300):
        decision = decider.decide(PLUS)
        assert decision.expert == "small"
        ((_, predicted),) = decision.predicted
        decider.measured(decision, predicted / 20.0)
    assert queues.slowdown == pytest.approx([1 / 20, 1.0], rel=0.1)
    with decider.queues.request("small"):
        assert decider.decide(PLUS).expert == "small"
    assert loaded.router.scorer.constants.service[0] == pytest.approx(1.0)  # of the training, as it was


def test_answers_that_waited_are_not_measured(
    serve: Callable[..., Any], queue_router: Path, backend: FaultServer
) -> None:
    backend.seconds = 0.4
    with serve(queue_router) as running:
        decider, measured = running.server.decider, []
        decider.measured = lambda decision, seconds: measured.append((decision.expert, seconds))
        with asking(running, PLUS, PLUS, PLUS):
            pass
        assert sorted(name for name, _ in measured) == ["large", "small"]  # the second at `small` waited
        assert all(0.4 <= seconds < 2.0 for _, seconds in measured)
