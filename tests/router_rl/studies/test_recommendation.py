"""What a comparison recommends, what it says about it, and that its export earns what is reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_methods
from safetensors.numpy import load_file

import train_router
from experts import InputError, OutcomeTable
from router_rl import Objective, RoutingProblem, compare
from router_rl.problems.measure import Measurement
from router_rl.problems.problem import Case
from router_rl.problems.statistics import Interval
from router_rl.routing import load_router
from router_rl.studies import recommendation
from router_rl.studies.entry import Entry
from router_rl.studies.operating_points import SWEPT
from router_rl.studies.operating_target import Candidate, Target, select
from router_rl.studies.recommendation_text import sentence_of
from router_rl.studies.savings import Singles, compared_with_expert, expected_regret, rows_to_settle

WEIGHTS = (0.1, 0.4)


@pytest.fixture(scope="module")
def priced(kinds: OutcomeTable) -> OutcomeTable:
    """Return the table of kinds, with costs in US$."""
    return replace(kinds, cost_unit="usd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recommended")


@pytest.fixture(scope="module")
def results(priced: OutcomeTable, folder: Path) -> dict[str, Any]:
    problem = RoutingProblem(priced, Objective(compute_weight=0.1))
    return compare(problem, ["softmax_gate"], seeds=2, n_trials=1, out=folder).results


def _mean(results: dict[str, Any], method: str, case: str, name: str) -> float:
    rows = results["summary"]
    return next(row[name] for row in rows if (row["method"], row["case"]) == (method, case))


@pytest.mark.slow
def test_it_is_the_best_on_validation_in_money(results: dict[str, Any], priced: OutcomeTable) -> None:
    found = results["recommendation"]
    here = [row for row in results["summary"] if row["case"] == "compute weight 0.1"]
    ours = [row for row in here if row["family"] != "bound" and not row["extra_inputs"]]
    best = max(row["validation_utility_mean"] for row in ours)
    assert _mean(results, found["method"], found["case"], "validation_utility_mean") == best
    assert found["routing_pays"]
    assert found["quality"]["mean"] == pytest.approx(
        _mean(results, found["method"], found["case"], "quality_mean")
    )
    unit = results["table_facts"]["compute_unit"]
    compute = _mean(results, found["method"], found["case"], "compute_mean")
    assert found["cost"]["mean"] == pytest.approx(compute * unit)
    assert f"US$ {1000 * found['cost']['mean']:.3g}"[:7] in found["sentence"]
    test = priced.part("test")
    single = found["comparisons"][0]
    at = priced.experts.index(single["expert"])
    assert single["role"] == "best single expert"
    assert single["quality_difference"]["mean"] == pytest.approx(
        found["quality"]["mean"] - test.quality[:, at].mean(), abs=1e-6
    )
    assert single["cost_saved"]["share"] == pytest.approx(
        1.0 - found["cost"]["mean"] / test.cost[:, at].mean(), abs=1e-6
    )
    low, high = single["cost_saved"]["ci95"]
    assert low <= single["cost_saved"]["share"] <= high


@pytest.mark.slow
def test_its_export_earns_what_is_reported_query_by_query(
    results: dict[str, Any], folder: Path, priced: OutcomeTable, tmp_path: Path
) -> None:
    assert train_router.main(["export", str(folder), "--out", str(tmp_path / "router")]) == 0
    found = results["recommendation"]["router"]
    test = priced.part("test")
    router = load_router(tmp_path / "router")
    chosen = router(torch.tensor(test.features)).experts[:, 0].numpy()
    earned = test.quality[np.arange(len(test)), chosen]
    measured = load_file(folder / Path(found["folder"]).parent / "measured.safetensors")
    np.testing.assert_allclose(earned, measured["0/parts/quality"], atol=1e-6)
    assert earned.mean(dtype=np.float64) == pytest.approx(found["test"]["quality"], abs=1e-6)


@pytest.mark.slow
def test_its_folder_is_the_best_seed_on_validation(results: dict[str, Any]) -> None:
    found = results["recommendation"]
    rows = [
        row
        for row in results["rows"]
        if (row["method"], row["case"], row["split"]) == (found["method"], found["case"], "validation")
    ]
    best = max(rows, key=lambda row: row["utility"])
    assert found["router"]["folder"] == best["router"]


@pytest.mark.slow
def test_a_target_selects_on_tuning_rows_over_all_weights(priced: OutcomeTable) -> None:
    problem = RoutingProblem(priced, [Objective(compute_weight=weight) for weight in WEIGHTS])
    found = compare(
        problem, ["softmax_gate"], seeds=1, n_trials=1, target=Target(max_quality_loss=0.05)
    ).results
    chosen = found["recommendation"]
    singles = Singles.of(problem.table)
    limit = singles.tuning_quality.max() - 0.05
    unit = found["table_facts"]["compute_unit"]
    points = [
        (row["compute"] * unit, row["method"], row["case"])
        for row in found["rows"]
        if row["split"] == "validation"
        and row["quality"] >= limit
        and row["method"] not in ("oracle", "group_label", "best_single")
    ]
    experts = zip(singles.tuning_cost, singles.tuning_quality, strict=True)
    cheapest = min(cost for cost, quality in experts if quality >= limit)
    assert chosen["target"] == {"max_quality_loss": 0.05, "satisfied": True}
    assert min(points)[0] < cheapest
    picked = {(method, case): cost for cost, method, case in points}
    assert picked[chosen["method"], chosen["case"]] == pytest.approx(min(points)[0])
    assert "It satisfies a quality loss of at most 0.05 on the validation rows." in chosen["sentence"]


@pytest.mark.slow
def test_a_policy_for_all_weights_is_recommended_at_any_of_them(
    priced: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was not compared is selected here: the export is fixed at it."""
    seen: list[Candidate] = []

    def last(candidates: list[Candidate], target: Target) -> Candidate:
        seen.extend(each for each in candidates if each.method == "conditioned_pg")
        return seen[-1]

    monkeypatch.setattr(recommendation, "select", last)
    problem = RoutingProblem(priced, Objective(compute_weight=0.05))
    out, target = tmp_path / "out", Target(save_at_least="50%")
    found = compare(problem, ["conditioned_pg"], seeds=2, n_trials=1, out=out, target=target).results
    assert len(seen) == SWEPT  # the compared weight is one of them
    chosen = found["recommendation"]
    weight = chosen["weights"]["compute_weight"]
    assert weight == pytest.approx(8 * 0.05)
    assert chosen["case"] == "compute weight 0.4"
    assert train_router.main(["export", str(out), "--out", str(tmp_path / "router")]) == 0
    router = load_router(tmp_path / "router")
    assert router.conditions == ()
    trained = load_router(out / chosen["router"]["folder"]).at(compute_weight=weight)
    test = problem.table.part("test")
    features = torch.tensor(test.features)
    picked = router(features).experts[:, 0]
    assert picked.equal(trained(features).experts[:, 0])
    earned = test.quality[np.arange(len(test)), picked.numpy()].mean(dtype=np.float64)
    assert earned == pytest.approx(chosen["router"]["test"]["quality"], abs=1e-6)


