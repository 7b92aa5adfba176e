"""Rules and learners of model servers: terms and rules by hand, search, learning, and the exported policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from envs.traces import Arrivals
from experts import InputError
from experts.llm.server_options import ApiOptions, ContinuousOptions
from router_rl import check_router
from router_rl.exports import export
from router_rl.methods.fit import check_method, fit
from router_rl.methods.queueing import index_rule
from router_rl.methods.queueing.index_router import index_router, with_weights
from router_rl.methods.queueing.index_rule import strongest_index
from router_rl.methods.queueing.latency_samples import latency_samples
from router_rl.methods.queueing.learned_latency import learned_router
from router_rl.methods.queueing.server_rules import METHODS, RULES, relative
from router_rl.methods.queueing.weight_search import IndexHyperparameters
from router_rl.methods.registry import find_method
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.problems.queueing.queue_measurement import measure_queues
from router_rl.routing import RouterError, ServerConstants, ServerScorer, load, server_state_inputs
from router_rl.routing.policies.live_queues import queue_constants
from router_rl.routing.policies.live_servers import limits_apis, server_constants

KINDS = ("continuous", "api")
FEW = {"candidates": 8, "lanes": 2, "validation_lanes": 4}
TUNED = ("index_rule_late", "index_rule_learned", "llmd_tuned", "litellm_tuned", "latency_tuned")


def made(table, kind, **options):
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.integers(1, 900, 400), rng.integers(1, 90, 400)], axis=1).astype(float)
    arrivals = Arrivals(name="made", arrival_s=rng.exponential(1.0, 400).cumsum(), tokens=tokens)
    table = replace(table, tokens_out=np.array([[1.0, 2.0, 3.0]] * len(table)))
    settings = {
        "loads": 0.9,
        "window": 48,
        "episodes": 8,
        "first_deadlines": (0.5,),
        "continuous": ContinuousOptions(kv_tokens=4_000, max_seqs=4, step_s=(0.01, 0.015, 0.02)),
        "api": ApiOptions(burst_s=5.0),
    }
    return QueueingProblem(table, servers=kind, trace=arrivals, **{**settings, **options})


@pytest.fixture(scope="module", params=KINDS)
def problem(table, request):
    return made(table, request.param)


def constants(**changes):
    values = {
        "service": (2.0, 4.0),
        "drain": (0.5, 1.0),
        "seats": (4.0, 2.0),
        "first": (0.2, 0.4),
        "prompt": (100.0, 100.0),
        "prompt_s": (0.001, 0.002),
        "token_s": (0.01, 0.02),
        "full_token_s": (0.02, 0.04),
        "refill_s": (0.0, 10.0),
        "need": (0.0, 0.1),
        "gap": 1.0,
        "repair": 5.0,
    }
    return ServerConstants(**{**values, **changes})


def test_terms_by_hand():
    scorer = ServerScorer(1 + 22, 2, constants())
    with torch.no_grad():
        scorer.estimate.weight.zero_()
        scorer.estimate.bias.copy_(torch.tensor([0.5, 0.8, 0.1, 1.0, 2.0, 4.0]))
    # The engine is full, and two wait. The API has reserved 20% more than its bucket holds, and it is down.
    queues = [9.0, 2.0, 0.0, 4.0, 1.0, 0.0, 1.0, 3.0, 2.0, 1.0, 1.0, 0.0, 0.0]
    servers = [0.5, 1.2, 300.0, 0.0, 0.1, 0.2, 0.01, 0.02, 200.0, 0.5]
    x = torch.tensor([queues + servers])
    quality, compute, late, first, wait, jobs, pace = scorer.terms(x)[0].T.tolist()
    waits = [3 * 0.5, (1.2 + 0.1 - 1.0) * 10.0 + 5.0]
    firsts = [waits[0] + 0.2 + 0.1, waits[1] + 0.4 + 0.2]
    finishes = [firsts[0] + 1.8 * 2.0, firsts[1] + 3.6 * 1.5]
    assert quality == pytest.approx([1.0, 1.6])
    assert compute == pytest.approx([-0.1, -1.0])
    assert wait == pytest.approx([-each / 3.0 for each in waits])
    assert first == pytest.approx([-2.0 * (each - 0.5) / 0.5 for each in firsts])
    assert late == pytest.approx([-2.0 * (each - 3.0) / 3.0 for each in finishes])
    assert jobs == pytest.approx([-1.5, -0.5])
    assert pace == [0.0, 0.0]


def test_no_deadline_of_the_first_token_costs_nothing():
    scorer = ServerScorer(1 + 22, 2, constants())
    x = torch.rand(3, 23)
    x[:, -1] = 0.0
    assert not scorer.terms(x)[..., 3].any()


def test_wrong_constants_are_named():
    with pytest.raises(RouterError, match="seats"):
        ServerScorer(1 + 22, 2, constants(seats=(1.0,)))
    with pytest.raises(RouterError, match="drain"):
        ServerScorer(1 + 22, 2, constants(drain=(1.0, 0.0)))
    with pytest.raises(RouterError, match="gap"):
        ServerScorer(1 + 22, 2, constants(gap=0.0))


def test_rules_by_hand():
    assert relative(torch.tensor([[1.0, 3.0, 2.0], [4.0, 4.0, 4.0]])).tolist() == [[1.0, 0.0, 0.5], [1.0] * 3]
    scorer = ServerScorer(1 + 22, 2, constants())
    torch.nn.init.zeros_(scorer.estimate.bias)

    def chosen(name, **parts):
        columns = {"waiting": [0, 0], "taken": [0, 0], "used": [0.5, 0.5], "first": [1, 1], "token": [1, 1]}
        v = {key: [float(x) for x in value] for key, value in {**columns, **parts}.items()}
        queues = [0.0, *v["waiting"], *v["taken"], 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
        row = [*queues, *v["used"], 0.0, 0.0, *v["first"], *v["token"], 10.0, 0.0]
        return int(RULES[name][0](scorer.server_parts(torch.tensor([row])), scorer).argmax())

    assert chosen("vllm_balancer", waiting=[1, 0], taken=[0, 3]) == 1
    assert chosen("vllm_balancer", waiting=[1, 0], taken=[0, 5]) == 0
    assert chosen("least_busy", waiting=[1, 0], taken=[0, 3]) == 0
    assert chosen("least_busy", waiting=[4, 1], taken=[2, 3]) == 1
    assert chosen("llmd", waiting=[0, 1], used=[0.9, 0.1]) == 0
    assert chosen("llmd", waiting=[1, 1], used=[0.9, 0.1]) == 1
    assert chosen("usage_based", used=[1.1, 0.9]) == 1
    assert chosen("usage_based", used=[1.0, 1.2]) == 0
    assert chosen("latency_based", first=[1, 2]) == 0
    assert chosen("latency_aware", first=[1, 1.2], token=[2, 1]) == 1
    assert chosen("latency_aware", first=[1, 1.2], token=[0.015, 0.01]) == 1
    scorer.estimate.bias.data[2:4] = torch.tensor([1.0, 2.0])
    assert chosen("cost_based") == 0
    assert chosen("cost_based", used=[1.0, 0.5]) == 1


def test_rules_of_model_servers_cannot_play_queues(table):
    queues = QueueingProblem(table, loads=0.8)
    for method in METHODS:
        assert "problem.servers" in str(check_method(method, queues))
    assert check_method(find_method("queueing", "cross_entropy"), queues) is None
    with pytest.raises(InputError, match=r"is for problem\.servers"):
        fit("llmd", queues)


def test_every_published_rule_plays(problem):
    for name in (*RULES, "predicted_latency"):
        measured = problem.evaluate(fit(name, problem), "test")
        assert np.isfinite(measured.utility).all()
        assert measured.means()["first_p50_s"] <= measured.means()["p50_s"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TUNED)
def test_tuned_rules_beat_random(problem, name):
    random = problem.evaluate(fit("random", problem), "test").utility.mean()
    tuned = problem.evaluate(fit(name, problem, hyperparameters=FEW), "test").utility.mean()
    assert tuned > random


@pytest.mark.slow
def test_learners_play_and_keep_the_rule_where_nothing_is_better(problem):
    few = IndexHyperparameters(**FEW)
    rollouts = {"index": few, "states": 64, "horizon": 16, "lanes": 8, "validation_lanes": 8, "epochs": 2}
    learned = fit("rollout_iteration", problem, hyperparameters=rollouts)
    rule = fit("rollout_iteration", problem, hyperparameters={**rollouts, "guard": 1e9})
    index = strongest_index(problem, few, 0, 8)
    assert rule.scorer.latency_hidden == index.scorer.latency_hidden
    assert rule.scorer.weights.equal(index.scorer.weights)
    assert not rule.scorer.prices.any()
    assert np.isfinite(problem.evaluate(learned, "test").utility).all()
    short = {"index": few, "population": 8, "elite": 2, "generations": 4, "lanes": 2, "validation_lanes": 4}
    priced = fit("cross_entropy", problem, hyperparameters=short)
    assert priced.scorer.weights.equal(strongest_index(problem, few, 0, 4).scorer.weights)
    policy = fit("router_ppo", problem, hyperparameters={"decisions": 512, "lanes": 8, "steps": 16})
    assert np.isfinite(problem.evaluate(policy, "test").utility).all()


@pytest.mark.parametrize("learned", [False, True])
def test_an_exported_policy_plays_as_trained(problem, tmp_path, learned):
    router = learned_router(problem, 0) if learned else index_router(problem)
    with_weights(router, {"quality": 1.0, "compute": 0.1, "lateness": 0.5, "first": 0.5, "wait": 0.1})
    generator = torch.Generator().manual_seed(0)
    router.scorer.prices.copy_(0.05 * torch.randn(router.scorer.prices.shape, generator=generator))
    check_router(router, torch.from_numpy(problem.parity_rows().features))
    export(router, tmp_path / "router", format="safetensors", rows=problem)
    loaded = load(tmp_path / "router")
    assert loaded.state == server_state_inputs(problem.experts)
    core = problem.core("test", problem.case, lanes=4, seed=1)
    seen = set()
    for _ in range(48):
        observation = core.observation()
        features = loaded.features
        routed = loaded(observation[:, :features], observation[:, features:]).experts[:, 0]
        assert routed.equal(router.act(observation))
        seen |= set(routed.tolist())
        core.step(routed)
    assert len(seen) > 1
    assert queue_constants(loaded) is None
    assert limits_apis(server_constants(loaded)) == (problem.config.servers == "api")  # what `serve` takes


def test_prices_of_zero_leave_the_index_unchanged(problem):
    router = with_weights(index_router(problem), {"quality": 1.0, "lateness": 0.5})
    core = problem.core("test", problem.case, lanes=3, seed=1)
    core.step(torch.tensor([0, 1, 2]))
    x = core.observation()
    index, products = router.scorer.priced(x)
    assert router.scorer(x).equal(index)
    prices = torch.randn(products.shape[-1])
    torch.testing.assert_close(router.scorer.scores(x, prices), index + products @ prices)


def test_a_measurement_counts_a_missed_request_once(problem):
    measured = measure_queues(problem.core("test", problem.case, lanes=4, seed=2), fit("llmd", problem))
    parts = measured.quality - 0.1 * measured.compute - 0.5 * measured.lateness
    np.testing.assert_allclose(measured.utility, parts, atol=1e-5)
    assert measured.missed.shape == measured.first_s.shape


def test_an_untrained_correction_changes_nothing_and_a_trained_one_multiplies():
    plain = ServerScorer(1 + 22, 2, constants())
    corrected = ServerScorer(1 + 22, 2, constants(), latency_hidden=4)
    corrected.load_state_dict(plain.state_dict(), strict=False)
    x = torch.rand(5, 23) + 0.5
    before = plain.expected(plain.server_parts(x))
    for ours, theirs in zip(corrected.expected(corrected.server_parts(x)), before, strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        corrected.latency.last.bias.copy_(torch.tensor([2.0, 3.0]).log())
    wait, first, finish = corrected.expected(corrected.server_parts(x))
    torch.testing.assert_close(first, 2.0 * before.first)
    torch.testing.assert_close(wait, before.wait + before.first)
    torch.testing.assert_close(finish, first + 3.0 * (before.finish - before.first))
    assert "latency_hidden" not in plain.spec()
    assert (
        ServerScorer.from_spec({k: v for k, v in corrected.spec().items() if k != "kind"}).latency_hidden == 4
    )
    with pytest.raises(RouterError, match="latency_hidden"):
        ServerScorer(1 + 22, 2, constants(), latency_hidden=-1)


def test_learned_times_are_nearer_to_those_of_other_episodes(problem):
    plain, learned = index_router(problem).scorer, learned_router(problem, 0).scorer
    other = latency_samples(problem, plain, 7)

    @torch.no_grad()
    def error(scorer):
        found, rows = scorer.expected(scorer.server_parts(other.observation)), torch.arange(len(other.expert))
        pairs = ((found.first, other.first_s), (found.finish, other.whole_s))
        return [float((e[rows, other.expert].log() - took.log()).square().mean()) for e, took in pairs]

    for ours, theirs in zip(error(learned), error(plain), strict=True):
        assert ours < theirs
    assert not any(each.requires_grad for each in learned.latency.parameters())
    again = learned_router(problem, 0).scorer
    assert all(a.equal(b) for a, b in zip(learned.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("better", [False, True])
def test_learned_times_are_kept_where_validation_is_better(problem, monkeypatch, better):
    good = {"quality": 1.0, "compute": 0.1, "lateness": 0.5, "first": 0.5, "wait": 0.1}
    bad = {"quality": -1.0, "wait": -1.0}

    def tuned(problem, hyperparameters, seed, terms, *, learned=False):
        return with_weights(index_router(problem), good if learned is better else bad)

    monkeypatch.setattr(index_rule, "tuned_index", tuned)
    router = strongest_index(problem, IndexHyperparameters(**FEW), 0, 8)
    assert router.scorer.weights[0] == 1.0
