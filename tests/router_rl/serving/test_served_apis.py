"""A router of rate-limited APIs behind the endpoint reads what the environment shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_server import FaultServer
from served_replay import NAMES, PRICES, SETTINGS, STILL, Clock, Replay, api_problem
from two_models import queue_router_of

from experts import InputError
from experts.llm.endpoints import read_models
from experts.llm.server_options import ApiOptions
from router_rl import QueueingProblem, export
from router_rl.methods.queueing.index_router import index_router, scorer_of, with_weights
from router_rl.methods.queueing.learned_latency import learned_router
from router_rl.routing import Router, RouterError
from router_rl.routing.policies.live_servers import (
    full_buckets,
    seconds_until_room,
    server_constants,
    server_state,
    times_of_answer,
    updated_means,
    used_share,
    usual_answer,
    with_taken,
)
from router_rl.serving.chat_request import Deadlines
from router_rl.serving.decider import Decider
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.served_apis import ApiLimits
from router_rl.serving.served_queues import ServedQueues
from router_rl.serving.served_servers import RequestTokens

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")

PLUS = "What is 3 plus 4?"
WEIGHTS = {"quality": 1.0, "compute": 0.1, "lateness": 0.5, "first": 0.5, "wait": 0.2, "jobs": 0.02}


def exported(router: Router, problem: QueueingProblem, folder: Path) -> LoadedRouter:
    """Export a router of an index with random prices, so that its decisions read every part of the state."""
    with_weights(router, WEIGHTS)
    generator = torch.Generator().manual_seed(1)
    prices = scorer_of(router).prices
    prices.copy_(0.02 * torch.randn(prices.shape, generator=generator))
    export(problem.finish(router), folder, rows=problem)
    return LoadedRouter.of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_served_router_reads_and_decides_as_in_the_environment(
    tmp_path: Path, setting: str, learned: bool
) -> None:
    """At each request of an episode, to float tolerance, with the clock of the environment.

    The environment stops clock and refill of an API that is down, and a provider does not. So with outages
    the counts, buckets and times differ, and the other parts are compared.
    """
    outages: dict[str, Any] = {"mean_up": 6.0, "mean_repair": 2.0} if setting == "outages" else {}
    problem = api_problem(api=ApiOptions(**SETTINGS[setting]), **outages)
    router = learned_router(problem, 0) if learned else index_router(problem)
    loaded = exported(router, problem, tmp_path / "router")
    replay = Replay(problem, loaded, problem.core("test", problem.case, lanes=1, seed=3))
    features, chosen, parts = loaded.router.features, [], []
    for _ in range(problem.config.window + 1):
        observation, served, expert = replay.step()
        state, seen = served[:, features:], observation[:, features:]
        if outages:
            torch.testing.assert_close(state[:, STILL], seen[:, STILL], rtol=1e-5, atol=1e-5)
            with torch.inference_mode():
                mask = replay.decider.breaker.mask()  # an API that is down is not chosen
                routed = loaded.router(observation[:, :features], state, mask)
            best = int(routed.experts[0, 0])
        else:
            torch.testing.assert_close(state, seen, rtol=1e-5, atol=1e-5)
            best = int(loaded.router.act(observation)[0])
        assert expert == loaded.experts[best]
        chosen.append(expert)
        parts.append(state[0])
    whole = torch.stack(parts)
    assert set(chosen) == set(NAMES)
    assert (whole[:, 2:4] > 0).any()  # requests at work
    if setting not in ("usual", "outages"):
        assert (whole[:, :2] > 0).any()  # requests that wait
        assert (whole[:, 12:14] > 1).any()  # a limit that is reserved
    assert bool(whole[:, 4:6].any()) == bool(outages)


def test_buckets_by_hand() -> None:
    """A minute has 60 requests and 600 prompt tokens, and a bucket holds 10 seconds of them."""
    buckets = full_buckets((60.0, 600.0, None, None), 10.0, now=5.0)
    assert buckets.size == (10.0, 100.0, float("inf"), float("inf"))
    assert used_share(buckets, 5.0) == 0.0
    need = (1.0, 80.0, 1e6, 1e6)
    assert seconds_until_room(buckets, need, 5.0) == 0.0
    buckets = with_taken(buckets, need, 5.0)
    assert used_share(buckets, 5.0) == pytest.approx(0.8)
    assert seconds_until_room(buckets, need, 5.0) == pytest.approx((80 - 20) / 10)
    assert used_share(buckets, 8.0) == pytest.approx(0.5)
    buckets = with_taken(buckets, need, 8.0)  # reserved: sent when it has refilled
    assert used_share(buckets, 8.0) == pytest.approx(1.3)
    assert seconds_until_room(buckets, need, 8.0) == pytest.approx((80 + 30) / 10)
    assert seconds_until_room(buckets, (1.0, 500.0, 0.0, 0.0), 8.0) == pytest.approx((100 + 30) / 10)
    assert used_share(buckets, 100.0) == 0.0
    assert used_share(with_taken(buckets, (0.0, -50.0, 0.0, 0.0), 100.0), 100.0) == 0.0
    none = full_buckets((None,) * 4, 10.0, now=0.0)
    assert (used_share(none, 3.0), seconds_until_room(none, need, 3.0)) == (0.0, 0.0)


def test_times_by_hand() -> None:
    assert updated_means((1.0, 0.1), []) == (1.0, 0.1)
    assert updated_means((1.0, 0.1), [(9.0, 0.1)]) == pytest.approx((2.0, 0.1))
    together = updated_means((1.0, 0.1), [(3.0, 0.2), (5.0, 0.4)])
    assert together == pytest.approx((1.0 + (1 - 49 / 64) * 3.0, 0.1 + (1 - 49 / 64) * 0.2))
    assert times_of_answer(4.0, 11.0, first_s=1.0, token_s=0.1) == pytest.approx((2.0, 0.2))
    assert times_of_answer(4.0, 0.0, first_s=1.0, token_s=0.1) == pytest.approx((4.0, 0.4))


def test_a_state_names_what_is_wrong() -> None:
    parts: dict[str, Any] = {"used": [0.0, 0.0], "ahead": [3.0, 0.0]}
    parts |= {"recent_first": [0.1, 0.1], "recent_token": [0.1, 0.1]}
    state = server_state(NAMES, torch.zeros(1, 12), **parts, tokens=7.0)
    assert state[0, 12:].tolist() == pytest.approx([0, 0, 3, 0, 0.1, 0.1, 0.1, 0.1, 7.0, 0.0])
    for name in parts:
        wrong: dict[str, Any] = {**parts, name: [0.0]}
        with pytest.raises(RouterError, match=f"{name} has 1 numbers; give one for each of small, large"):
            server_state(NAMES, torch.zeros(1, 12), **wrong, tokens=7.0)


@pytest.fixture(scope="session")
def api_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a router that sends a prompt to the model that is right, unless its limit is reached."""
    limits = {"requests_per_minute": 120.0, "input_per_minute": 0.0, "output_per_minute": 0.0}
    problem = api_problem(api=ApiOptions(**limits, burst_s=1.0))
    return queue_router_of(problem, tmp_path_factory.mktemp("routers") / "apis", quality=1.0, wait=10.0)