@pytest.mark.slow
def test_one_model_is_recommended_where_routing_does_not_pay(tmp_path: Path) -> None:
    """Experts are right at random: nothing can be learned."""
    rng = np.random.default_rng(0)
    table = OutcomeTable(
        experts=("cheap", "good"),
        query_id=range(300),
        features=rng.normal(size=(300, 4)),
        quality=(rng.random((300, 2)) < [0.5, 0.8]).astype(np.float32),
        cost=np.tile([0.5, 1.0], (300, 1)),
        split=np.repeat(["train", "validation", "test"], 100),
    )
    problem = RoutingProblem(table, Objective(compute_weight=0.01))
    found = compare(problem, ["softmax_gate"], seeds=2, n_trials=1, out=tmp_path / "out").results
    chosen = found["recommendation"]
    assert (chosen["expert"], chosen["routing_pays"]) == ("good", False)
    assert chosen["sentence"].startswith("Use good for every query: quality 0.")
    assert "Routing does not pay here: " in chosen["sentence"]
    assert chosen["oracle_gap"] > 0.05
    assert train_router.main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "router")]) == 2
    assert not (tmp_path / "router").exists()


def point(quality: float, cost: float, method: str | None = None) -> Candidate:
    return Candidate(method=method, case="c", expert=None if method else "e", quality=quality, cost=cost)


