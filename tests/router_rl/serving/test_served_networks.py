"""A network policy of queues or APIs behind the endpoint: it reads and decides as in the environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from served_replay import NAMES, PRICES, SETTINGS, STILL, Clock, Replay, api_problem, limits_of
from torch import nn
from two_models import sums

from experts import InputError
from experts.llm.server_options import ApiOptions
from router_rl import QueueingProblem, export, fit
from router_rl.methods.agents.env_training import new_policy
from router_rl.methods.method import Method
from router_rl.methods.queueing.index_router import index_router, scorer_of, with_weights
from router_rl.methods.registry import find_method
from router_rl.problems.problem import ActionPolicy
from router_rl.routing import LiveQueues, QueueConstants, RouterError, ServerConstants, load
from router_rl.routing.policies.network_policy import NetworkPolicy
from router_rl.routing.policies.network_router import network_router
from router_rl.serving.decider import Decider
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.served_queues import ServedQueues
from router_rl.studies.trial_fit import Trial, fitted_trial

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")

PLUS = "What is 3 plus 4?"
OUTAGES = {"mean_up": 6.0, "mean_repair": 2.0}
QUEUES: dict[str, dict[str, Any]] = {
    "usual": {"loads": 0.8},
    "full": {"loads": 1.6},
    "replicas": {"loads": 1.2, "replicas": (3, 1)},
    "outages": {"loads": 1.2, **OUTAGES},
}


def queue_problem(**options: Any) -> QueueingProblem:
    """Return a problem of two models with prompts and latencies."""
    settings: dict[str, Any] = {
        "window": 80,
        "episodes": 4,
        "deadlines": (1.0, 3.0),
        "values": (1.0, 1.0),
        "loads": 0.8,
    }
    return QueueingProblem(sums(latency_s=(1.0, 2.0)), **{**settings, **options})


def network(problem: QueueingProblem, seed: int = 0) -> NetworkPolicy:
    """Return a policy with random weights that reads every column, standardised by those of an episode."""
    core = problem.core("train", problem.case, lanes=4, seed=5)
    policy = new_policy(problem, core, 16, seed)
    rows = []
    for step in range(problem.config.window - 1):
        rows.append(core.observation())
        core.step(torch.tensor([0, 1, step % 2, step // 2 % 2]))
    seen = torch.cat(rows)
    policy.shift.copy_(seen.mean(dim=0))
    policy.scale.copy_(1.0 / seen.std(dim=0).clamp(min=0.05))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        *hidden, last = (cast(nn.Linear, layer) for layer in policy.layers)
        for layer in (*hidden, last):
            layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
        last.weight.mul_(4.0)
        last.bias.sub_(policy(seen).mean(dim=0))  # both experts are chosen
    return policy.requires_grad_(False).eval()


def exported(problem: QueueingProblem, folder: Path, seed: int = 0) -> tuple[NetworkPolicy, Path]:
    """Return a policy with random weights and the folder of its export."""
    policy = network(problem, seed)
    export(problem.finish(ActionPolicy(actions=policy.act, module=policy)).module, folder)
    return policy, folder


def decider_of(folder: Path, **options: Any) -> Decider:
    loaded = LoadedRouter.of(folder)
    return Decider(Live(loaded), PRICES, queues=ServedQueues(clock=Clock()), **options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("setting", [*(f"queue {name}" for name in QUEUES), *(f"api {n}" for n in SETTINGS)])
def test_a_served_policy_reads_and_decides_as_in_the_environment(
    tmp_path: Path, setting: str, seed: int
) -> None:
    """At each request of an episode: the whole observation to float tolerance, and the decision.

    With outages, a model that is down is not chosen. For APIs the environment then stops clock and refill, so
    the decision is that of the served observation.
    """
    servers, _, name = setting.partition(" ")
    outages = name == "outages"
    if servers == "queue":
        problem = queue_problem(**QUEUES[name])
    else:
        more: dict[str, Any] = OUTAGES if outages else {}
        problem = api_problem(api=ApiOptions(**SETTINGS[name]), **more)
    policy, folder = exported(problem, tmp_path / "policy", seed)
    core = problem.core("test", problem.case, lanes=1, seed=3)
    replay = Replay(problem, LoadedRouter.of(folder), core)
    columns = torch.arange(policy.observation_size)
    if servers == "api" and outages:
        columns = torch.tensor([*range(policy.features), *(policy.features + at for at in STILL)])
    chosen, rows, masked = [], [], 0
    for _ in range(problem.config.window + 1):
        observation, served, expert = replay.step()
        assert served.shape == observation.shape
        torch.testing.assert_close(served[:, columns], observation[:, columns], rtol=1e-5, atol=1e-5)
        read = observation if servers == "queue" or not outages else served
        mask = replay.decider.breaker.mask()
        best = policy(read).masked_fill(~mask, float("-inf")).argmax(dim=-1)
        assert expert == NAMES[int(best[0])]
        if bool(mask.all()):
            assert best.equal(policy.act(read))
        else:
            masked += 1
        chosen.append(expert)
        rows.append(observation[0, policy.features :])
    whole = torch.stack(rows)
    assert set(chosen) == set(NAMES)
    assert 3 * min(map(chosen.count, NAMES)) > 10
    assert (whole[:, :2] > 0).any() or name == "usual" or setting == "api outages"  # requests that wait
    assert (whole[:, 2:4] > 0).any()
    assert (masked > 0) == bool(whole[:, 4:6].any()) == outages


def test_a_network_policy_masks_and_logs_the_probabilities_of_its_softmax(tmp_path: Path) -> None:
    policy, folder = exported(queue_problem(), tmp_path / "policy")
    decider = decider_of(folder)
    decision = decider.decide(PLUS)
    best = decision.expert
    other = next(name for name in NAMES if name != best)
    assert decision.propensities == {best: 1.0, other: 0.0}  # greedy, as the evaluation is
    with decider.queues.request(best), decider.queues.request(best):
        explored = decider_of(folder, explore=1.0, temperature=1.0)
        explored.queues = decider.queues
        decision = explored.decide(PLUS)
        loaded = explored.live.router
        adapted = decider.queues.adapted(loaded)
        assert adapted is not None
        state = decider.queues.state(adapted, (), None)
        assert state[0, NAMES.index(best)] == 1.0  # one waits
        logits = policy(torch.cat([torch.from_numpy(decision.features)[None], state], dim=-1))[0]
        assert list(decision.scores.values()) == pytest.approx(logits.tolist(), rel=1e-5)
        assert list(decision.propensities.values()) == pytest.approx(logits.softmax(0).tolist(), rel=1e-5)
    decider.breaker.limited(best, 10.0)
    decision = decider.decide(PLUS)
    assert (decision.expert, decision.propensities[other]) == (other, 1.0)
    assert decision.excluded == {best: "rate limited"}
    assert decision.scores[best] == float("-inf")
    explored.breaker = decider.breaker
    assert explored.decide(PLUS).propensities == {other: 1.0, best: 0.0}
    assert decider.decide(PLUS, failed=[other]).expert == best  # rather than one that failed on it


def test_it_does_not_adapt_to_speeds_or_replicas(tmp_path: Path) -> None:
    _, folder = exported(queue_problem(replicas=(2, 1)), tmp_path / "policy")
    decider = decider_of(folder)
    decision = decider.decide(PLUS)
    before = decision.scores
    for _ in range(30):
        decider.measured(decision, 50.0)
    assert decider.decide(PLUS).scores == before
    arrivals = decider.queues.arrivals(decider.live.router)
    assert arrivals is not None
    assert arrivals["slowdown"][decision.expert] > 10  # it is measured and shown
    live, same = decider.live, ServedQueues({"small": 2, "large": 1})
    assert Decider(live, PRICES, queues=same).decide(PLUS).expert in NAMES
    with pytest.raises(InputError, match=r"models\.large\.replicas.*not the 1 of the training.*cannot adapt"):
        Decider(live, PRICES, queues=ServedQueues({"large": 4}))
    with pytest.raises(InputError, match="requests in flight are not counted here"):
        Decider(live, PRICES)


@pytest.mark.parametrize("servers", ["queue", "api"])
def test_the_constants_are_saved_with_the_policy(tmp_path: Path, servers: str) -> None:
    problem = queue_problem(mean_up=9.0) if servers == "queue" else api_problem()
    few = {"decisions": 64, "lanes": 4, "steps": 8, "hidden": 8}
    trained = fit("reinforce", problem, hyperparameters=few).module
    assert trained.constants == problem.constants()
    export(trained, tmp_path / "policy")
    loaded = load(tmp_path / "policy")
    assert isinstance(loaded, NetworkPolicy)
    assert loaded.constants == problem.constants()
    assert isinstance(loaded.constants, QueueConstants if servers == "queue" else ServerConstants)
    assert json.loads(json.dumps(loaded.spec())) == loaded.spec()
    decider = Decider(
        Live(LoadedRouter.of(tmp_path / "policy")), PRICES, queues=ServedQueues(limits=limits_of(problem))
    )
    assert decider.decide(PLUS).expert in NAMES


def test_each_load_has_its_own_mean_gap() -> None:
    problem = queue_problem(loads=(0.5, 1.0))
    gaps = []
    for case in problem.cases:
        part = problem.at(case)
        policy = network(part)
        part.finish(ActionPolicy(actions=policy.act, module=policy))
        assert policy.constants is not None
        gaps.append(policy.constants.gap)
    assert gaps[0] == pytest.approx(2 * gaps[1])
    policy = network(problem.at(problem.cases[0]))
    problem.finish(ActionPolicy(actions=policy.act, module=policy))
    assert policy.constants is None  # of which load?


def test_a_comparison_sets_the_constants_of_each_load(tmp_path: Path) -> None:
    problem = queue_problem(loads=(0.5, 1.0), window=8)
    method = find_method("queueing", "reinforce")
    assert isinstance(method, Method)
    few = method.configure({"decisions": 64, "lanes": 4, "steps": 8, "hidden": 8})
    for case in problem.cases:
        trial = Trial(method="reinforce", hyperparameters=few, case=case, seed=0)
        with fitted_trial(trial, problem, tmp_path / case.label, {}) as fitted:
            assert fitted.policy.module.constants == problem.at(case).constants()
            assert fitted.policy.module.text is problem.text


def test_an_old_file_loads_and_is_not_served(tmp_path: Path) -> None:
    """A file of an earlier release has no constants."""
    policy = network(queue_problem())
    policy.text = queue_problem().text
    export(policy, tmp_path / "old")
    assert not {"queues", "servers"} & set(json.loads((tmp_path / "old" / "policy.json").read_text()))
    old = load(tmp_path / "old")
    assert isinstance(old, NetworkPolicy)
    assert old.constants is None
    observation = torch.randn(5, old.observation_size)
    assert old.act(observation).equal(policy.act(observation))
    words = r"no constants of queues.*an earlier release.*train again with `train --env queueing`"
    with pytest.raises(InputError, match=words):
        LoadedRouter.of(tmp_path / "old")


def test_policies_that_cannot_be_served_are_named(tmp_path: Path) -> None:
    _, folder = exported(queue_problem(budget=0.5), tmp_path / "budget")
    with pytest.raises(InputError, match="was trained with a budget"):
        LoadedRouter.of(folder)
    table = sums(latency_s=(1.0, 2.0))
    features = np.random.default_rng(0).normal(size=(len(table.query_id), 3)).astype(np.float32)
    plain = QueueingProblem(table.with_features(features), loads=0.8, window=20, episodes=2)
    _, folder = exported(plain, tmp_path / "features")
    with pytest.raises(InputError, match="reads features, not prompts"):
        LoadedRouter.of(folder)


def test_constants_and_sizes_that_do_not_fit_are_refused() -> None:
    policy = network(queue_problem())
    policy.constants = queue_problem().constants()
    spec = policy.spec()
    assert NetworkPolicy.from_spec(spec).spec() == spec
    spec["queues"] = {**spec["queues"], "service": [1.0]}
    with pytest.raises(RouterError, match=r"QueueConstants\.service must be 2 numbers above 0"):
        NetworkPolicy.from_spec(spec)
    policy.constants = api_problem().constants()
    with pytest.raises(RouterError, match=r"its queues have \d+ and \[2\]"):
        network_router(policy)


def test_live_queues_route_by_a_network_policy(tmp_path: Path) -> None:
    policy, folder = exported(queue_problem(), tmp_path / "policy")
    loaded = load(folder)
    assert isinstance(loaded, NetworkPolicy)
    router = network_router(loaded)
    queues, others = LiveQueues(router), LiveQueues(router)
    assert policy.text is not None
    features = policy.text([PLUS])
    for now, waiting in ((0.0, [0, 0]), (0.5, [3, 0]), (0.7, [0, 2])):
        moment: dict[str, Any] = {"taken": [int(count > 0) for count in waiting], "deadline_s": 2.0}
        routing = queues.route(features[0], now, waiting=waiting, **moment)
        state = others.state(now, waiting=waiting, **moment)
        assert routing.experts[:, 0].equal(policy.act(policy.observe(features, state)))


def test_it_is_served(serve: Callable[..., Any], tmp_path: Path) -> None:
    _, folder = exported(queue_problem(), tmp_path / "policy")
    with serve(folder, explore=0.5, explore_temperature=1.0) as running:
        for _ in range(4):
            assert running.chat(PLUS).status_code == 200
        status = running.http.get("/v1/status").json()
        assert status["queues"]["small"] == {"in_flight": 0, "waiting": 0, "excluded": None}
        rows = running.rows()
    assert len(rows) == 4


@pytest.mark.parametrize("servers", ["queue", "api"])
def test_a_policy_that_corrects_a_rule_decides_as_in_the_environment(tmp_path: Path, servers: str) -> None:
    """The rule alone, the network alone and both together decide differently, and serving does as both."""
    problem = queue_problem(loads=1.2) if servers == "queue" else api_problem()
    policy = network(problem)
    last = cast(nn.Linear, policy.layers[-1])
    correction = last.weight.clone(), last.bias.clone()
    rule = scorer_of(with_weights(index_router(problem), {"quality": 1.0, "wait": 0.3}))
    policy.follow(rule, 2.0)
    with torch.no_grad():
        last.weight.copy_(correction[0])
        last.bias.copy_(correction[1])
    export(problem.finish(ActionPolicy(actions=policy.act, module=policy)).module, tmp_path / "policy")
    core = problem.core("test", problem.case, lanes=1, seed=3)
    replay = Replay(problem, LoadedRouter.of(tmp_path / "policy"), core)
    read = []
    for _ in range(40):
        observation, served, expert = replay.step()
        torch.testing.assert_close(served, observation, rtol=1e-5, atol=1e-5)
        assert expert == NAMES[int(policy.act(observation)[0])]
        read.append(observation)
    seen = torch.cat(read)
    both, of_rule = policy.act(seen), rule(seen).argmax(dim=-1)
    policy.rule = None
    assert not both.equal(of_rule)
    assert not both.equal(policy.act(seen))