@pytest.fixture
def limited(models: Path) -> Path:
    """Return the model list with 2 requests a second for each model."""
    text = models.read_text().replace("{name:", "{requests_per_minute: 120, name:")
    models.write_text(text)
    return models


def served(folder: Path, **limits: float | None) -> tuple[Decider, ServedQueues, Clock]:
    """Return the decider and the queues of a router of APIs, on a clock that stands still."""
    clock, loaded = Clock(), LoadedRouter.of(folder)
    queues = ServedQueues(limits=dict.fromkeys(NAMES, ApiLimits(**limits)), clock=clock)
    return Decider(Live(loaded), PRICES, queues=queues), queues, clock


def test_an_answer_corrects_its_tokens_and_updates_the_times(api_folder: Path) -> None:
    decider, queues, clock = served(api_folder, prompt=6_000.0, both=12_000.0, answer=None)
    apis = queues.servers(decider.live.router)
    assert apis is not None
    usual = usual_answer(apis.constants, 0)
    assert 40 < usual < 50  # the mean of the trace
    with queues.request("small") as call:
        queues.sent(call, RequestTokens(50.0), 0.0)
        assert apis.now({}, clock.now).used == pytest.approx([max(0.5, (50 + usual) / 200), 0.0])
        clock.now += 0.1
        queues.answered(call, (30, 10), seconds=2.0, first_s=0.2)
    assert apis.now({}, clock.now).used == pytest.approx([0.2, 0.0])  # 30 of 100, less the refill of 0.1 s
    before = apis.recent()
    assert [each[0] for each in before] == [apis.constants.first[0], apis.constants.token_s[0]]
    queues.arrived()
    first, token = apis.recent()
    assert first[0] == pytest.approx(before[0][0] + (0.2 - before[0][0]) / 8)
    assert token[0] == pytest.approx(before[1][0] + (0.2 - before[1][0]) / 8)
    with queues.request("small") as call:
        queues.sent(call, RequestTokens(50.0, most=4.0), 0.5)  # waits for half a second
        queues.answered(call, (50, 1), seconds=1.0, first_s=0.9)
        queues.answered(call, (50, 4), seconds=2.5, first_s=None)
    queues.arrived()
    usual_first, usual_token = apis.constants.first[0], apis.constants.token_s[0]
    factor = 2.0 / (usual_first + 3 * usual_token)
    times = [(0.9, token[0]), (0.5 + factor * usual_first, factor * usual_token)]
    assert [each[0] for each in apis.recent()] == pytest.approx(updated_means((first[0], token[0]), times))


