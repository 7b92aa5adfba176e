"""The warm start compares start and policy out of fold: neither is fitted to the rows it is judged on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy_methods

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem
from router_rl.methods.agents import warm_start
from router_rl.methods.agents.warm_start import WarmExactPGHyperparameters
from router_rl.methods.gates.softmax_gate import SoftmaxGateHyperparameters
from router_rl.methods.method import Method, Run
from router_rl.problems.out_of_fold import OutOfFold
from router_rl.routing import Router

QUICK = WarmExactPGHyperparameters(
    epochs=1, folds=4, start_hyperparameters=SoftmaxGateHyperparameters(epochs=1)
)
ROWS = toy_methods.ROWS


@pytest.fixture
def problem() -> RoutingProblem:
    return RoutingProblem(toy_methods.disagreeing_table(), Objective(compute_weight=0.1))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[int], set[int]]]:
    """Record who is judged, the training rows it was fitted to, and the rows it is judged on."""
    records: list[tuple[str, set[int], set[int]]] = []
    fitted: dict[int, set[int]] = {}
    kept: list[Router] = []
    fit_pair, difference = warm_start._start_and_policy, warm_start._difference

    def record_fit(
        problem: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run
    ) -> tuple[Router, Router]:
        pair = fit_pair(problem, hyperparameters, run)
        kept.extend(pair)  # a router that is collected could share its id with another one
        fitted.update({id(router): set(problem.train.query_id) for router in pair})
        return pair

    def record_difference(
        policy: Router, start: Router, part: RoutingProblem, rows: OutcomeTable, seed: int
    ) -> np.ndarray:
        for name, router in (("policy", policy), ("start", start)):
            records.append((name, fitted[id(router)], set(rows.query_id)))
        return difference(policy, start, part, rows, seed)

    monkeypatch.setattr(warm_start, "_start_and_policy", record_fit)
    monkeypatch.setattr(warm_start, "_difference", record_difference)
    return records


@pytest.mark.parametrize("name", ["start", "policy"])
def test_kills_out_of_fold_judged_in_fold(
    problem: RoutingProblem, judged: list[tuple[str, set[int], set[int]]], name: str
) -> None:
    warm_start._out_of_fold(problem, QUICK, Run())
    own = [(fitted, rows) for who, fitted, rows in judged if who == name]
    assert len(own) == QUICK.folds
    for fitted, rows in own:
        assert len(fitted) == ROWS - ROWS // QUICK.folds
        assert not fitted & rows
        assert fitted | rows == set(problem.train.query_id)
    assert set.union(*(rows for _, rows in own)) == set(problem.train.query_id)


def test_kills_folds_of_out_of_fold_features_judged_in_fold(
    problem: RoutingProblem, judged: list[tuple[str, set[int], set[int]]]
) -> None:
    fold = np.arange(ROWS) % 2
    without = np.zeros((2, ROWS, 1), dtype=np.float32)
    out_of_fold = OutOfFold(columns=((1,),), fold=fold, without=without)
    warm_start._out_of_fold(problem.replaced(out_of_fold=out_of_fold), QUICK, Run())
    assert len(judged) == 4
    for number, (_, fitted, rows) in enumerate(judged):
        assert rows == set(problem.train.query_id[fold == number // 2])
        assert not fitted & rows


def test_kills_a_gain_written_to_the_rows_of_another_fold(
    problem: RoutingProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gain of each row is that of the fold that holds it out."""
    monkeypatch.setattr(
        warm_start, "_difference", lambda policy, start, part, rows, seed: rows.query_id.astype(float)
    )
    gain = warm_start._out_of_fold(problem, QUICK, Run())
    np.testing.assert_array_equal(gain, problem.train.query_id.astype(float))


def test_kills_warm_starts_of_every_seed_with_seed_0(
    problem: RoutingProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start and the ascent of each fold get the seed of the run."""
    seeds: list[int] = []
    fit_method, ascend = warm_start.fit_method, warm_start.ascend

    def record_start(method: Method, part: RoutingProblem, hyperparameters: Any, run: Run) -> Router:
        seeds.append(run.seed)
        return fit_method(method, part, hyperparameters, run)

    def record_ascent(
        part: RoutingProblem, hyperparameters: WarmExactPGHyperparameters, run: Run, start: Router
    ) -> Router:
        seeds.append(run.seed)
        return ascend(part, hyperparameters, run, start)

    monkeypatch.setattr(warm_start, "fit_method", record_start)
    monkeypatch.setattr(warm_start, "ascend", record_ascent)
    warm_start._out_of_fold(problem, QUICK, Run(seed=7))
    assert seeds == [7, 7] * QUICK.folds


@pytest.mark.parametrize(("enough", "by_folds"), [(ROWS - 1, False), (ROWS, False), (ROWS + 1, True)])
def test_many_validation_rows_take_the_place_of_folds(
    enough: int, by_folds: bool, problem: RoutingProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[set[int]] = []

    def difference(_: Router, __: Router, ___: RoutingProblem, rows: OutcomeTable, seed: int) -> np.ndarray:
        judged.append(set(rows.query_id))
        return np.ones(len(rows))

    monkeypatch.setattr(warm_start, "_difference", difference)
    monkeypatch.setattr(warm_start, "_ENOUGH_ROWS", enough)
    warm_start.fit(problem, QUICK, Run())
    assert len(problem.validation) == ROWS
    assert (len(judged) == QUICK.folds) is by_folds
    assert (judged == [set(problem.validation.query_id)]) is not by_folds
