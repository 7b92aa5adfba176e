"""Weights of the index are searched on common random numbers, and the tuned index beats simpler rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl.methods.fit import fit
from router_rl.methods.queueing import index_rule
from router_rl.methods.queueing.index_router import index_router, with_weights
from router_rl.methods.queueing.index_rule import (
    IndexHyperparameters,
    _utility,
    fit_index,
    tuned_index,
)
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.problems.queueing.queue_measurement import measure_queues

FEW = IndexHyperparameters(candidates=8, lanes=2, validation_lanes=4)
MORE = IndexHyperparameters(candidates=24, lanes=4, validation_lanes=24)
UNPACED = ("compute", "lateness", "wait", "jobs")


@pytest.fixture(scope="module")
def problem():
    """Three experts: the better, the slower and the more expensive."""
    rng = np.random.default_rng(0)
    rows = 300
    features = rng.normal(size=(rows, 2))
    skill = np.array([0.5, 0.7, 0.9]) + 0.1 * features[:, :1]
    table = OutcomeTable(
        experts=["small", "middle", "large"],
        query_id=range(rows),
        features=features,
        quality=skill.clip(0, 1),
        cost=np.array([[1.0, 2.0, 4.0]] * rows),
        latency_s=rng.exponential(1.0, (rows, 3)) * [0.5, 1.0, 2.0] + 1e-3,
        split=["train"] * 150 + ["validation"] * 75 + ["test"] * 75,
    )
    return QueueingProblem(table, loads=0.6, window=128)


def utility(problem, policy):
    return measure_queues(problem.core("test", problem.case, lanes=32, seed=9), policy).utility.mean()


def test_candidates_measured_together_earn_what_each_earns_by_itself(problem):
    router = index_router(problem)
    draws = torch.tensor([[1.0, 0.1, 0.5, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    together = _utility(problem, router, draws, "train", lanes=3, seed=2)
    for weights, mean in zip(draws, together, strict=True):
        router.scorer.weights.copy_(weights)
        core = problem.core("train", problem.case, lanes=3, seed=2_000)
        assert float(mean) == pytest.approx(measure_queues(core, router).utility.mean(), abs=1e-6)


@pytest.mark.slow
def test_the_tuned_index_beats_every_simpler_rule(problem):
    best = utility(problem, fit_index(problem, MORE))
    rules = (
        "random",
        "round_robin",
        "power_of_two",
        "best_single",
        "shortest_queue",
        "least_wait",
        "static_gate",
        "softmax_gate",
    )
    rivals = {name: utility(problem, fit(name, problem)) for name in rules}
    assert best > max(rivals.values()) + 0.01
    assert (
        rivals["static_gate"] < best - 1.0
    )  # it sends all requests to the best expert, whose queue explodes


def test_terms_not_named_weigh_nothing(problem):
    router = fit_index(problem, FEW, terms=("wait",))
    quality, compute, lateness, wait, jobs, pace = router.scorer.weights.tolist()
    assert (quality, compute, lateness, jobs, pace) == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert wait >= 0.0


@pytest.mark.slow
def test_the_pace_is_tuned_under_a_budget_only(problem):
    both = [fit_index(problem, FEW, terms=terms) for terms in ((*UNPACED, "pace"), UNPACED)]
    assert both[0].scorer.weights.equal(both[1].scorer.weights)
    options = replace(problem.options, budget=0.05, overspend_weight=20.0)
    limited = QueueingProblem(problem.table, problem.objective, options=options)
    paced, unpaced = (fit_index(limited, MORE, terms=terms) for terms in ((*UNPACED, "pace"), UNPACED))
    assert paced.scorer.weights[5] > 0.0
    assert utility(limited, paced) > utility(limited, unpaced)


@pytest.mark.slow
def test_an_index_is_tuned_once_and_given_as_a_copy(problem, monkeypatch):
    first = tuned_index(problem, FEW, 0, UNPACED)
    kept = first.scorer.weights.clone()
    first.scorer.weights.zero_()
    cores = []
    core = QueueingProblem.core
    monkeypatch.setattr(
        QueueingProblem, "core", lambda *args, **named: cores.append(1) or core(*args, **named)
    )
    again = tuned_index(problem.at(problem.case), FEW, 0, UNPACED)
    assert again.scorer.weights.equal(kept)
    assert not cores
    other_seed = tuned_index(problem, FEW, 1, UNPACED)
    other_terms = tuned_index(problem, FEW, 0, ("compute", "wait"))
    assert not other_seed.scorer.weights.equal(kept)
    assert not other_terms.scorer.weights.equal(kept)


def test_two_draws_choose_the_shorter_queue_and_an_evaluation_repeats(problem):
    policy = fit("power_of_two", problem, seed=3)
    shortest = utility(problem, fit("shortest_queue", problem))
    uniform = utility(problem, fit("random", problem))
    assert uniform < utility(problem, policy) <= shortest + 0.05
    assert utility(problem, policy) == utility(problem, policy)


def test_a_measurement_adds_up(problem):
    router = with_weights(index_router(problem), {"wait": 1.0})
    measured = measure_queues(problem.core("test", problem.case, lanes=8, seed=1), router)
    parts = measured.quality - 0.1 * measured.compute - 0.5 * measured.lateness
    np.testing.assert_allclose(measured.utility, parts, atol=1e-5)
    means = measured.summary(budget=False).means()
    assert means["p50_s"] < means["p95_s"] < means["p99_s"]
    assert 0.0 < means["missed"] < 1.0
    np.testing.assert_allclose(measured.share.sum(axis=1), 1.0, atol=1e-6)
    late = measured.response_s > 2.0 * problem.units.mean_service
    np.testing.assert_array_equal(measured.missed, late)


def test_every_round_of_the_search_narrows_around_the_best(problem, monkeypatch):
    """A search of one round draws once and stops; each further round starts from the best eighth so far."""
    rounds, draws_of = [], []
    optimum = torch.tensor([0.3, 0.02]).log10()  # of compute and wait

    def value(draws):
        return -(draws.clamp(min=1e-9).log10() - optimum).square().sum(dim=1).double()

    def utility(problem, router, draws, split, lanes, seed):
        rounds.append((split, lanes, seed))
        draws_of.append(draws[:, [1, 3]])
        return value(draws_of[-1])

    monkeypatch.setattr(index_rule, "_utility", utility)
    settings = IndexHyperparameters(candidates=40, lanes=3, validation_lanes=7, iterations=2)
    router = fit_index(problem, settings, seed=5, terms=("compute", "wait"))
    assert rounds == [("train", 3, 5), ("train", 3, 6), ("train", 3, 7), ("validation", 7, 5)]
    assert [len(draws) for draws in draws_of] == [40, 40, 40, 5]
    first, second, third, finalists = (value(draws) for draws in draws_of)
    assert first.max() < second.max() < third.max()
    for before, after in ((first, second), (second, third), (third, finalists)):
        assert after.topk(5).values.ge(before.topk(5).values).all()
    torch.testing.assert_close(router.scorer.weights[[1, 3]], draws_of[3][finalists.argmax()])
