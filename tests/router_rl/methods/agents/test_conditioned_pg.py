"""One policy serves every compute weight, and is fitted once for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from routing_methods import METHODS
from torch import Tensor

from experts import InputError, OutcomeTable
from router_rl import Objective, compare, fit
from router_rl.methods.agents import conditioned_pg
from router_rl.methods.agents.conditioned_pg import ConditionedPGHyperparameters, for_objectives
from router_rl.methods.method import Run
from router_rl.methods.training_loop import Snapshot
from router_rl.problems.routing.folding import for_objective
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.routing.routing_options import ScorerConfig
from router_rl.routing import Hard, Router, load
from router_rl.studies.collapse import Reference

WEIGHTS = (0.02, 0.1, 0.4)
FAST = {"epochs": 12, "lowest": 0.01, "highest": 0.8}


def utility(router: Router, table: OutcomeTable, weight: float) -> float:
    objective = Objective(compute_weight=weight)
    scale = RoutingProblem(table, objective, Hard()).scale
    return measure(router, table.part("test"), objective, scale).means()["utility"]


@pytest.mark.slow
def test_one_router_is_as_good_as_one_for_each_weight(digits: OutcomeTable) -> None:
    """Within .02 of a policy trained for the weight alone, by its input and folded alike."""
    router = fit("conditioned_pg", RoutingProblem(digits, Objective()), hyperparameters=FAST)
    for weight in (0.02, 0.4):
        alone = fit(
            "exact_pg",
            RoutingProblem(digits, Objective(compute_weight=weight)),
            hyperparameters={"epochs": 12},
        )
        found = utility(router, digits, weight)
        assert found > utility(alone, digits, weight) - 0.02
        assert utility(router.at(compute_weight=weight), digits, weight) == pytest.approx(found, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_higher_compute_weight_spends_less(digits: OutcomeTable, kind: Literal["linear", "mlp"]) -> None:
    router = fit(
        "conditioned_pg",
        RoutingProblem(digits, Objective(), scorer=ScorerConfig(kind=kind)),
        hyperparameters=FAST,
    )
    scale = RoutingProblem(digits, Objective(), Hard()).scale
    spent = [
        measure(router, digits, Objective(compute_weight=weight), scale).means()["compute"]
        for weight in (0.01, 0.1, 0.8)
    ]
    assert spent[0] > spent[1] > spent[2]


def test_the_fit_does_not_depend_on_which_of_its_weights_is_asked_for(kinds: OutcomeTable) -> None:
    one, two = (
        fit(
            "conditioned_pg",
            RoutingProblem(kinds, Objective(compute_weight=weight)),
            hyperparameters={**FAST, "epochs": 3},
        )
        for weight in (0.02, 0.4)
    )
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])


@pytest.mark.slow
@pytest.mark.usefixtures("few_rules", "no_report")
def test_compare_fits_once_a_seed(kinds: OutcomeTable, tmp_path: Path) -> None:
    objectives = [Objective(compute_weight=weight) for weight in WEIGHTS]
    problem = RoutingProblem(kinds, objectives)
    results = compare(problem, ["conditioned_pg"], seeds=2, n_trials=1, out=tmp_path).results
    assert len(list(tmp_path.glob("trials/conditioned_pg-*/trial.json"))) == 2
    rows = [row for row in results["rows"] if row["method"] == "conditioned_pg"]
    assert len(rows) == 2 * 2 * len(WEIGHTS)
    assert any("one fit per seed" in note for note in results["notes"])
    tested = next(
        row for row in rows if (row["compute_weight"], row["split"], row["seed"]) == (0.4, "test", 1)
    )
    saved = load(tmp_path / tested["router"])
    assert [part.name for part in saved.state] == ["compute_weight"]
    assert utility(saved, kinds, 0.4) == pytest.approx(tested["utility"], abs=1e-6)


def test_load_can_be_an_input_too(kinds: OutcomeTable) -> None:
    objective = Objective(compute_weight=0.1, load_weight=0.05, window=32)
    router = fit(
        "conditioned_pg", RoutingProblem(kinds, objective), hyperparameters={"vary_load": True, "epochs": 10}
    )
    assert [part.name for part in router.state] == ["compute_weight", "load_weight"]
    assert not for_objective(router, objective).state
    with pytest.raises(InputError, match=r"vary_load.*load is not charged.*load_weight"):
        fit("conditioned_pg", RoutingProblem(kinds, Objective()), hyperparameters={"vary_load": True})


def test_a_range_must_rise(kinds: OutcomeTable) -> None:
    with pytest.raises(InputError, match=r"method.lowest=0.5.*0 < lowest < highest"):
        fit(
            "conditioned_pg",
            RoutingProblem(kinds, Objective()),
            hyperparameters={"lowest": 0.5, "highest": 0.4},
        )


def test_the_range_of_a_comparison() -> None:
    found = for_objectives(
        METHODS["conditioned_pg"].hyperparameters(), [Objective(compute_weight=w) for w in WEIGHTS]
    )
    assert (found.lowest, found.highest) == (0.01, 0.8)


@pytest.mark.slow
@pytest.mark.usefixtures("few_rules")
def test_each_weight_is_diagnosed_by_itself(kinds: OutcomeTable) -> None:
    objectives = [Objective(compute_weight=weight) for weight in (0.02, 0.4)]
    problem = RoutingProblem(kinds, objectives)
    results = compare(problem, ["conditioned_pg"], seeds=1, n_trials=1).results
    for objective in objectives:
        row = next(
            row
            for row in results["rows"]
            if (row["method"], row["split"], row["compute_weight"])
            == ("conditioned_pg", "validation", objective.compute_weight)
        )
        part = RoutingProblem(kinds, objective, Hard())
        single = Reference.of(part, part.case).single_utility
        assert row["collapse"]["regret_to_best_single"] == pytest.approx(single - row["utility"])


def test_what_is_measured_while_training_is_over_all_weights(kinds: OutcomeTable) -> None:
    seen: list[Snapshot] = []
    problem = RoutingProblem(kinds, Objective())
    fit(
        "conditioned_pg",
        problem,
        hyperparameters={"epochs": 1},
        callback=seen.append,
    )
    measured = seen[-1].validation
    assert len(measured.utility) == len(measured.load) == 5 * len(problem.validation)
    assert measured.means()["utility"] == pytest.approx(seen[-1].curve[-1].utility)


ROWS = torch.arange(6)


def _loss(table: OutcomeTable, **settings: float) -> tuple[Tensor, Tensor]:
    """The loss on the first rows under load, and the probabilities [6, N] of the policy that it scores."""
    objective = Objective(compute_weight=0.1, load_weight=0.3, window=8)
    problem = RoutingProblem(table, objective, Hard(), scorer=ScorerConfig(kind="linear"))
    kept: list[Tensor] = []

    def start(problem: RoutingProblem, *_: Any) -> Router:
        router = problem.new_router(0, observe_load=False)
        scores = router.scores
        router.scores = lambda features, conditions: scores(features)  # type: ignore[method-assign]
        kept.append(scores(problem.outcomes().features[ROWS]).softmax(dim=-1).detach())
        return router

    def watch(problem: RoutingProblem, _: Any, run: Run, loss: Any, router: Router, **__: Any) -> Router:
        kept.append(loss(router, problem.outcomes(), ROWS, torch.Generator().manual_seed(0)).detach())
        return router

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conditioned_pg, "_start", start)
        patch.setattr(conditioned_pg, "train_gate", watch)
        conditioned_pg.fit(problem, ConditionedPGHyperparameters(**settings), Run())
    return kept[1], kept[0]


def test_static_load_is_charged(kinds: OutcomeTable) -> None:
    fixed = {"lowest": 0.1, "highest": 0.1 + 1e-7, "entropy": 0.0}
    loss, p = _loss(kinds, **fixed)
    problem = RoutingProblem(kinds, Objective(compute_weight=0.1), Hard())
    outcomes = problem.outcomes()
    earned = (p * (outcomes.quality[ROWS] - 0.1 * outcomes.compute[ROWS])).sum(dim=-1).mean()
    load = 4 * (1.0 - 1.0 / 8) * p.mean(dim=0).square().sum()
    torch.testing.assert_close(loss, 0.3 * load - earned)


def test_the_entropy_bonus_lowers_the_loss(kinds: OutcomeTable) -> None:
    (without, p), (bonus, _) = (_loss(kinds, entropy=entropy) for entropy in (0.0, 0.5))
    torch.testing.assert_close(bonus - without, 0.5 * (p * p.log()).sum(dim=-1).mean())


def test_the_gate_of_the_start_is_trained_at_the_geometric_mean_of_the_range(
    kinds: OutcomeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[float] = []

    def gate(problem: RoutingProblem, settings: Any, run: Run) -> Router:
        trained.append(problem.objective.compute_weight)
        assert settings.own_compute == 2.0
        return problem.new_router(run.seed)

    monkeypatch.setattr(conditioned_pg.softmax_gate, "fit", gate)
    problem = RoutingProblem(kinds, Objective(compute_weight=0.3), Hard())
    settings = ConditionedPGHyperparameters(gate_compute=2.0)
    conditioned_pg._start(problem, settings, Run(), {"compute_weight": (0.02, 0.5)})
    assert trained == [pytest.approx(0.1)]
