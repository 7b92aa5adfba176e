"""A case solved by value iteration, and the learner that reaches its optimum from a rule that collapses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl.methods.method import Run
from router_rl.methods.queueing.index_router import index_router, with_weights
from router_rl.methods.queueing.rollout_iteration import RolloutHyperparameters, fit_rollouts
from router_rl.problems.objective import Objective
from router_rl.problems.problem import ActionPolicy
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.problems.queueing.queue_measurement import measure_queues

RATE, DEADLINE, STATES = 0.9, 2.0, 80
QUALITY = np.array([[1.0, 0.7], [1.0, 0.0]])  # of (good, quick) on an easy and on a hard request


@pytest.fixture(scope="module")
def problem():
    """An M/M/1 queue before a good expert, and a quick one without a queue."""
    rng = np.random.default_rng(0)
    rows = 6_000
    hard = rng.integers(0, 2, rows)
    service = np.column_stack([rng.exponential(1.0, rows) + 1e-9, np.full(rows, 1e-3)])
    table = OutcomeTable(
        experts=["good", "quick"],
        query_id=range(rows),
        features=hard[:, None],
        quality=QUALITY[hard],
        cost=np.ones((rows, 2)),
        latency_s=service,
        split=np.repeat(["train", "validation", "test"], rows // 3),
    )
    pace = sum(1.0 / seconds for seconds in service[: rows // 3].mean(axis=0))
    unit = service[: rows // 3].mean()
    return QueueingProblem(
        table, Objective(compute_weight=0.0), loads=RATE / pace, deadlines=(DEADLINE / unit,), window=256
    )


def expected_lateness(ahead):
    """E[(X - d)+] / d of a sum of ahead + 1 exponential services of mean 1 (Erlang)."""
    stages = ahead + 1
    tail = sum((stages - k) * DEADLINE**k / math.factorial(k) for k in range(stages + 1))
    return math.exp(-DEADLINE) * tail / DEADLINE


def solve():
    """Relative value iteration: mean reward, and the largest queue each kind of request still joins."""
    late = np.array([0.5 * expected_lateness(n) for n in range(STATES)])
    # Between arrivals the server ends k requests: each event is an end with chance 1 / (1 + RATE).
    ends = 1.0 / (1.0 + RATE)
    moves = np.zeros((STATES + 1, STATES + 1))
    for n in range(STATES + 1):
        for left in range(1, n + 1):
            moves[n, left] = ends ** (n - left) * (1.0 - ends)
        moves[n, 0] = 1.0 - moves[n].sum()
    value = np.zeros(STATES)
    for _ in range(4_000):
        after = moves[:, :STATES] @ value
        best = [np.maximum(q[0] - late + after[1:], q[1] + after[:STATES]) for q in QUALITY]
        new = sum(best) / 2
        mean, value = new[0] - value[0], new - new[0]
    joins = [q[0] - late + after[1:] > q[1] + after[:STATES] for q in QUALITY]
    return mean, [int(np.argmin(one)) for one in joins]


def test_the_erlang_tail_is_right():
    draws = np.random.default_rng(0).gamma(3.0, size=400_000)
    assert expected_lateness(2) == pytest.approx(np.maximum(draws - 2.0, 0.0).mean() / 2.0, rel=0.01)


@pytest.mark.slow
def test_the_learner_reaches_the_optimum(problem):
    mean, limits = solve()
    assert limits[1] > limits[0] >= 1  # hard requests may wait longer

    def optimal(observation):
        jobs, hard = observation[:, 1] + observation[:, 3], observation[:, 0].long()
        return (jobs >= torch.tensor(limits)[hard]).long()

    def utility(policy):
        return measure_queues(problem.core("test", problem.case, lanes=128, seed=77), policy).utility

    best = utility(ActionPolicy(actions=optimal))
    # Test rows have a mean service of their own, and episodes begin empty: a few hundredths.
    assert best.mean() == pytest.approx(mean, abs=0.03)
    static = with_weights(index_router(problem), {"quality": 1.0})
    assert (utility(static) - best).mean() < -1.0  # sends all to the good expert
    start = with_weights(index_router(problem), {"quality": 1.0, "lateness": 0.5})  # ignores later requests
    before = (utility(start) - best).mean()
    hyperparameters = RolloutHyperparameters(
        states=1_500, horizon=40, iterations=2, lanes=64, validation_lanes=64
    )
    router = fit_rollouts(problem, hyperparameters, Run(seed=0), start=start)
    gap = (utility(router) - best).mean()
    assert gap > -0.01
    assert gap > before
