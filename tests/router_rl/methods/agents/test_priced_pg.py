"""The priced policy gradient learns what there is, keeps still where there is nothing, and is repriced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from envs.reward import utility
from experts import InputError, OutcomeTable
from router_rl import Objective, ScorerConfig, fit
from router_rl.methods.agents import priced_pg
from router_rl.methods.agents.priced_pg import PricedPGHyperparameters
from router_rl.problems.prompt_features import FeatureConfig
from router_rl.problems.routing.folding import for_objective
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard, PricedScorer
from router_rl.studies.runs import read_run, train_run

QUICK = {"steps": 60, "batch": 256}


def _table(rows: int = 600, signal: float = 1.0) -> OutcomeTable:
    """Two experts: the expensive one is right where x0 > 0, the cheap one elsewhere, mostly."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6))
    right = (x[:, 0] > 0) if signal else rng.random(rows) < 0.5
    quality = np.stack([~right, right], axis=1) ^ (rng.random((rows, 2)) < 0.1)
    return OutcomeTable(
        experts=("cheap", "expensive"),
        query_id=np.array([f"q{i}" for i in range(rows)], dtype=object),
        features=x,
        quality=quality,
        cost=np.tile([0.2, 1.0], (rows, 1)),
        split=np.array(["train", "train", "validation", "test"])[np.arange(rows) % 4],
    )


@pytest.mark.slow
def test_one_fit_serves_every_weight_and_price() -> None:
    table = _table()
    router = fit("priced_pg", RoutingProblem(table, Objective(compute_weight=0.1)))
    assert isinstance(router.scorer, PricedScorer)
    assert router.scorer.compute.tolist() == pytest.approx([0.2, 1.0])
    test = table.part("test")
    for weight in (0.02, 0.1, 0.4):
        objective = Objective(compute_weight=weight)
        earned = measure(for_objective(router, objective), test, objective, 1.0).means()["utility"]
        oracle = (test.quality - weight * test.cost).max(axis=1).mean()
        single = (test.quality - weight * test.cost).mean(axis=0).max()
        assert earned > single + 0.6 * (oracle - single)
    # At a hundred times the price the expensive expert is never selected.
    repriced = router.repriced([0.2, 100.0])
    experts = repriced(torch.tensor(test.features), torch.full((len(test), 1), 0.1)).experts
    assert (experts == 0).all()