def test_a_request_that_ends_before_it_is_sent_gives_back_what_it_took(api_folder: Path) -> None:
    decider, queues, clock = served(api_folder, requests=120.0)
    apis = queues.servers(decider.live.router)
    assert apis is not None
    for wait_s, used in ((0.0, 0.5), (0.5, 0.5)):  # of the first, which was sent
        with queues.request("small") as call:
            queues.sent(call, RequestTokens(5.0), wait_s)
            assert queues.waiting(decider.live.router, "small") == (wait_s > 0)
        assert apis.now({}, clock.now).used == pytest.approx([used, 0.0])
    with queues.request("other") as call:
        queues.sent(call, RequestTokens(5.0), 1.0)
    assert apis.now({}, clock.now).used == pytest.approx([0.5, 0.0])


def test_models_of_the_list_that_the_router_does_not_have_change_nothing(api_folder: Path) -> None:
    decider, queues, clock = served(api_folder, requests=60.0)
    apis = queues.servers(decider.live.router)
    assert apis is not None
    with queues.request("other") as call:
        assert queues.wait_s(decider.live.router, "other", RequestTokens(5.0)) == 0.0
        queues.sent(call, RequestTokens(5.0), 0.0)
        queues.answered(call, (5, 5), 1.0, None)
    queues.arrived()
    assert apis.now({}, clock.now).used == [0.0, 0.0]
    assert apis.recent()[0] == list(apis.constants.first)


def test_the_default_deadlines_are_read(api_folder: Path) -> None:
    loaded = LoadedRouter.of(api_folder)
    constants = server_constants(loaded.router)
    assert constants is not None
    for given, expected in (
        ((None, None), (2 * constants.mean_service, 0.0)),
        ((7.0, 0.7), (7.0, 0.7)),
    ):
        queues = ServedQueues(None, given[0], limits={}, first_deadline_s=given[1])
        apis = queues.servers(loaded)
        assert apis is not None
        state = queues.server_state(apis, ["large"], Deadlines(), 9.0)[0]
        assert state[[6, 21]].tolist() == pytest.approx(expected)
        assert state[4:6].tolist() == [0.0, 1.0]
        state = queues.server_state(apis, (), Deadlines(3.0, 0.3), 9.0)[0]
        assert state[[6, 20, 21]].tolist() == pytest.approx([3.0, 9.0, 0.3])


