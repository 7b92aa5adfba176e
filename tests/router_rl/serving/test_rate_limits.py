"""Rate limits: 429 with Retry-After, and requests and tokens a minute of the model list."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import FaultServer

from experts.llm.endpoints import Endpoint
from experts.table.prices import Price
from router_rl.routing import CircuitBreaker
from router_rl.serving.chat_request import ChatRequest
from router_rl.serving.decider import Decider
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.rate_limits import OverLimitError, RateLimits

PLUS = "What is 3 plus 4?"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def _request(prompt: str = PLUS, **rest: Any) -> ChatRequest:
    return ChatRequest.of({"messages": [{"role": "user", "content": prompt}], **rest})


def _limited(**limits: float) -> tuple[RateLimits, Clock]:
    clock = Clock()
    endpoint = Endpoint(name="small", model="openai/small", timeout=30.0, **limits)  # type: ignore[arg-type]
    return RateLimits([endpoint, Endpoint(name="large", model="openai/large")], clock), clock


def test_retry_after_is_kept(serve: Callable[..., Any], backend: FaultServer) -> None:
    with serve() as running:
        for retry_after, reason, seconds in (
            (3, "rate limited", 3.0),
            ("2.5", "rate limited", 2.5),
            ("in 40 s", "rate limited", 40.0),
            (61, "failed recently", 10.0),
            (0, "failed recently", 10.0),
            ("Wed, 21 Oct 2015 07:28:00 GMT", "failed recently", 10.0),
            ("soon", "failed recently", 10.0),
        ):
            at = datetime.now(timezone.utc) + timedelta(seconds=40)
            told = format_datetime(at, usegmt=True) if retry_after == "in 40 s" else retry_after
            backend.retry_after = told  # type: ignore[assignment]
            decider = running.server.decider
            breaker = decider.breaker = CircuitBreaker(decider.live.router.router)
            began = time.monotonic()
            assert running.chat(f"{retry_after} <<429>>", model="small").status_code == 503
            assert breaker.excluded() == {"small": reason}, retry_after
            until = {**breaker._until, **breaker._limited}["small"]
            took = time.monotonic() - began
            assert seconds - 5.0 < until - time.monotonic() <= seconds + 1.0 + took, retry_after


def test_a_limited_model_comes_back_when_the_time_is_over(
    serve: Callable[..., Any], backend: FaultServer
) -> None:
    backend.retry_after = 1
    with serve() as running:
        assert running.chat(f"{PLUS} <<429>>", model="small").status_code == 503
        running.server.decider.succeeded("small", None)  # an earlier request to it ends well
        assert running.chat(PLUS).headers["x-router-rl-expert"] == "large"
        experts = running.http.post("/v1/route", json={"prompt": PLUS}).json()["experts"]
        assert [each["excluded"] for each in experts] == ["rate limited", None]
        assert 'router_rl_rate_limited{expert="small"} 1.0' in running.http.get("/metrics").text
        assert running.http.get("/v1/status").json()["queues"]["small"]["excluded"] == "rate limited"
        time.sleep(1.05)
        assert running.chat(PLUS).headers["x-router-rl-expert"] == "small"
        assert 'router_rl_rate_limited{expert="small"} 0.0' in running.http.get("/metrics").text


def test_a_limited_model_is_asked_after_those_that_only_failed(router: Path) -> None:
    decider = Decider(Live(LoadedRouter.of(router)), {"small": Price(), "large": Price()})
    decider.limited("small", 20.0)
    decider.failed("large")
    assert decider.decide(PLUS).expert == "large"
    assert decider.decide(PLUS, failed=["large"]).expert == "small"


@pytest.mark.parametrize("limit", [1, 7, 60])
def test_no_minute_has_more_requests_than_the_limit(limit: int) -> None:
    limits, clock = _limited(requests_per_minute=limit)
    rng = np.random.default_rng(limit)
    sent: list[float] = []
    refused = 0
    for _ in range(600):
        clock.now += float(rng.exponential(30.0 / limit)) * float(rng.integers(0, 2))
        try:
            wait, another = limits.take("small", _request())
        except OverLimitError:
            refused += 1
            continue
        sent.append(clock.now + wait)
        assert another >= wait >= 0.0
    counts = [sum(at - 60.0 + 1e-6 < other <= at for other in sent) for at in sent]
    assert max(counts) == limit
    assert sent == sorted(sent)
    assert refused


def test_a_burst_is_sent_at_once_and_then_room_is_awaited() -> None:
    limits, clock = _limited(requests_per_minute=2)
    assert limits.take("small", _request()) == (0.0, 0.0)
    clock.now += 40.0
    assert limits.take("small", _request()) == (0.0, 20.0)
    assert limits.take("small", _request()) == (20.0, 60.0)
    with pytest.raises(OverLimitError, match="is reached for 60 s"):
        limits.take("small", _request())
    assert limits.take("large", _request()) == (0.0, 0.0)
    clock.now += 60.0
    assert limits.take("small", _request())[0] == 0.0


def test_tokens_are_limited_too() -> None:
    limits, clock = _limited(tokens_per_minute=100, max_tokens=60)
    assert limits.take("small", _request("x" * 40))[0] == 0.0  # 10 + 60
    clock.now += 35.0
    assert limits.take("small", _request("x" * 40, max_tokens=20)) == (0.0, 25.0)  # 10 + 20: 100
    with pytest.raises(OverLimitError):
        _limited_by_one = [limits.take("small", _request("x" * 4_000)) for _ in range(3)]
    parts = [{"type": "text", "text": "y" * 40}, {"type": "image_url", "image_url": {"url": "z" * 9_999}}]
    fresh, _ = _limited(tokens_per_minute=100)
    assert fresh.take("small", ChatRequest.of({"messages": [{"role": "user", "content": parts}]})) == (0, 0)


def test_less_than_one_request_a_minute() -> None:
    limits, clock = _limited(requests_per_minute=0.5)
    assert limits.take("small", _request()) == (0.0, 120.0)
    clock.now += 100.0
    assert limits.take("small", _request())[0] == 20.0


def test_requests_beyond_the_limit_go_to_another_model(
    serve: Callable[..., Any], backend: FaultServer, models: Path
) -> None:
    models.write_text(models.read_text().replace("{name: small,", "{name: small, requests_per_minute: 2,"))
    with serve() as running:
        answered = [running.chat(PLUS).headers["x-router-rl-expert"] for _ in range(4)]
        assert answered == ["small", "small", "large", "large"]
        assert {row["status"] for row in running.rows()} == {"ok"}
        named = running.chat(PLUS, model="small")
        assert named.status_code == 503
        assert "OverLimitError: the rate limit of the model list is reached for" in named.text
        assert sum(body["model"] == "small" for body in backend.requests) == 2


def test_a_request_waits_for_its_turn_where_no_other_model_is_left(
    serve: Callable[..., Any], backend: FaultServer, models: Path
) -> None:
    text = models.read_text()
    for name in ("small", "large"):
        text = text.replace(f"{{name: {name},", f"{{name: {name}, requests_per_minute: 1,")
    models.write_text(text.replace("timeout: 2", "timeout: 90"))
    with serve() as running:
        limits = running.server.answering._limits
        clock = Clock()
        limits._clock = clock
        assert {running.chat(PLUS).headers["x-router-rl-expert"] for _ in range(2)} == {"small", "large"}
        clock.now += 59.5
        began = time.monotonic()
        assert running.chat(PLUS).headers["x-router-rl-expert"] == "small"
        assert 0.5 <= time.monotonic() - began < 5.0
