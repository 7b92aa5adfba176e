"""Session policies in a server: what they observe of a conversation, and which model answers its turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_server import FaultServer
from two_models import sums

from experts import InputError
from experts.table.prices import Price
from router_rl import SessionProblem
from router_rl.exports.policy_files import write_policy
from router_rl.routing.policies.cascade_beliefs import Beliefs
from router_rl.routing.policies.session_policy import INPUTS, SessionPolicy
from router_rl.routing.policies.session_router import session_policy_of, session_router
from router_rl.serving import served_conversations as module
from router_rl.serving.decider import Decider
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.served_conversations import ServedConversations
from router_rl.serving.served_queues import ServedQueues

PRICES = {"small": Price(input=0.1, output=0.4), "large": Price(input=2.0, output=8.0)}
PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def problem() -> SessionProblem:
    return SessionProblem(sums(), episodes=2, window=8, turns=6.0, prices=(0.1, 2.0))


@pytest.fixture(scope="module")
def policy(problem: SessionProblem) -> SessionPolicy:
    """Return the policy that answers with the model that is right, unless a switch loses a long prompt."""
    policy = problem.policy(problem.cases[1], 0)
    values = {"chance": 1.0, "refill": -1.0}
    policy.weights.data = torch.tensor([values.get(name, 0.0) for name in INPUTS])
    policy.text = problem.text
    return policy


@pytest.fixture(scope="module")
def session_router_folder(policy: SessionPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routers") / "session"
    write_policy(policy, folder)
    return folder


def said(*texts: str) -> list[dict[str, Any]]:
    """Return messages of a user and an assistant in turn."""
    return [
        {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)
    ]


@pytest.mark.parametrize("hidden", [0, 5])
def test_the_router_chooses_as_the_policy(problem: SessionProblem, hidden: int) -> None:
    policy = problem.policy(problem.cases[1], hidden)
    generator = torch.Generator().manual_seed(0)
    for parameter in (policy.weights, policy.bias, *policy.network.parameters()):
        parameter.data.normal_(generator=generator)
    router, core, chosen = (
        session_router(policy),
        problem.core("test", problem.cases[1], lanes=32, seed=0),
        set[int](),
    )
    for _ in range(20):
        observation = core.observation()
        actions = policy.act(observation)
        assert router.act(observation).equal(actions)
        chosen |= set(actions.tolist())
        core.clear(core.step(actions).terminated)
    assert chosen == {0, 1}
    assert session_policy_of(router) is policy


def test_the_state_of_a_conversation(policy: SessionPolicy) -> None:
    """By hand: 40 characters are 10 tokens."""
    clock = Clock()
    known = ServedConversations(clock)
    n = len(policy.experts)

    def observe(name: str | None, messages: list[dict[str, Any]]) -> dict[str, list[float]]:
        state = known.state(policy, name, messages)[0]
        parts = state[: 5 * n].reshape(5, n).tolist()
        named = dict(zip(("cached", "idle", "last", "cost", "warm_cost"), parts, strict=True))
        return {**named, "rest": state[5 * n :].tolist()}

    question, answer = "q" * 40, "a" * 120
    first = observe("chat", said(question))
    assert first["cached"] == first["last"] == [0.0, 0.0]
    assert first["idle"] == [1.0, 1.0]
    assert first["rest"] == pytest.approx([torch.tensor(10.0).log2().item(), 0, 0, 0])
    known.answered("chat", "small", said(question))
    clock.now += 30.0
    second = observe("chat", said(question, answer, question))
    assert second["cached"] == pytest.approx([10 / 50, 0.0])  # the prompt, not the answer
    assert second["idle"] == pytest.approx([30.0 / float(policy.expiry_s[0]), 1.0])
    assert second["last"] == [1.0, 0.0]
    assert second["rest"] == pytest.approx([torch.tensor(50.0).log2().item(), 10 / 50, 1, 0])
    known.answered("chat", "large", said(question, answer, question))
    third = observe("chat", said(question, answer, question, answer, question))
    assert third["cached"] == pytest.approx([10 / 90, 50 / 90])
    assert third["last"] == [0.0, 1.0]
    assert third["rest"][1:] == pytest.approx([50 / 90, 2, 1])
    edited = observe("chat", said(question, "b" * 120, question))
    assert edited["cached"] == pytest.approx([10 / 50, 10 / 50])  # up to the message that was changed
    clock.now += 10 * float(policy.expiry_s[0])
    lost = observe("chat", said(question, answer, question, answer, question))
    assert lost["cached"] == [0.0, 0.0]
    assert lost["rest"][1] == pytest.approx(50 / 90)
    for name in (None, "another"):
        assert observe(name, said(question)) == first


def test_texts_of_parts_and_tool_calls_count_and_images_do_not(policy: SessionPolicy) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 4000}}
    message = {"role": "user", "content": [{"type": "text", "text": "q" * 40}, image]}
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "c" * 400}]}
    known = ServedConversations()
    assert known.state(policy, None, [message])[0, -4].exp2().item() == pytest.approx(10, rel=1e-5)
    assert known.state(policy, None, [message, calls])[0, -4].exp2().item() > 100
    assert known.state(policy, None, said(""))[0, -4] == 0.0  # at least one token


def test_old_conversations_are_forgotten(policy: SessionPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CONVERSATIONS", 10)
    clock = Clock()
    known = ServedConversations(clock)
    for number in range(30):
        known.answered(f"chat-{number}", "small", said("hello"))
    known.answered(None, "small", said("hello"))
    assert len(known._known) == 10
    clock.now += 2 * module._LIFE_S
    known.answered("new", "small", said("hello"))
    assert list(known._known) == ["new"]


def test_a_conversation_stays_where_its_prompt_is_cached(session_router_folder: Path) -> None:
    loaded = LoadedRouter.of(session_router_folder)
    decider = Decider(Live(loaded), PRICES, queues=ServedQueues())
    assert decider.decide(PLUS).expert == "small"
    assert decider.decide(TIMES).expert == "large"
    long = said(*["x" * 40_000, "y"] * 10, TIMES)
    decider.succeeded("small", "chat", long[:-2])
    assert decider.decide(TIMES, session="chat", messages=long).expert == "small"
    assert decider.decide(TIMES, session="other", messages=said(TIMES)).expert == "large"
    decider.succeeded("small", "short", said(PLUS))
    assert decider.decide(TIMES, session="short", messages=said(PLUS, "7", TIMES)).expert == "large"
    assert decider.decide(TIMES, failed=["small"], session="chat", messages=long).expert == "large"


def test_turns_are_recorded_only_for_routers_that_read_them(
    router: Path, session_router_folder: Path
) -> None:
    plain, session = LoadedRouter.of(router), LoadedRouter.of(session_router_folder)
    decider = Decider(Live(plain), PRICES, queues=ServedQueues())
    decider.succeeded("small", "chat", said(PLUS))
    assert not decider.conversations._known
    decider.replace(Live(plain, shadow=session))
    decider.succeeded("small", "chat", said(PLUS))
    assert list(decider.conversations._known) == ["chat"]
    assert decider.decide(PLUS, session="chat").shadow == (session.digest, "small")


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_keeps_a_conversation(
    serve: Callable[..., Any], session_router_folder: Path, backend: FaultServer, stream: bool
) -> None:
    with serve(session_router_folder) as running:

        def expert(session: str | None, *texts: str) -> str:
            body: dict[str, Any] = {"messages": said(*texts), "stream": stream}
            if session is not None:
                body["metadata"] = {"session": session}
            got = running.http.post("/v1/chat/completions", json=body)
            assert got.status_code == 200
            return str(got.headers["x-router-rl-expert"])

        begin = ["x" * 400_000, "y", PLUS]
        assert expert("chat", *begin) == "small"
        assert expert("chat", *begin, "7", TIMES) == "small"
        assert expert(None, TIMES) == "large"
        body = {"messages": said(*begin, "7", TIMES), "session": "chat"}
        assert running.http.post("/v1/route", json=body).json()["expert"] == "small"
        rows = running.rows()
        assert {row["router"] for row in rows} == {LoadedRouter.of(session_router_folder).digest}


def test_what_is_refused(session_router_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reads conversations, but they are not recorded here"):
        Decider(Live(LoadedRouter.of(session_router_folder)), PRICES)
    blind = SessionPolicy(("small", "large"), 4, Beliefs(4, 2, 1, 2), Beliefs(4, 2, 1, 2))
    write_policy(blind, tmp_path / "blind")
    with pytest.raises(InputError, match="reads features, not prompts"):
        LoadedRouter.of(tmp_path / "blind")
