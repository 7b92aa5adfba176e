"""Bandit feedback: nothing hidden is read, estimates have no bias, and methods still learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experts import InputError, OutcomeTable
from experts.table.decision_log import DecisionLog, epsilon_greedy, log_decisions
from router_rl import Objective, fit
from router_rl.problems.logged_feedback import LogConfig, impute, imputed
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.tuning_rows import with_tuning_rows
from router_rl.routing import Hard, TopK

OBJECTIVE = Objective(compute_weight=0.05)


def _task(table: OutcomeTable, **options: object) -> RoutingProblem:
    return RoutingProblem(table, OBJECTIVE, Hard(), feedback="bandit", log=LogConfig(**options))  # type: ignore[arg-type]


def test_by_hand() -> None:
    log = DecisionLog(
        experts=("a", "b"),
        query_id=["q", "r"],
        action=[0, 1],
        propensity=[0.25, 0.5],
        quality=[1, 0],
        cost=[2, 4],
    )
    model = np.array([[[0.5, 1.0], [0.2, 3.0]], [[0.5, 1.0], [0.2, 3.0]]])
    quality, cost = imputed(log, model, None)
    np.testing.assert_allclose(quality, [[0.5 + 4 * 0.5, 0.2], [0.5, 0.2 - 2 * 0.2]])
    np.testing.assert_allclose(cost, [[1 + 4 * 1, 3], [1, 3 + 2 * 1]])
    np.testing.assert_allclose(imputed(log, model, 1.0)[0], [[1.0, 0.2], [0.5, 0.0]])
    np.testing.assert_allclose(imputed(log, model, 0.0)[0], model[:, :, 0])


def test_nothing_hidden_is_read(kinds: OutcomeTable) -> None:
    """Where all that the log did not see is changed, training, validation and tuning rows are the same."""
    policy = np.full((len(kinds), 4), 0.25)
    table = with_tuning_rows(kinds)
    parts = [table.part(name) for name in ("train", "validation", "tuning")]
    other = []
    for part, seed in zip(parts, (0, 1, 2), strict=True):
        log = log_decisions(part, policy[: len(part)], seed=seed)
        hidden = np.arange(4) != log.action[:, None]
        quality = np.where(hidden, 1.0 - part.quality, part.quality)
        cost = np.where(hidden, part.cost + 7.0, part.cost)
        other.append(replace(part, quality=quality, cost=cost, probabilities=None, label=None))
    pairs = zip(impute(*parts, config=LogConfig()), impute(*other, config=LogConfig()), strict=True)
    for one, two in pairs:
        np.testing.assert_array_equal(one.quality, two.quality)
        np.testing.assert_array_equal(one.cost, two.cost)
        assert one.probabilities is None
        assert one.label is None


def test_validation_is_estimated_without_bias(kinds: OutcomeTable) -> None:
    """Over many logs, what a router is estimated to earn on validation is what it earns there."""
    full = RoutingProblem(kinds, OBJECTIVE, Hard())
    router = fit("ridge", RoutingProblem(kinds, OBJECTIVE))
    truth = measure(router, full.validation, OBJECTIVE, full.scale).means()["utility"]
    found = []
    for seed in range(40):
        task = _task(kinds, seed=seed, clip=1.0)  # the clip is for learning alone
        found.append(measure(router, task.validation, OBJECTIVE, task.scale).means()["utility"])
    assert np.mean(found) == pytest.approx(truth, abs=3 * np.std(found) / 40**0.5)
    assert np.std(found) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["exact_pg", "warm_exact_pg", "router_ppo", "softmax_gate", "switch_gate", "ridge", "linucb", "thompson"],
)
def test_learns_from_one_outcome_a_query(kinds: OutcomeTable, method: str) -> None:
    # The right expert of each kind earns .979 on average, the best single one .65.
    router = fit(method, RoutingProblem(kinds, OBJECTIVE, feedback="bandit"))
    scale = RoutingProblem(kinds, OBJECTIVE, Hard()).scale
    assert measure(router, kinds.part("test"), OBJECTIVE, scale).means()["utility"] > 0.85


@pytest.mark.slow
def test_a_lone_lane_learns_too(kinds: OutcomeTable) -> None:
    for method in ("reinforce", "router_ppo"):
        router = fit(
            method, RoutingProblem(kinds, OBJECTIVE), hyperparameters={"group": 1, "decisions": 100000}
        )
        scale = RoutingProblem(kinds, OBJECTIVE, Hard()).scale
        assert measure(router, kinds.part("test"), OBJECTIVE, scale).means()["utility"] > 0.93


def test_a_named_tree_learns(kinds: OutcomeTable) -> None:
    tree = {"warm": ["red"], "cool": ["green", "blue", "grey"]}
    router = fit(
        "exact_pg", RoutingProblem(kinds, OBJECTIVE, select="hierarchical", tree=tree, feedback="bandit")
    )
    scale = RoutingProblem(kinds, OBJECTIVE, Hard()).scale
    assert measure(router, kinds.part("test"), OBJECTIVE, scale).means()["utility"] > 0.85


def test_a_usual_expert_is_logged_more(kinds: OutcomeTable) -> None:
    task = _task(kinds, epsilon=0.2)
    best = kinds.part("train").quality.mean(axis=0).argmax()
    log = log_decisions(task.logged, epsilon_greedy(np.full(len(task.logged), best), 4, 0.2), seed=0)
    assert (log.action == best).mean() == pytest.approx(0.85, abs=0.05)
    assert "uniformly random with probability 0.2" in task.notes[0]


def test_a_bandit_meets_each_query_once(kinds: OutcomeTable) -> None:
    once, thrice = (
        fit("linucb", RoutingProblem(kinds, OBJECTIVE, feedback="bandit"), hyperparameters={"passes": p})
        for p in (1, 3)
    )
    for name, value in once.state_dict().items():
        assert value.equal(thrice.state_dict()[name])


def test_full_feedback_is_as_it_was(kinds: OutcomeTable) -> None:
    task = RoutingProblem(kinds, OBJECTIVE, Hard())
    assert task.feedback == "full"
    assert task.logged is task.train
    assert task.notes == ()
    np.testing.assert_array_equal(task.train.quality, kinds.part("train").quality)


def test_mistakes(kinds: OutcomeTable) -> None:
    with pytest.raises(InputError, match="feedback='bandid': unknown; did you mean 'bandit'"):
        RoutingProblem(kinds, OBJECTIVE, Hard(), feedback="bandid")
    with pytest.raises(InputError, match="a log has one expert per query, topk selects 2"):
        RoutingProblem(kinds, OBJECTIVE, TopK(k=2), feedback="bandit")
    with pytest.raises(InputError, match="tree=None: is built from all outcomes"):
        fit("ridge", RoutingProblem(kinds, OBJECTIVE, select="hierarchical", feedback="bandit"))
    with pytest.raises(
        InputError, match=r"log\.epsilon=0\.0: is out of range; use a number above 0 and at most 1"
    ):
        LogConfig(epsilon=0.0)
    with pytest.raises(InputError, match=r"log\.clip=-1\.0: is out of range; use a number of at least 0"):
        LogConfig(clip=-1.0)
