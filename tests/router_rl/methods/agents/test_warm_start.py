"""The warm start returns its start, or a policy that was better where neither had been fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from routing_methods import METHODS

from experts import InputError, OutcomeTable
from router_rl import Objective, check_router, compare, export
from router_rl.methods.agents import warm_start
from router_rl.methods.agents.rule_ascent import held_out_logits
from router_rl.methods.agents.warm_start import WarmExactPGHyperparameters, from_start
from router_rl.methods.baselines.kernel import KernelHyperparameters
from router_rl.methods.gates import deepseek_v3_gate, softmax_gate
from router_rl.methods.method import Method, Run
from router_rl.methods.registry import find_method
from router_rl.problems.out_of_fold import OutOfFold
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, KernelScorer, ResidualScorer, Router, load_router

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
        learning_rate=1e-2, epochs=3, start_hyperparameters=QUICK, folds=folds, caution=caution
    )
    gate = softmax_gate.fit(task, QUICK, Run(seed=3))
    run = Run(seed=3)
    assert same(warm_start.fit(task, settings, run), gate) is kept
    assert run.messages[-1].endswith(f"warm_exact_pg returns {'softmax_gate' if kept else 'the policy'}")
    assert run.facts == ({"equals_start": "softmax_gate"} if kept else {})


def test_a_gain_that_is_there_is_found(task: RoutingProblem) -> None:
    settings = WarmExactPGHyperparameters(learning_rate=1e-2, start_hyperparameters=QUICK)
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
    settings = WarmExactPGHyperparameters(epochs=1, start_hyperparameters=QUICK)
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
    settings = WarmExactPGHyperparameters(epochs=1, start_hyperparameters=QUICK)
    warm_start.fit(task.replaced(out_of_fold=out_of_fold), settings, Run())
    assert asked == [0, 1, 2]


def test_a_rule_starts_where_out_of_fold_features_have_two_folds(task: RoutingProblem) -> None:
    """With one of them held out, the rule's own logits need other folds."""
    rows = len(task.train)
    without = np.zeros((2, rows, 1), dtype=np.float32)
    out_of_fold = OutOfFold(columns=((1,),), fold=np.arange(rows) % 2, without=without)
    settings = WarmExactPGHyperparameters(start="best_single", epochs=1)
    run = Run()
    warm_start.fit(task.replaced(out_of_fold=out_of_fold), settings, run)
    assert "best_single" in run.messages[-1]


def test_an_unknown_gate_is_refused(task: RoutingProblem) -> None:
    with pytest.raises(InputError, match="did you mean 'softmax_gate'"):
        warm_start.fit(task, WarmExactPGHyperparameters(start="softmax_gat"), Run())