POINTS = [
    point(0.8, 0.010),
    point(0.7, 0.002),
    point(0.79, 0.004, "a"),
    point(0.81, 0.006, "b"),
    point(0.65, 0.001, "c"),
]


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        (Target(max_quality_loss=0.0), "b"),
        (Target(max_quality_loss=0.01), "a"),
        (Target(max_quality_loss=0.2), "c"),
        (Target(budget_usd=5.0), "a"),
        (Target(save_at_least="50%"), "a"),
        (Target(save_at_least=0.4), "b"),
        (Target(save_at_least="60%", max_quality_loss=0.05), "a"),
        (Target(budget_usd=0.5), None),
    ],
)
def test_targets_by_hand(target: Target, chosen: str | None) -> None:
    found = select(POINTS, target)
    assert (None if found is None else found.method) == chosen


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"budget_usd": 0.0}, "budget_usd=0.0: is out of range; use a number above 0 or null"),
        ({"budget_usd": float("nan")}, "is not finite"),
        ({"max_quality_loss": -0.1}, "is out of range"),
        ({"max_quality_loss": 1.0}, "is out of range"),
        ({"save_at_least": "half"}, "is not a share"),
        ({"save_at_least": "150%"}, "is not a share"),
        ({"save_at_least": 50}, "is not a share"),
        ({"save_at_least": -0.5}, "is not a share"),
        ({"save_at_least": 1.0}, "is not a share"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Target(**limits)


def test_a_budget_in_dollars_needs_costs_in_dollars(kinds: OutcomeTable) -> None:
    flops = RoutingProblem(replace(kinds, cost_unit="flops"), Objective())
    with pytest.raises(InputError, match=r"budget_usd=1.0: the costs of the table are in flops"):
        compare(flops, ["softmax_gate"], target=Target(budget_usd=1.0))


def test_a_limit_is_met_at_its_value() -> None:
    assert Target(budget_usd=4.0).holds(0.1, 0.004, 0.9, 0.01)
    assert not Target(budget_usd=4.0).holds(0.9, 0.0041, 0.9, 0.01)
    assert Target(max_quality_loss=0.25).holds(0.5, 9.0, 0.75, 1.0)
    assert not Target(max_quality_loss=0.25).holds(0.49, 0.0, 0.75, 1.0)
    assert Target(save_at_least="75%").holds(0.0, 0.25, 0.9, 1.0)
    assert not Target(save_at_least="75%").holds(1.0, 0.26, 0.9, 1.0)


def test_without_a_target_the_middle_case_is_recommended() -> None:
    """Of four cases the second."""
    with toy_methods.installed():
        table = toy_methods.disagreeing_table()
        problem = RoutingProblem(table, [Objective(compute_weight=each) for each in (0.1, 0.2, 0.3, 0.4)])
        found = compare(problem, ["toy_gate_one"], seeds=1, n_trials=1).results["recommendation"]
    assert found["case"] == "compute weight 0.2"


def test_a_saving_is_of_the_expert_s_cost() -> None:
    singles = Singles(
        names=("a", "b"),
        tuning_quality=np.array([0.5, 0.9]),
        tuning_cost=np.array([1.0, 4.0]),
        quality=np.array([[0.0, 1.0], [1.0, 1.0]]),
        cost=np.array([[1.0, 4.0], [1.0, 4.0]]),
    )
    assert (singles.best, singles.most_expensive) == (1, 1)
    found = compared_with_expert(np.array([[1.0, 1.0]]), np.array([[1.0, 3.0]]), singles, 1)
    assert found["cost_saved"]["share"] == 0.5
    assert found["quality_difference"]["mean"] == 0.0
    dear = compared_with_expert(np.array([[1.0, 1.0]]), np.array([[6.0, 6.0]]), singles, 1)
    assert dear["cost_saved"] == {"share": -0.5, "ci95": [-0.5, -0.5]}


def test_regret_and_rows_by_hand() -> None:
    good, bad = np.full(50, 0.6), np.full(50, 0.4)
    assert expected_regret([good, bad], 0) == 0.0
    assert expected_regret([good, bad], 1) == pytest.approx(0.2)
    coin = np.tile([0.0, 1.0], 25)
    assert 0.0 < expected_regret([coin, 1.0 - coin], 0) < 0.1  # equal means: noise alone
    assert rows_to_settle(Interval(-0.01, -0.03, 0.01), 200) == 600
    assert rows_to_settle(Interval(0.0, -0.1, 0.1), 100) is None


FACTS: dict[str, Any] = {
    "method": "knn",
    "best_method": "knn",
    "expert": None,
    "case": "compute weight 0.1",
    "routing_pays": True,
    "quality": {"mean": 0.9, "ci95": [0.88, 0.92]},
    "cost": {"mean": 0.00031, "ci95": [0.0003, 0.00032], "unit": "usd"},
    "comparisons": [
        {
            "expert": "gpt-4o",
            "role": "best single expert",
            "quality_difference": {"mean": -0.002, "ci95": [-0.01, 0.006]},
            "cost_saved": {"share": -0.12, "ci95": [-0.2, -0.05]},
        }
    ],
    "cost_saved": {"value": 0.62, "ci95": [0.58, 0.66]},
    "difference_to_constant": {"mean": 0.01, "ci95": [0.002, 0.018]},
    "alternative": {"method": "best_single"},
}


def test_the_words_of_a_router() -> None:
    assert sentence_of(FACTS) == (
        "Use knn (compute weight 0.1): quality 0.900 (95% CI 0.880 to 0.920) at US$ 0.31 per 1,000 queries. "
        "Compared with gpt-4o, the best single expert: quality -0.002 (-0.010 to +0.006), cost 12% higher "
        "(5 to 20). Over its operating points it saves 62% (58 to 66) of the cost at equal quality."
    )


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"oracle_gap": 0.004}, "even the oracle, which knows every outcome, gains only 0.0040 utility."),
        ({"difference_to_constant": None}, "no method is better on validation."),
        (
            {"difference_to_constant": {"mean": -0.02, "ci95": [-0.03, -0.01]}},
            "knn, the best method on validation, -0.0200 (-0.0300 to -0.0100) is significantly worse.",
        ),
        (
            {"difference_to_constant": {"mean": -0.001, "ci95": [-0.03, 0.02]}, "rows_to_settle": 900},
            "knn, the best method on validation, -0.0010 (-0.0300 to +0.0200) is not better on test rows.",
        ),
        (
            {"difference_to_constant": {"mean": 0.01, "ci95": [-0.01, 0.03]}, "rows_to_settle": 1200},
            "knn, the best method on validation, +0.0100 (-0.0100 to +0.0300) is not significantly better; "
            "about 1,200 more test rows would settle it.",
        ),
    ],
)
def test_the_words_of_one_model(facts: dict[str, Any], reason: str) -> None:
    one = {**FACTS, "routing_pays": False, "expert": "gpt-4o", "oracle_gap": 0.2, **facts}
    assert sentence_of(one) == (
        "Use gpt-4o for every query: quality 0.900 (95% CI 0.880 to 0.920) at US$ 0.31 per 1,000 queries. "
        f"Routing does not pay here: {reason}"
    )


