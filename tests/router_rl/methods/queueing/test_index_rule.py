"""Weights of the index are searched on common random numbers, and what they find is good."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl.methods.queueing import queue_rules as rivals
from router_rl.methods.queueing.index_rule import IndexHyperparameters, _play_all, fit_index, with_weights
from router_rl.problems.queueing.queue_measurement import act_of, play_queues
from router_rl.problems.queueing.queue_task import QueueTask


@pytest.fixture(scope="module")
def task():
    """Three experts: the better, the slower and the dearer."""
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
    return QueueTask.of(table, load=0.6, window=128)


def utility(task, policy):
    return play_queues(task.core("test", 32, seed=9), policy.begin()).utility.mean()


def test_candidates_played_together_earn_what_each_earns_alone(task):
    router = task.router()
    draws = torch.tensor([[1.0, 0.1, 0.5, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    together = _play_all(task, router, draws, "train", lanes=3, seed=2)
    for weights, found in zip(draws, together, strict=True):
        router.scorer.weights.copy_(weights)
        alone = play_queues(task.core("train", 3, seed=2_000), act_of(router)).utility.mean()
        assert float(found) == pytest.approx(alone, abs=1e-6)


def test_the_tuned_index_beats_every_simpler_rule(task):
    tuned = rivals.routed(fit_index(task, IndexHyperparameters(candidates=24, lanes=4, validation_lanes=24)))
    best = utility(task, tuned)
    rules = (
        rivals.random_expert,
        rivals.round_robin,
        rivals.power_of_two,
        rivals.best_single,
        rivals.shortest_queue,
        rivals.least_wait,
        rivals.static_gate,
        rivals.softmax_gate,
    )
    assert best > max(utility(task, rule(task, 0)) for rule in rules) + 0.01
    assert utility(task, rivals.static_gate(task, 0)) < best - 1.0  # it sends all to the best and drowns it


def test_terms_not_named_weigh_nothing(task):
    found = fit_index(task, IndexHyperparameters(terms=("wait",), candidates=8, lanes=2, validation_lanes=4))
    quality, compute, lateness, wait, jobs, pace = found.scorer.weights.tolist()
    assert (quality, compute, lateness, jobs, pace) == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert wait >= 0.0


def test_the_pace_is_tuned_under_a_budget_alone(task):
    few = {"candidates": 8, "lanes": 2, "validation_lanes": 4}
    blind = ("compute", "lateness", "wait", "jobs")
    both = [fit_index(task, IndexHyperparameters(**few, **terms)) for terms in ({}, {"terms": blind})]
    assert both[0].scorer.weights.equal(both[1].scorer.weights)
    settings = {**task.settings, "budget": 0.05, "overspend_weight": 20.0}
    held = QueueTask.of(task.table, **settings)
    paced, unpaced = (
        fit_index(held, IndexHyperparameters(candidates=24, lanes=4, validation_lanes=24, terms=terms))
        for terms in ((*blind, "pace"), blind)
    )
    assert paced.scorer.weights[5] > 0.0
    assert utility(held, rivals.routed(paced)) > utility(held, rivals.routed(unpaced))


def test_two_draws_choose_the_shorter_and_a_play_repeats(task):
    policy = rivals.power_of_two(task, seed=3)
    shortest = utility(task, rivals.shortest_queue(task, 0))
    anybody = utility(task, rivals.random_expert(task, 0))
    assert anybody < utility(task, policy) <= shortest + 0.05
    assert utility(task, policy) == utility(task, policy)


def test_a_measurement_adds_up(task):
    router = with_weights(task.router(), {"wait": 1.0})
    found = play_queues(task.core("test", 8, seed=1), act_of(router))
    parts = found.quality - 0.1 * found.compute - 0.5 * found.lateness
    np.testing.assert_allclose(found.utility, parts, atol=1e-5)
    means = found.means()
    assert means["p50_s"] < means["p95_s"] < means["p99_s"]
    assert 0.0 < means["missed"] < 1.0
    assert found.shares.sum() == pytest.approx(1.0)
    late = found.response_s > 2.0 * task.units.second
    np.testing.assert_array_equal(found.missed, late)