@pytest.mark.slow
def test_a_comparison_passes_the_strongest_non_rl_method_of_validation(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(kinds, Objective(compute_weight=0.1))
    methods = ["warm_exact_pg", "softmax_gate", "exact_pg", "em_gate"]
    results = compare(problem, methods, seeds=2, n_trials=1).results
    rows: list[dict[str, Any]] = [row for row in results["rows"] if row["split"] == "validation"]
    names = {row["method"] for row in rows if row["family"] in ("gate", "baseline")}
    names -= {"random", "zero_router", "group_label"}  # random, or not of the features alone
    mean = {name: np.mean([row["utility"] for row in rows if row["method"] == name]) for name in names}
    warm = [row["hyperparameters"] for row in rows if row["method"] == "warm_exact_pg"]
    assert len({found["start"] for found in warm}) == 1
    start = warm[0]["start"]
    assert mean[start] == max(mean.values())
    values = next(row["hyperparameters"] for row in rows if row["method"] == start)
    assert all(found["start_hyperparameters"] == values for found in warm)


def test_a_gate_with_a_rule_of_its_own_keeps_it(task: RoutingProblem) -> None:
    gate = deepseek_v3_gate.DeepSeekV3GateHyperparameters(epochs=1, learning_rate=1e-5)
    settings = WarmExactPGHyperparameters(
        start="deepseek_v3_gate",
        start_hyperparameters=gate,
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
    starts = {settings.start for settings in METHODS["warm_exact_pg"].candidates(12)}
    assert len(starts) > 1


def test_random_routers_rl_and_routers_that_need_the_group_are_no_starts(task: RoutingProblem) -> None:
    for name, reason in {
        "random": "has a random router",
        "exact_pg": "is neither a gate nor a baseline",
        "oracle": "is neither a gate nor a baseline",
        "group_label": "needs the group of a query",
    }.items():
        assert from_start(WarmExactPGHyperparameters(), name, None) is None
        with pytest.raises(InputError, match=reason):
            warm_start.fit(task, WarmExactPGHyperparameters(start=name), Run())
    assert from_start(WarmExactPGHyperparameters(), "thresholds", None) is None  # a method of cascades
    started = from_start(WarmExactPGHyperparameters(), "inferred_group", None)
    assert started is not None
    ungrouped = task.replaced(train=replace(task.train, group=None))
    with pytest.raises(InputError, match=r"method.start='inferred_group': needs a column .*\(group\)"):
        warm_start.fit(ungrouped, started, Run())


# Values with which a rule knows little more than the best single expert, so that steps improve it.
RULES: dict[str, dict[str, Any]] = {
    "knn": {"neighbours": 9999},
    "kernel": {"factor": 50.0},
    "cluster": {"strength": 1e9},
    "ridge": {"penalty": 1e6},
    "boosted_trees": {"trees": 1, "learning_rate": 1e-6},
    "guarded_knn": {"neighbours": 9999},
    "inferred_group": {"strength": 1e9},
    "best_single": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_rule_can_be_a_start(task: RoutingProblem, name: str) -> None:
    """With caution off, the policy is returned: the rule's scaled logits plus a correction."""
    values = find_method("routing", name).configure(RULES[name])  # type: ignore[union-attr]
    settings = WarmExactPGHyperparameters(
        start=name,
        start_hyperparameters=values,
        learning_rate=1e-2,
        epochs=10,
        batch=32,
        folds=0,
        caution=-1e9,
        inverse_temperature=2.0,
    )
    run = Run(seed=1)
    router = warm_start.fit(task, settings, run)
    rule = find_method("routing", name).fit(task, values, Run(seed=1))  # type: ignore[union-attr]
    x = task.outcomes().features
    assert run.facts == {}
    assert isinstance(router.scorer, ResidualScorer)
    expected = 2.0 * rule.scorer(x) + router.scorer.correction(x)
    torch.testing.assert_close(router.scores(x), expected, atol=1e-4, rtol=1e-4)
    assert router.scorer.correction(x).any()


def test_steps_from_a_poor_rule_improve_it(task: RoutingProblem) -> None:
    """The best single expert earns .65 less its cost; the features tell which specialist knows."""
    settings = WarmExactPGHyperparameters(start="best_single", learning_rate=1e-2, folds=3)
    run = Run()
    router = warm_start.fit(task, settings, run)
    assert run.facts == {}
    assert task.evaluate(router, "test").means()["utility"] > 0.9
    assert run.messages[-1].startswith("RL improved on best_single (+0.")


def test_a_start_that_no_step_improves_is_returned_and_named(task: RoutingProblem) -> None:
    settings = WarmExactPGHyperparameters(start="kernel", learning_rate=1e-9, epochs=1)
    run = Run()
    router = warm_start.fit(task, settings, run)
    assert run.facts == {"equals_start": "kernel"}
    assert isinstance(router.scorer, KernelScorer)
    assert run.messages[-1].startswith("RL did not improve on kernel (+0.0000")


@pytest.mark.slow
def test_results_name_the_start_that_a_router_equals(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(kinds, Objective(compute_weight=0.1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "_out_of_fold", lambda *_: np.full(5, -1.0))
        results = compare(problem, ["warm_exact_pg"], seeds=2, n_trials=1).results
    (line,) = [line for line in results["summary"] if line["method"] == "warm_exact_pg"]
    rows = [row for row in results["rows"] if row["method"] == "warm_exact_pg"]
    assert line["equals_start"] == rows[0]["hyperparameters"]["start"]
    assert {row["equals_start"] for row in rows} == {line["equals_start"]}
    assert {line["equals_start"] for line in results["summary"] if line["method"] == "ridge"} == {None}
    start = next(each for each in results["summary"] if each["method"] == line["equals_start"])
    assert line["utility_mean"] == pytest.approx(start["utility_mean"], abs=1e-9)


@pytest.mark.parametrize("name", ["knn", "kernel", "cluster", "ridge", "guarded_knn", "inferred_group"])
def test_a_flipped_outcome_never_reaches_the_rows_own_training_logits(
    task: RoutingProblem, name: str
) -> None:
    method = find_method("routing", name)
    assert isinstance(method, Method)

    def logits(problem: RoutingProblem) -> torch.Tensor:
        router = method.fit(problem, method.hyperparameters(), Run())
        return held_out_logits(method, method.hyperparameters(), problem, router, 0)

    before = logits(task)
    for row in (0, 77):
        quality = task.train.quality.copy()
        quality[row] = 1.0 - quality[row]
        after = logits(task.replaced(train=replace(task.train, quality=quality)))
        torch.testing.assert_close(after[row], before[row], atol=1e-6, rtol=0.0)
        assert not torch.allclose(after, before, atol=1e-6)


@pytest.mark.slow
def test_a_rule_reads_the_load_through_its_correction(kinds: OutcomeTable) -> None:
    objective = Objective(compute_weight=0.1, load_weight=0.3, window=32)
    problem = RoutingProblem(kinds, objective)
    settings = WarmExactPGHyperparameters(
        start="kernel",
        start_hyperparameters=KernelHyperparameters(factor=50.0),
        decisions=24_000,
        lanes=64,
        inverse_temperature=1.0,
        folds=0,
        caution=-1e9,
        learning_rate=1e-2,
    )
    run = Run()
    router = warm_start.fit(problem, settings, run)
    assert run.facts == {}
    assert [part.name for part in router.state] == ["load"]
    assert router.features == 4


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_a_corrected_rule_is_exported_with_its_rows(
    task: RoutingProblem, tmp_path: Path, format: str
) -> None:
    settings = WarmExactPGHyperparameters(
        start="kernel",
        start_hyperparameters=KernelHyperparameters(factor=50.0),
        learning_rate=1e-2,
        epochs=10,
        batch=32,
        folds=0,
        caution=-1e9,
    )
    router = warm_start.fit(task, settings, Run(seed=1))
    assert isinstance(router.scorer, ResidualScorer)
    check_router(router, task.outcomes().features)
    assert export(router, tmp_path / "out", format=format, rows=task).passed
    if format == "safetensors":
        x = task.outcomes().features
        torch.testing.assert_close(
            load_router(tmp_path / "out")(x).logits, router(x).logits, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("start", ["knn", "ridge"])
def test_it_starts_from_a_rule_under_bandit_feedback(kinds: OutcomeTable, start: str) -> None:
    """The outcomes are then unbiased estimates, and can be outside of their range."""
    problem = RoutingProblem(kinds, Objective(compute_weight=0.1), feedback="bandit")
    assert problem.train.quality.max() > 1.0
    settings = WarmExactPGHyperparameters(start=start, epochs=2, folds=2)
    router = warm_start.fit(problem, settings, Run())
    assert problem.evaluate(router, "test").means()["utility"] > 0.0
