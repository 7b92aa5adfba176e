"""Online learners follow the log: every outcome counts once, whoever received it and whatever was killed."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from experts import InputError
from experts.table.prices import Price
from router_rl.routing import LinearScorer, Router, StateInput
from router_rl.serving.chat_request import ChatRequest
from router_rl.serving.decider import Decider
from router_rl.serving.deployments import promote
from router_rl.serving.learner import Learner
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_row import LogRows
from router_rl.serving.log_store import LogStore
from router_rl.serving.serve_options import ServeOptions
from router_rl.serving.sessions import Sessions

PRICES = {"small": Price(input=0.1, output=0.4), "large": Price(input=2.0, output=8.0)}
PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"


class Log:
    """A log, and decisions with outcomes in it."""

    def __init__(self, url: str, router: LoadedRouter) -> None:
        self.store, self.router = LogStore(url), router
        self.rows = LogRows(b"key")
        self.count = 0

    def learner(self, online: str = "thompson", **changes: Any) -> Learner:
        return Learner(self.store, ServeOptions(online=online, **changes))

    def decider(self, learner: Learner | None, **changes: Any) -> Decider:
        decider = Decider(Live(self.router), PRICES, **changes)
        decider.learner = learner
        decider.reseed(0)
        return decider

    def decide(self, decider: Decider, prompt: str, usd: float | None = 1e-3) -> tuple[str, str]:
        """Log a decision; return its id and the expert."""
        decision, self.count = decider.decide(prompt), self.count + 1
        request = ChatRequest(model="auto", prompt=prompt, messages=[{"role": "user", "content": prompt}])
        row = self.rows.row(f"d{self.count}", request, decision.expert, decision)
        self.store.write([{**row, "status": "ok", "streamed": False, "cost_usd": usd}], [])
        return row["id"], decision.expert

    def fill(self, decider: Decider, decisions: int = 40) -> list[str]:
        """Log decisions that are right where the router is wrong; return their ids."""
        ids = list[str]()
        for number in range(decisions):
            prompt = f"What is {number} {'plus' if number % 2 else 'times'} 4?"
            name, expert = self.decide(decider, prompt)
            self.store.attach(name, float((expert == "large") == ("plus" in prompt)))
            ids.append(name)
        return ids


@pytest.fixture
def log(router: Path, tmp_path: Path) -> Iterator[Log]:
    made = Log(f"sqlite:///{tmp_path}/log.db", LoadedRouter.of(router))
    yield made
    made.store.close()


def knows(learner: Learner) -> tuple[np.ndarray, ...]:
    """What a learner knows."""
    known = learner._known
    assert known is not None
    return known.sums.outer, known.sums.score, known.sums.cost, known.posterior.mean


def same(one: Learner, two: Learner) -> bool:
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(knows(one), knows(two), strict=True))


def fresh(log: Log) -> Learner:
    """A learner that has read the whole log, without a stored state."""
    learner = log.learner()
    learner._store = _WithoutState(log.store)  # type: ignore[assignment]
    learner.follow(log.router)
    return learner


class _WithoutState:
    def __init__(self, store: LogStore) -> None:
        self._store = store

    def learned(self, router: str) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_it_starts_as_the_router_and_learns_the_contrary(log: Log) -> None:
    learner = log.learner("linucb", online_scale=0.1)
    learner.follow(log.router)
    decider = log.decider(learner, explore=0.2)
    plain = log.decider(None)
    for prompt in (PLUS, TIMES):
        assert decider.decide(prompt).expert == plain.decide(prompt).expert
    for _ in range(5):
        log.fill(decider)
        learner.follow(log.router)
    assert decider.decide(PLUS).propensities["large"] == pytest.approx(0.9)
    assert decider.decide(TIMES).propensities["small"] == pytest.approx(0.9)
    assert learner.decisions() == 200


@pytest.mark.parametrize("online", ["linucb", "thompson"])
def test_a_sticky_session_stays(log: Log, online: str) -> None:
    learner = log.learner(online, online_scale=1.0)
    decider = log.decider(learner, sessions=Sessions(100.0))
    learner.follow(log.router)
    for expert in ("small", "large"):
        decider.succeeded(expert, expert)
        assert decider.decide(PLUS, session=expert).propensities[expert] == pytest.approx(1.0)
    assert decider.decide(PLUS, session="new").propensities == decider.decide(PLUS).propensities


@pytest.mark.parametrize("online", ["linucb", "thompson"])
def test_propensities_are_the_frequencies_of_choices(log: Log, online: str) -> None:
    learner = log.learner(online, online_scale=1.0)
    decider = log.decider(learner, explore=0.2)
    learner.follow(log.router)
    log.fill(decider)
    learner.follow(log.router)
    decisions = [decider.decide(PLUS) for _ in range(400)]
    counts, expected = Counter(each.expert for each in decisions), decisions[0].propensities
    assert all(each.propensities == expected for each in decisions)
    assert sum(expected.values()) == pytest.approx(1.0)
    for name, probability in expected.items():
        error = 4.0 * (probability * (1 - probability) / 400) ** 0.5
        assert counts[name] / 400 == pytest.approx(probability, abs=error)
    certain = sorted(expected.values()) == pytest.approx([0.1, 0.9])
    assert certain == (online == "linucb")
    assert {each.router for each in decisions} == {f"{log.router.digest}+{online}"}


def test_it_keeps_to_the_mask_and_the_extra_cost(log: Log) -> None:
    learner = log.learner(online_scale=100.0)  # it would choose either
    learner.follow(log.router)
    decider = log.decider(learner)
    assert {decider.decide(PLUS).expert for _ in range(50)} == {"small", "large"}
    cheap = log.decider(learner, extra_usd=1e-6)
    assert cheap.decide(PLUS).propensities == {"small": 1.0, "large": 0.0}
    assert min(cheap.decide(TIMES).propensities.values()) > 0.1  # small is cheaper than large, the best
    decider.breaker.failed("small")
    assert decider.decide(PLUS).propensities == {"small": 0.0, "large": 1.0}


def test_a_replaced_score_replaces(log: Log) -> None:
    learner = log.learner()
    ids = log.fill(log.decider(None, explore=0.5))
    learner.follow(log.router)
    before = knows(learner)[1]
    for name in ids:
        log.store.attach(name, 0.25)
        log.store.attach(name, 0.25)  # sent twice
    assert learner.follow(log.router) <= len(ids)
    assert learner.decisions() == len(ids)
    outer, score, _, _ = knows(learner)
    assert score == pytest.approx(0.25 * outer[:, :, 0])
    assert score != pytest.approx(before)
    assert same(learner, fresh(log))


def test_a_stored_state_goes_on_where_it_ended(log: Log) -> None:
    first, slow = log.learner(), log.learner()
    decider = log.decider(None, explore=0.5)
    ids = log.fill(decider)
    first.follow(log.router)
    slow.follow(log.router)
    first.keep()
    restarted = log.learner()
    assert restarted.follow(log.router) == 0  # all of it was stored
    assert same(restarted, first)
    log.store.attach(ids[0], 0.5)
    log.fill(decider)
    later = log.learner()
    assert later.follow(log.router) == 41
    assert later.decisions() == 80
    assert same(later, fresh(log))
    later.keep()
    slow.keep()  # an older state does not replace a newer one
    assert log.learner().follow(log.router) == 0


def test_a_state_that_cannot_be_read_is_learned_again(log: Log) -> None:
    log.fill(log.decider(None, explore=0.5))
    upto = log.store.newest_change()
    for broken in (b"", b"no safetensors", save({"outer": np.zeros((2, 3, 3))})):
        log.store.keep_learned(log.router.digest, upto, broken)
        learner = log.learner()
        assert learner.follow(log.router) == 40
        assert learner.decisions() == 40
        upto += 1  # a newer state replaces


def test_servers_of_one_log_know_the_same(log: Log) -> None:
    one, two = log.learner(), log.learner("linucb")
    decider = log.decider(None, explore=0.5)
    for _ in range(3):
        log.fill(decider, 10)
        one.follow(log.router)
    two.follow(log.router)
    assert same(one, two)


def test_an_outcome_waits_for_the_cost_of_its_decision(log: Log) -> None:
    learner = log.learner(cost_weight=100.0)
    decider = log.decider(None, explore=0.5)
    log.fill(decider)
    name, _ = log.decide(decider, PLUS, usd=None)  # the stream goes on
    log.store.attach(name, 1.0)
    log.store.attach(name, 0.5)
    learner.follow(log.router)
    assert learner.decisions() == 40
    learner.keep()
    learner = log.learner(cost_weight=100.0)
    assert learner.follow(log.router) == 0
    log.store.write([], [{"id": name, "cost_usd": 2e-3}])
    assert learner.follow(log.router) == 2
    assert learner.follow(log.router) == 0
    assert learner.decisions() == 41
    assert knows(learner)[2].sum() > 0.0
    outer, score, cost, _ = knows(fresh(log))
    assert all(map(np.allclose, knows(learner)[:3], (outer, score, cost)))


def test_it_starts_again_from_a_promoted_router(log: Log, other_router: Path, tmp_path: Path) -> None:
    learner = log.learner()
    log.fill(log.decider(None, explore=0.5))
    learner.follow(log.router)
    other = LoadedRouter.of(other_router)
    decider = Decider(Live(other), PRICES)
    decider.learner = learner
    assert decider.decide(PLUS).router == other.digest  # as it is, until the learner follows
    learner.follow(other)
    # Its text pipeline is another one, so what was learned before has other features.
    assert other.pipeline != log.router.pipeline
    assert learner.decisions() == 0
    assert decider.decide(PLUS).router == f"{other.digest}+thompson"


def test_a_server_learns_and_goes_on_with_a_promoted_router(
    serve: Callable[..., Any], other_router: Path
) -> None:
    with serve(online="linucb", explore=0.5) as running:
        server, deadline = running.server, time.monotonic() + 60
        decision = running.chat(PLUS).headers["x-router-rl-decision"]
        running.http.post("/v1/outcomes", json={"decision": decision, "score": 1.0}).raise_for_status()
        while server.learner.decisions() < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert running.http.get("/v1/status").json()["online"] == {"method": "linucb", "decisions": 1}
        promote(server.store, other_router)
        digest = LoadedRouter.of(other_router).digest
        while server.decider.decide(PLUS).router != f"{digest}+linucb":
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_server_learns_on_after_a_promotion_that_cannot_be_loaded(
    serve: Callable[..., Any], other_router: Path, tmp_path: Path
) -> None:
    with serve(online="linucb", explore=0.5) as running:
        server, deadline = running.server, time.monotonic() + 60
        gone = shutil.copytree(other_router, tmp_path / "gone")
        promote(server.store, gone)
        shutil.rmtree(gone)
        while not server.last_change.startswith("not changed: "):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        decision = running.chat(PLUS).headers["x-router-rl-decision"]
        running.http.post("/v1/outcomes", json={"decision": decision, "score": 1.0}).raise_for_status()
        while server.learner.decisions() < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_server_that_ends_stores_what_it_learned(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(online="linucb") as running:
        digest = running.server.decider.live.router.digest
        decision = running.chat(PLUS).headers["x-router-rl-decision"]
        running.http.post("/v1/outcomes", json={"decision": decision, "score": 1.0}).raise_for_status()
        while running.server.learner.decisions() < 1:
            time.sleep(0.01)
    store = LogStore(f"sqlite:///{tmp_path}/log.db")
    stored = store.learned(digest)
    assert stored is not None
    assert stored[0] == store.newest_change() == 1
    store.close()


def test_a_router_that_reads_more_than_the_prompt_is_refused(log: Log) -> None:
    plain = log.router.router
    scorer = LinearScorer(plain.features + 1, 2)
    state = [StateInput("load", 1, "share of the window", default=0.0)]
    router = replace(log.router, router=Router(scorer, plain.rule, plain.experts, state=state))
    with pytest.raises(InputError, match="does not have one logit per expert"):
        log.learner().follow(router)
