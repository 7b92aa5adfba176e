"""The warm start returns the gate or something that was better than it where neither had been fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from routing_methods import METHODS

from experts import InputError, OutcomeTable
from router_rl import Objective, compare
from router_rl.methods.agents import warm_start
from router_rl.methods.agents.warm_start import WarmExactPGHyperparameters
from router_rl.methods.gates import deepseek_v3_gate, softmax_gate
from router_rl.methods.method import Run
from router_rl.problems.out_of_fold import OutOfFold
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, Router

QUICK = softmax_gate.SoftmaxGateHyperparameters(epochs=1)


def weights_of(router: Router) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in router.parameters()]


def same(one: Router, two: Router) -> bool:
    pairs = zip(weights_of(one), weights_of(two), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def task(kinds: OutcomeTable) -> RoutingProblem:
    return RoutingProblem(kinds, Objective(compute_weight=0.1), Hard())


@pytest.mark.parametrize(("caution", "kept"), [(1e9, True), (-1e9, False)])
@pytest.mark.parametrize("folds", [0, 3])
def test_caution_decides_between_the_gate_and_the_policy(
    task: RoutingProblem, caution: float, kept: bool, folds: int
) -> None:
    settings = WarmExactPGHyperparameters(
        learning_rate=1e-2, epochs=3, gate_hyperparameters=QUICK, folds=folds, caution=caution
    )
    gate = softmax_gate.fit(task, QUICK, Run(seed=3))
    run = Run(seed=3)
    assert same(warm_start.fit(task, settings, run), gate) is kept
    assert run.messages[-1].endswith(f"warm_exact_pg returns the {'gate' if kept else 'policy'}")


def test_a_gain_that_is_there_is_found(task: RoutingProblem) -> None:
    settings = WarmExactPGHyperparameters(learning_rate=1e-2, gate_hyperparameters=QUICK)
    assert not same(
        warm_start.fit(task, settings, Run()), softmax_gate.fit(task, QUICK, Run())
    )  # the gate has seen the rows once


def test_every_training_row_is_asked_once_and_was_not_fitted_to(
    task: RoutingProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray] = []

    def difference(
        policy: Router, gate: Router, part: RoutingProblem, rows: OutcomeTable, seed: int
    ) -> np.ndarray:
        assert not set(rows.query_id) & {*part.train.query_id, *part.validation.query_id}
        asked.append(rows.query_id)
        return np.ones(len(rows))

    monkeypatch.setattr(warm_start, "_difference", difference)
    settings = WarmExactPGHyperparameters(epochs=1, gate_hyperparameters=QUICK)
    warm_start.fit(task, settings, Run())
    assert len(asked) == settings.folds
    assert sorted(np.concatenate(asked)) == sorted(task.train.query_id)


def test_out_of_fold_features_bring_their_own_folds(
    task: RoutingProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their folds are used, with the features that were fitted without each fold."""
    rows = len(task.train)
    fold = np.arange(rows) % 3
    without = np.repeat(np.arange(3.0, dtype=np.float32)[:, None, None], rows, axis=1)
    out_of_fold = OutOfFold(columns=((1,),), fold=fold, without=without)
    asked: list[int] = []

    def difference(
        policy: Router, gate: Router, part: RoutingProblem, away: OutcomeTable, seed: int
    ) -> np.ndarray:
        number = len(asked)
        assert away.query_id.tolist() == task.train.query_id[fold == number].tolist()
        for table in (part.train, away):
            assert table.features is not None
            assert (table.features[:, 1] == number).all()
        asked.append(number)
        return np.ones(len(away))

    monkeypatch.setattr(warm_start, "_difference", difference)
    settings = WarmExactPGHyperparameters(epochs=1, gate_hyperparameters=QUICK)
    warm_start.fit(task.replaced(out_of_fold=out_of_fold), settings, Run())
    assert asked == [0, 1, 2]


def test_an_unknown_gate_is_refused(task: RoutingProblem) -> None:
    with pytest.raises(InputError, match="did you mean 'softmax_gate'"):
        warm_start.fit(task, WarmExactPGHyperparameters(gate="softmax_gat"), Run())


def test_a_comparison_hands_it_the_gate_that_validation_picks(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(kinds, Objective(compute_weight=0.1))
    methods = ["warm_exact_pg", "softmax_gate", "em_gate"]
    results = compare(problem, methods, seeds=2, n_trials=2).results
    rows: list[dict[str, Any]] = [row for row in results["rows"] if row["split"] == "validation"]
    mean = {
        name: np.mean([row["utility"] for row in rows if row["method"] == name])
        for name in ("softmax_gate", "em_gate")
    }
    best = max(mean, key=lambda name: mean[name])
    warm = [row["hyperparameters"] for row in rows if row["method"] == "warm_exact_pg"]
    gate = next(row["hyperparameters"] for row in rows if row["method"] == best)
    assert [found["gate"] for found in warm] == [best, best]
    assert all(found["gate_hyperparameters"] == gate for found in warm)


def test_a_gate_with_a_rule_of_its_own_keeps_it(task: RoutingProblem) -> None:
    gate = deepseek_v3_gate.DeepSeekV3GateHyperparameters(epochs=1, learning_rate=1e-5)
    settings = WarmExactPGHyperparameters(
        gate="deepseek_v3_gate",
        gate_hyperparameters=gate,
        epochs=3,
        folds=0,
        caution=-1e9,
        learning_rate=1e-2,
    )
    start = deepseek_v3_gate.fit(task, gate, Run())
    router = warm_start.fit(task, settings, Run())
    assert router.rule == start.rule
    assert not same(router, start)


def test_without_a_given_gate_it_searches_over_several() -> None:
    gates = {settings.gate for settings in METHODS["warm_exact_pg"].candidates(12)}
    assert len(gates) > 1