def test_what_cannot_be_served_is_named(tmp_path: Path, api_folder: Path) -> None:
    folder = queue_router_of(api_problem(budget=0.5), tmp_path / "budget", quality=1.0)
    with pytest.raises(InputError, match=r"was trained with a budget.*train it without --problem\.budget"):
        LoadedRouter.of(folder)
    live = Live(LoadedRouter.of(api_folder))
    one = {"small": ApiLimits(requests=60.0), "large": ApiLimits()}
    with pytest.raises(InputError, match=r"models\.large\.requests_per_minute.*trained on rate-limited APIs"):
        Decider(live, PRICES, queues=ServedQueues(limits=one))
    with pytest.raises(InputError, match="requests in flight are not counted here"):
        Decider(live, PRICES)


def test_a_reached_limit_sends_requests_to_the_other_model(
    serve: Callable[..., Any], api_folder: Path, limited: Path
) -> None:
    """Two requests empty the bucket of `small`; nothing is masked, the router reads the bucket."""
    with serve(api_folder, explore=0.2) as running:
        decider = running.server.decider
        apis = decider.queues.servers(decider.live.router)
        running.chat(PLUS, model="small")
        running.chat(PLUS, model="small", stream=True)
        assert max(apis.now({}, decider.queues._clock()).used) > 0.5
        got = running.http.post("/v1/route", json={"prompt": PLUS}).json()
        assert [each["excluded"] for each in got["experts"]] == [None, None]
        assert got["expert"] == "large"
        for key in ("deadline_s", "first_deadline_s"):
            wrong = running.chat(PLUS, metadata={key: "soon"})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, f"metadata.{key}")
        queues = running.http.get("/v1/status").json()
        assert queues["queues"]["small"] == {"in_flight": 0, "waiting": 0, "excluded": None}
        assert set(queues["arrivals"]["slowdown"]) == set(NAMES)


def test_a_request_waits_for_the_bucket_of_a_model_up_to_its_timeout(
    serve: Callable[..., Any], api_folder: Path, limited: Path, backend: FaultServer
) -> None:
    """The third request waits for half a second; with a request a minute, the second for a minute."""
    backend.seconds = 0.0
    with serve(api_folder) as running:
        queues, loaded = running.server.decider.queues, running.server.decider.live.router
        with queues.request("small") as first, queues.request("small") as second:
            for call in (first, second):
                queues.sent(call, RequestTokens(5.0), 0.0)
        began = time.monotonic()
        assert running.chat(PLUS, model="small").status_code == 200
        assert time.monotonic() - began > 0.3
        with queues.request("small") as call:
            queues.sent(call, RequestTokens(5.0), queues.wait_s(loaded, "small", RequestTokens(5.0)))
            status = running.http.get("/v1/status").json()["queues"]
            assert status["small"] == {"in_flight": 1, "waiting": 1, "excluded": None}
    limited.write_text(limited.read_text().replace("120", "1"))
    with serve(api_folder) as running:
        assert running.chat(PLUS, model="small").status_code == 200
        assert "rate limit of the model list" in running.chat(PLUS, model="small").text


def test_limits_of_the_model_list_are_those_of_the_buckets(tmp_path: Path) -> None:
    path, other = tmp_path / "models.yaml", "  - {name: b, model: openai/b}\n"
    limits = "requests_per_minute: 50, input_per_minute: 30000, output_per_minute: 8000"
    path.write_text(f"models:\n  - {{name: a, model: openai/a, {limits}, tokens_per_minute: 9}}\n{other}")
    assert ApiLimits.of(read_models(path).endpoints[0]) == ApiLimits(50, 30_000, 8_000, 9)
    path.write_text(f"models:\n  - {{name: a, model: openai/a, input_per_minute: 0}}\n{other}")
    with pytest.raises(InputError, match=r"models\.a\.input_per_minute"):
        read_models(path)
