"""Sticky sessions: a bonus for the model that holds the prompt cache, with exact propensities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experts.table.prices import Price
from router_rl.serving.decider import Decider
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.sessions import Sessions, sticky_choice

# LiteLLM reads streams with a name that Pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")

PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"
PRICES = {"small": Price(input=0.1, output=0.4), "large": Price(input=2.0, output=8.0)}


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def _decider(router: Path, bonus: float, clock: Clock | None = None, **settings: Any) -> Decider:
    sessions = Sessions(bonus, 300.0, clock or Clock())
    return Decider(Live(LoadedRouter.of(router)), PRICES, sessions=sessions, **settings)


def _gap(router: Path, prompt: str) -> float:
    scores = Decider(Live(LoadedRouter.of(router)), PRICES).decide(prompt).scores.values()
    return abs(max(scores) - min(scores))


def test_the_holder_stays_unless_it_is_worse_by_more_than_the_bonus(router: Path) -> None:
    gap = _gap(router, PLUS)
    for bonus, expert in ((1.01 * gap, "large"), (0.99 * gap, "small"), (0.0, "small")):
        decider = _decider(router, bonus)
        decider.succeeded("large", "chat-1")
        assert decider.decide(PLUS, session="chat-1").expert == expert
        assert decider.decide(PLUS, session="chat-2").expert == "small"
        assert decider.decide(PLUS).expert == "small"


def test_a_cache_lives_for_a_while_after_its_last_use(router: Path) -> None:
    clock = Clock()
    decider = _decider(router, 100.0, clock)
    decider.succeeded("large", "chat")
    clock.now += 299.0
    assert decider.decide(PLUS, session="chat").expert == "large"
    decider.succeeded("large", "chat")
    clock.now += 299.0
    assert decider.decide(PLUS, session="chat").expert == "large"
    clock.now += 2.0
    assert decider.decide(PLUS, session="chat").expert == "small"


def test_a_holder_that_is_excluded_is_left(router: Path) -> None:
    decider = _decider(router, 100.0)
    decider.succeeded("large", "chat")
    decider.limited("large", 10.0)
    assert decider.decide(PLUS, session="chat").propensities == {"small": 1.0, "large": 0.0}
    assert decider.decide(PLUS, session="chat", failed=["large"]).expert == "small"


@pytest.mark.parametrize("holder", ["small", "large"])
@pytest.mark.parametrize("bonus", ["little", "much"])
def test_propensities_are_the_frequencies(router: Path, other_router: Path, holder: str, bonus: str) -> None:
    """Of a router that wants `small` and a canary that wants `large`, which both explore."""
    routers = [LoadedRouter.of(folder) for folder in (router, other_router)]
    sessions = Sessions(0.3 * _gap(router, PLUS) if bonus == "little" else 100.0)
    decider = Decider(Live(routers[0], routers[1], 0.3), PRICES, explore=0.2, sessions=sessions)
    decider.reseed(7)
    decider.succeeded(holder, "chat")
    decisions = [decider.decide(PLUS, session="chat") for _ in range(500)]
    without = {"small": 0.7 * 0.9 + 0.3 * 0.1, "large": 0.7 * 0.1 + 0.3 * 0.9}[holder]
    expected = 0.9 if bonus == "much" else without
    assert all(each.propensities[holder] == pytest.approx(expected) for each in decisions)
    assert sum(decisions[0].propensities.values()) == pytest.approx(1.0)
    share = sum(each.expert == holder for each in decisions) / len(decisions)
    assert share == pytest.approx(expected, abs=0.06)


def test_exploration_may_cost_more_than_the_holder_not_than_the_router(router: Path) -> None:
    """The limit on extra cost is counted from the choice, which is the holder."""
    decider = _decider(router, 100.0, explore=0.5, extra_usd=1e-9)
    assert decider.decide(PLUS, session="chat").propensities == {"small": 1.0, "large": 0.0}
    decider.succeeded("large", "chat")
    assert decider.decide(PLUS, session="chat").propensities == {"small": 0.25, "large": 0.75}


def test_scores_that_are_not_numbers_leave_the_choice() -> None:
    nan = float("nan")
    assert sticky_choice(0, [nan, nan], [True, True], 1, 1.0) == 0
    assert sticky_choice(0, [0.5, -float("inf")], [True, False], 1, 9.0) == 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_rl.serving.sessions._MAX_SESSIONS", 10)
    clock = Clock()
    sessions = Sessions(1.0, 300.0, clock)
    for number in range(30):
        sessions.answered(f"chat-{number}", "small")
    assert len(sessions._last) == 10
    assert sessions.holder("chat-29") == "small"
    assert sessions.holder("chat-0") is None
    clock.now += 301.0
    sessions.answered("new", "small")
    assert list(sessions._last) == ["new"]
    off = Sessions(0.0)
    off.answered("chat", "small")
    assert off.holder("chat") is None


def test_a_served_session_stays(serve: Callable[..., Any]) -> None:
    def asked(running: Any, prompt: str, session: str, **fields: Any) -> str:
        got = running.chat(prompt, metadata={"session": session}, **fields)
        return str(got.headers["x-router-rl-expert"])

    with serve(sticky=100.0) as running:
        assert asked(running, TIMES, "a") == "large"
        assert asked(running, PLUS, "b", stream=True) == "small"
        assert asked(running, PLUS, "a") == "large"
        assert asked(running, TIMES, "b") == "small"
        assert running.chat(PLUS).headers["x-router-rl-expert"] == "small"
        route = running.http.post("/v1/route", json={"prompt": PLUS, "session": "a"}).json()
        assert route["expert"] == "large"
        assert asked(running, TIMES, "b", model="large") == "large"  # the client moves the session
        assert asked(running, PLUS, "b") == "large"
        assert [row["propensity"] for row in running.rows()] == [1.0] * 5 + [None, 1.0]
    with serve() as running:
        assert [asked(running, prompt, "a") for prompt in (TIMES, PLUS)] == ["large", "small"]
