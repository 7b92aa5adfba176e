"""The bounds under a budget: no sequence of decisions exceeds the one, no pacing of the rule the other."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from router_rl import Objective, QueueingProblem
from router_rl.methods.fit import fit
from router_rl.methods.queueing import budget_bounds
from router_rl.methods.queueing.budget_bounds import dual_mixture, dual_prices
from router_rl.methods.queueing.index_router import index_router, with_weights
from router_rl.methods.registry import find_method
from router_rl.problems.problem import ActionPolicy
from router_rl.problems.queueing.queue_measurement import measure_queues

FEW = {"candidates": 8, "lanes": 2, "validation_lanes": 4, "iterations": 1}


def problem_of(table, **options):
    settings = {"loads": 0.9, "budget": 0.4, "overspend_weight": 5.0, "window": 6, "episodes": 6}
    settings |= {"deadlines": (1.0, 3.0), "values": (2.0, 0.5), "shares": (0.4, 0.6), "miss_weight": 0.2}
    return QueueingProblem(table, Objective(compute_weight=0.1), **{**settings, **options})


def relaxation(problem, split="test"):
    return find_method("queueing", "budget_relaxation").measure(problem, problem.case, split)


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"budget": 0.25}, {"budget": 5.0}, {"overspend_weight": 0.0}, {"batch": 3}),
        {"mean_up": 3.0, "mean_repair": 1.0},
    ],
)
def test_no_sequence_of_decisions_exceeds_the_relaxation(table, options):
    """Brute force: all 3 ** 6 sequences, each in a lane of its own of the environment."""
    problem = problem_of(table, **options)
    plans = torch.tensor(list(itertools.product(range(3), repeat=6)))
    core = problem.core("test", problem.case, lanes=6 * len(plans), seed=800_000, group=len(plans))
    assert core.state.episodes.row[:: len(plans)].equal(
        problem.evaluation_core("test", problem.case).state.episodes.row
    )
    policy = ActionPolicy(actions=lambda seen: plans.repeat(6, 1)[:, core.state.step[0]])
    best = measure_queues(core, policy).utility.reshape(6, len(plans)).max(axis=1)
    bound = relaxation(problem).utility
    assert (bound >= best - 1e-6).all()
    assert (bound - best).mean() < 0.6  # and it says something


def test_the_relaxation_is_exact_where_nothing_waits_and_one_expert_is_enough(table):
    """With many replicas, and a budget that does not bind, it is the best of each request."""
    problem = problem_of(table, replicas=(50, 50, 50), budget=50.0)
    core = problem.evaluation_core("test", problem.case)
    rows, config = core.state.episodes.row[:, :6], core.config
    deadline, value = (
        each[:, :6, None].double() for each in (core.state.episodes.deadline, core.state.episodes.value)
    )
    service = core.servers.service[rows]
    worth = value * core.outcomes.quality[rows] - 0.1 * core.outcomes.compute[rows]
    worth = worth - config.lateness_weight * value * (service - deadline).clamp(min=0) / deadline
    worth = worth - 0.2 * value * (service > deadline)
    plan = worth.argmax(dim=-1)
    policy = ActionPolicy(actions=lambda seen: plan[torch.arange(6), core.state.step])
    played = measure_queues(core, policy)
    bound = relaxation(problem)
    np.testing.assert_allclose(bound.utility, played.utility, atol=1e-6)
    for name in ("quality", "compute", "lateness", "overspend"):
        np.testing.assert_allclose(bound.parts[name], getattr(played, name), atol=1e-6)
    np.testing.assert_allclose(bound.parts["missed"], played.missed.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(bound.share, played.share, atol=1e-6)
    for name, level in (("p50_s", 0.5), ("p95_s", 0.95), ("p99_s", 0.99)):
        assert bound.facts[name] == pytest.approx(np.quantile(played.response_s, level))


@pytest.mark.parametrize("seed", range(12))
def test_the_dual_of_an_episode_is_its_linear_program(seed):
    rng = np.random.default_rng(seed)
    count, experts, budget, dearest = 7, 3, rng.uniform(0.1, 0.8), rng.choice([0.3, 2.0, 20.0])
    earned, compute = rng.normal(size=(count, experts)), rng.random((count, experts))
    price = dual_prices(
        torch.from_numpy(earned)[None], torch.from_numpy(compute)[None], budget, float(dearest)
    )
    assert 0.0 <= float(price) <= dearest
    dual = (earned - float(price) * (compute - budget)).max(axis=1).mean()
    # Variables: the share of each request at each expert, then the compute above the budget.
    cost = np.append(-earned.ravel() / count, dearest)
    above = np.append(compute.ravel() / count, -1.0)[None]
    whole = np.hstack([np.kron(np.eye(count), np.ones(experts)), np.zeros((count, 1))])
    found = linprog(cost, A_ub=above, b_ub=[budget], A_eq=whole, b_eq=np.ones(count))
    assert dual == pytest.approx(-found.fun, abs=1e-7)


@pytest.mark.parametrize("seed", range(12))
def test_the_mixture_is_its_linear_program(seed):
    rng = np.random.default_rng(seed)
    count, budget, dearest = 6, rng.uniform(-0.1, 1.1), rng.choice([0.3, 2.0, 20.0])
    earned, compute = rng.normal(size=count), rng.random(count)
    compute[1], earned[2] = compute[0], earned[3]
    found = dual_mixture(earned, compute, budget, float(dearest))
    cost = np.append(-earned, dearest)
    above, whole = np.append(compute, -1.0)[None], np.append(np.ones(count), 0.0)[None]
    exact = linprog(cost, A_ub=above, b_ub=[budget], A_eq=whole, b_eq=[1.0])
    assert found.value == pytest.approx(-exact.fun, abs=1e-7)
    assert found.share.sum() == pytest.approx(1.0)
    over = max(0.0, float(found.share @ compute) - budget)
    assert found.share @ earned - dearest * over == pytest.approx(found.value, abs=1e-7)


def test_the_mixture_is_the_least_dual_value_of_what_fixed_weights_earn(table, monkeypatch):
    problem = problem_of(
        table, window=40, overspend_weight=3.0, replicas=(50, 50, 50), deadlines=(90.0, 100.0)
    )
    tuned = {"quality": 1.0, "compute": 7.0, "lateness": 0.5, "wait": 0.1, "pace": 2.0}
    rule = with_weights(index_router(problem), tuned)
    monkeypatch.setattr(budget_bounds, "tuned_index", lambda *_: rule)
    monkeypatch.setattr(budget_bounds, "_WEIGHTS", (0.0, 3.2))
    found = find_method("queueing", "budget_mixture").measure(problem, problem.case, "test")

    fixed = [with_weights(copy.deepcopy(rule), {**tuned, "compute": w, "pace": 0.0}) for w in (0.0, 3.2)]
    measured = [problem.evaluate(each, "test") for each in fixed]
    compute = np.array([each.parts["compute"].mean() for each in measured])
    earned = np.array([(each.utility + 3.0 * each.parts["overspend"]).mean() for each in measured])
    assert compute[1] < 0.4 < compute[0]  # the budget is between the two
    price = (earned[0] - earned[1]) / (compute[0] - compute[1])
    assert 0.0 < price < 3.0
    share = (0.4 - compute[1]) / (compute[0] - compute[1])
    mixed = np.array([share, 1.0 - share])
    assert found.utility.mean() == pytest.approx(mixed @ earned, abs=1e-9)
    assert found.parts["compute"].mean() == pytest.approx(0.4)
    for name in ("quality", "missed", "lateness", "overspend"):
        expected = mixed @ [each.parts[name].mean() for each in measured]
        assert found.parts[name].mean() == pytest.approx(expected)
    for name in ("p50_s", "p95_s", "p99_s"):
        assert found.facts[name] == pytest.approx(mixed @ [each.facts[name] for each in measured])
    np.testing.assert_allclose(
        found.share, share * measured[0].share + (1 - share) * measured[1].share, atol=1e-6
    )


@pytest.mark.slow
def test_no_fixed_compute_weight_exceeds_the_mixture(table, monkeypatch):
    from router_rl.methods.queueing.index_router import scorer_of
    from router_rl.methods.queueing.index_rule import ALL_TERMS, tuned_index
    from router_rl.methods.queueing.weight_search import IndexHyperparameters

    few = IndexHyperparameters(**FEW)
    monkeypatch.setattr(budget_bounds, "IndexHyperparameters", lambda: few)
    problem = problem_of(table, window=40, episodes=24, overspend_weight=10.0)
    bound = find_method("queueing", "budget_mixture").measure(problem, problem.case, "test")
    rule = tuned_index(problem, few, 0, ALL_TERMS)
    names = scorer_of(rule).term_names
    tuned = dict(zip(names, scorer_of(rule).weights.tolist(), strict=True))
    for weight in (0.0, 0.1, 0.4, 3.2):
        fixed = with_weights(rule, {**tuned, "compute": weight, "pace": 0.0})
        assert bound.utility.mean() >= problem.evaluate(fixed, "test").utility.mean() - 1e-9
    assert bound.utility.mean() <= relaxation(problem).utility.mean() + 1e-9
    assert set(bound.parts) == {"quality", "compute", "missed", "lateness", "overspend"}
    assert bound.parts["compute"].mean() <= 0.4 + 1e-6


def test_without_a_budget_they_refuse(table):
    problem = QueueingProblem(table)
    for name in ("budget_relaxation", "budget_mixture"):
        assert "give --problem.budget" in find_method("queueing", name).refusal(problem)
    assert find_method("queueing", "budget_relaxation").refusal(problem_of(table)) is None
    assert np.isfinite(problem_of(table).evaluate(fit("least_wait", problem_of(table)), "test").utility).all()