def test_out_of_fold_predictions_are_used() -> None:
    rows = 400
    group = np.array(["a", "b"] * (rows // 2), dtype=object)
    quality = np.stack([group == "a", group == "b"], axis=1).astype(float)
    table = replace(
        _table(rows),
        features=None,
        quality=quality,
        group=group,
        prompt=np.array([f"query {i}" for i in range(rows)], dtype=object),
    )
    router = fit(
        "priced_pg",
        RoutingProblem(table, Objective(compute_weight=0.1), features=FeatureConfig(text="none", group=True)),
        hyperparameters=QUICK,
    )
    weight = torch.full((2, 1), 0.1)
    assert router.route(["query x"] * 2, ["a", "b"], state=weight).experts.tolist() == [[0], [1]]


def test_without_signal_it_stays_with_the_best_expert() -> None:
    table = _table(signal=0.0)
    router = fit("priced_pg", RoutingProblem(table, Objective(compute_weight=0.4)), hyperparameters=QUICK)
    objective = Objective(compute_weight=0.4)
    test = table.part("test")
    earned = measure(for_objective(router, objective), test, objective, 1.0).means()["utility"]
    single = (test.quality - 0.4 * test.cost).mean(axis=0).max()
    assert earned > single - 0.03


def test_what_a_query_takes_is_learned_too() -> None:
    """The expensive expert is better by .3 everywhere and takes 1.8 where x1 > 0, .2 elsewhere."""
    table = _table()
    assert table.features is not None
    long = table.features[:, 1] > 0
    rng = np.random.default_rng(1)
    quality = np.stack([rng.random(600) < 0.6, rng.random(600) < 0.9], axis=1)
    cost = np.stack([np.full(600, 0.1), np.where(long, 1.8, 0.2)], axis=1)
    router = fit(
        "priced_pg",
        RoutingProblem(replace(table, quality=quality, cost=cost), Objective(compute_weight=0.3)),
        hyperparameters=QUICK,
    )
    scorer = router.scorer
    assert isinstance(scorer, PricedScorer)
    assert scorer.demand_weight[1, 1] > 0.5
    assert scorer.demand_weight[0].abs().max() < 1e-6
    experts = router(torch.tensor(table.features), torch.full((600, 1), 0.3)).experts[:, 0].numpy()
    clear = np.abs(table.features[:, 1]) > 0.7
    assert (experts == ~long)[clear].mean() > 0.95


def test_the_group_means_are_kept_if_nothing_is_significantly_better() -> None:
    """Groups explain everything: the policy routes by the group means."""
    rng = np.random.default_rng(0)
    group = np.array(["a", "b"], dtype=object)[rng.integers(0, 2, 400)]
    good = np.stack([group == "a", group == "b"], axis=1)
    table = replace(
        _table(400),
        features=None,
        quality=good ^ (rng.random((400, 2)) < 0.2),
        group=group,
        prompt=np.array([" ".join(rng.choice(["red", "green", "blue", "grey"], 6)) for _ in range(400)]),
        notes=("leakage allowed: a test",),
    )
    router = fit(
        "priced_pg",
        RoutingProblem(table, Objective(compute_weight=0.1), features=FeatureConfig(group=True)),
        hyperparameters={**QUICK, "caution": 3.0},
    )
    means = [np.mean(table.quality[(table.split == "train") & (group == name)], axis=0) for name in "ab"]
    routing = router.route(["red"] * 2, ["a", "b"], state=torch.full((2, 1), 1e-9))
    gap = (routing.logits[:, 0] - routing.logits[:, 1]) * 0.02  # tau
    assert gap.tolist() == pytest.approx([a - b for a, b in means], abs=0.05)
    assert routing.experts.tolist() == [[0], [1]]


def test_a_run_says_what_was_made(tmp_path: Path) -> None:
    """Regressions are significantly better than the best single expert; a huge caution keeps it."""
    task = RoutingProblem(_table(), Objective(compute_weight=0.1), Hard(), scorer=ScorerConfig(kind="linear"))
    notes: list[str] = []
    for caution in (1.0, 1e9):
        settings = {**QUICK, "caution": caution}
        run = train_run(task, "priced_pg", tmp_path / str(caution), hyperparameters=settings)
        notes.append(read_run(run.folder).facts["notes"][-1])
    assert "from ridge regression" in notes[0] or "from the stacked regressions" in notes[0]
    assert "from the best single expert; RL did not improve on it" in notes[1]


def test_seeds_repeat() -> None:
    table = _table(200)
    one, two = (
        fit("priced_pg", RoutingProblem(table, Objective()), seed=3, hyperparameters=QUICK) for _ in range(2)
    )
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match=r"objective.load_weight"):
        fit("priced_pg", RoutingProblem(_table(100), Objective(load_weight=0.1)))
    with pytest.raises(InputError, match=r"method.lowest"):
        fit(
            "priced_pg",
            RoutingProblem(_table(100), Objective()),
            hyperparameters={"lowest": 2.0, "highest": 1.0},
        )


@pytest.mark.parametrize(
    ("best", "name"),
    [
        ((0.0, 0.0, 1.0, 0.0, 0.0), "out-of-fold prediction 3 of 3"),
        ((1.0, 0.0, 0.0, 0.0, 0.0), "out-of-fold prediction 1 of 3"),
        ((0.0, 0.0, 0.0, 0.0, 0.0), "the best single expert"),
        ((0.0, 0.0, 0.0, 1.0, 0.0), "ridge regression 1"),
        ((0.0, 0.0, 0.0, 0.0, 1.0), "ridge regression 2"),
        ((0.5, 0.0, 0.5, 0.0, 0.0), "the mean of the first and the last out-of-fold predictions"),
        ((1 / 3, 1 / 3, 1 / 3, 0.0, 0.0), "the mean of the out-of-fold predictions"),
        ((0.1, 0.2, 0.3, 0.2, 0.2), "the stacked regressions"),
    ],
)
def test_it_starts_from_the_weights_that_earn_most_on_rows_held_out(
    best: tuple[float, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three out-of-fold predictions, two regressions: rows earn less the further a start is from the best."""
    regressions = SimpleNamespace(
        n_out_of_fold=3, out_of_fold=torch.zeros(6, 2, 5), mean=torch.zeros(2, dtype=torch.float64)
    )
    data: Any = SimpleNamespace(quality_regressions=regressions, quality=None, mean=torch.ones(2))
    stacked = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2], dtype=torch.float64)
    monkeypatch.setattr(priced_pg, "stacking_weights", lambda *_: stacked)

    def evaluation(rows: list[int]) -> Any:
        def utility(alpha: torch.Tensor, bias: torch.Tensor) -> np.ndarray:
            assert not bias.any()
            distance = float((alpha - torch.tensor(best, dtype=torch.float64)).abs().sum())
            return np.array(rows) - distance

        return SimpleNamespace(data=data, rows=np.array(rows), utility=utility)

    found, start, utility = priced_pg._best_start([evaluation([0, 2, 4]), evaluation([1, 3, 5])], 6, 1.0)
    assert found == name
    torch.testing.assert_close(start(data), torch.tensor(best, dtype=torch.float64))
    np.testing.assert_allclose(utility, np.arange(6), atol=1e-9)


def _unlearned(rows: int = 400) -> Any:
    """Data of two experts that are alike, and one regression that predicts nothing."""
    regressions = SimpleNamespace(
        out_of_fold=torch.zeros(rows, 2, 1, dtype=torch.float64), mean=torch.zeros(2, dtype=torch.float64)
    )
    ones = torch.ones(rows, 2, dtype=torch.float64)
    return SimpleNamespace(
        quality_regressions=regressions,
        cost_regression=SimpleNamespace(out_of_fold=ones),
        mean=torch.ones(2, dtype=torch.float64),
        quality=ones,
        compute=ones,
    )


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_each_experts_compute_is_multiplied_by_up_to_the_spread(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def record(parts: Any, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(weights["compute"].expand(-1, 2))
        return utility(parts, weights)

    monkeypatch.setattr(priced_pg, "utility", record)
    settings = PricedPGHyperparameters(spread=spread, steps=4, batch=500)
    weights = torch.tensor([0.1, 0.1], dtype=torch.float64)
    priced_pg._train(_unlearned(), weights, torch.ones(1, dtype=torch.float64), settings, seed=0)
    exponent = (torch.cat(seen) / 0.1).log() / np.log(4.0)
    if spread == 1.0:
        torch.testing.assert_close(exponent, torch.zeros_like(exponent))
        return
    assert -1.0 <= float(exponent.min()) < -0.98
    assert 0.98 < float(exponent.max()) <= 1.0
    assert float(exponent.mean()) == pytest.approx(0.0, abs=0.05)
    assert abs(float(torch.corrcoef(exponent.T)[0, 1])) < 0.1  # each expert has a factor of its own


def test_training_reports_after_every_so_many_steps() -> None:
    reported: list[int] = []
    settings = PricedPGHyperparameters(steps=10, every=3, batch=8)
    weights = torch.tensor([0.1, 0.2], dtype=torch.float64)
    priced_pg._train(
        _unlearned(),
        weights,
        torch.ones(1, dtype=torch.float64),
        settings,
        seed=0,
        report=lambda step, *_: reported.append(step),
    )
    assert reported == [3, 6, 9]


def test_training_raises_the_expected_utility() -> None:
    """The second expert is better everywhere by .5 and as expensive as the first."""
    data = _unlearned()
    data.quality = torch.tensor([[0.25, 0.75]], dtype=torch.float64).expand(400, -1)
    settings = PricedPGHyperparameters(steps=20, batch=64)
    weights = torch.tensor([0.1, 0.2], dtype=torch.float64)
    _, bias = priced_pg._train(data, weights, torch.ones(1, dtype=torch.float64), settings, seed=0)
    assert float(bias[1] - bias[0]) > 0.01