def test_the_words_of_a_target_that_nothing_satisfies() -> None:
    target = {"budget_usd": 0.5, "save_at_least": 0.5, "satisfied": False}
    facts = {**FACTS, "routing_pays": False, "expert": "gpt-4o", "target": target}
    assert sentence_of(facts).endswith(
        "No operating point satisfies a budget of US$ 0.5 per 1,000 queries and a saving of at least 50%: "
        "this is the best single expert."
    )


def entry(folder: Path, seed: int, validation: float, test: float) -> Entry:
    """Return an entry whose utility, quality and compute are one number on each split."""
    values = np.full(3, test)
    return Entry(
        method="knn",
        family="baseline",
        case=Case(label="c", values={}),
        seed=seed,
        hyperparameters=None,
        validation={"utility": validation, "quality": validation, "compute": validation},
        test=Measurement(utility=values, parts={"quality": values}),
        seconds=0.0,
        router=folder / f"knn-{seed}" / "router",
    )


def test_kills_the_worst_seed_exported(tmp_path: Path) -> None:
    group = [entry(tmp_path, seed, value, value) for seed, value in enumerate((0.4, 0.6, 0.5))]
    found = recommendation._router(group)
    assert found == {"folder": "trials/knn-1/router", "seed": 1, "test": {"utility": 0.6, "quality": 0.6}}


def test_kills_limits_checked_on_test_rows(tmp_path: Path) -> None:
    """Tuning and test rows of this table rank the experts in opposite orders."""
    singles = Singles.of(toy_methods.disagreeing_table())
    assert singles.tuning_quality == pytest.approx(toy_methods.SKILL["tuning"])
    assert singles.quality.mean(axis=0) == pytest.approx(toy_methods.SKILL["test"], abs=1e-6)
    groups = {("knn", "c"): [entry(tmp_path, 0, 0.9, 0.1)]}
    last = recommendation._candidates(groups, singles, "c", 2.0)[-1]
    assert (last.method, last.quality, last.cost) == ("knn", 0.9, 1.8)
