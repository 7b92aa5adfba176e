"""The guard: the best single expert answers unless the neighbours' paired gain is significant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student_t

from experts import InputError, OutcomeTable
from router_rl import Objective, export, fit
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import GuardedKNNScorer

OBJECTIVE = Objective(compute_weight=0.05)


def test_holds_the_level_and_the_best_single_expert(kinds: OutcomeTable) -> None:
    values = {"neighbours": 15, "level": 0.05}
    scorer = fit("guarded_knn", RoutingProblem(kinds, OBJECTIVE), hyperparameters=values).scorer
    assert isinstance(scorer, GuardedKNNScorer)
    assert kinds.experts[scorer.default] == "grey"
    assert scorer.critical == pytest.approx(student_t.ppf(0.95, 15))


@pytest.fixture(scope="module")
def noise() -> OutcomeTable:
    """Outcomes that features say nothing about; the last expert is a little better than three others."""
    rng = np.random.default_rng(0)
    return OutcomeTable(
        experts=("a", "b", "c", "d"),
        query_id=range(1500),
        features=rng.normal(size=(1500, 3)),
        quality=(rng.random((1500, 4)) < np.array([0.5, 0.5, 0.5, 0.6])).astype(float),
        cost=np.ones((1500, 4)),
        split=np.array(["train", "validation", "test"])[np.arange(1500) % 3],
    )


def test_noise_is_not_followed(noise: OutcomeTable) -> None:
    """A level of .01 leaves about 3% of the rows to others; plain neighbours follow the noise."""
    problem = RoutingProblem(noise, Objective(compute_weight=0.0))
    share = {
        name: measure(router, noise.part("test"), problem.objective, problem.scale).shares[3]
        for name, router in (
            ("knn", fit("knn", problem, hyperparameters={"neighbours": 20})),
            (
                "guarded_knn",
                fit("guarded_knn", problem, hyperparameters={"neighbours": 20, "level": 0.01}),
            ),
        )
    }
    assert share["guarded_knn"] > 0.9 > 0.6 > share["knn"]


def test_signal_is_followed(kinds: OutcomeTable) -> None:
    router = fit("guarded_knn", RoutingProblem(kinds, OBJECTIVE))
    assert measure(router, kinds.part("test"), OBJECTIVE, 10.0).shares.max() < 0.4


def test_more_neighbours_than_rows(kinds: OutcomeTable) -> None:
    router = fit("guarded_knn", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"neighbours": 9999})
    assert measure(router, kinds.part("test"), OBJECTIVE, 10.0).shares[3] == 1.0  # no other is better overall


@pytest.mark.parametrize("level", [0.0, 0.6, float("nan")])
def test_a_level_outside_its_range_is_refused(kinds: OutcomeTable, level: float) -> None:
    with pytest.raises(InputError, match=r"method.level=.* use a number above 0 and at most 0.5"):
        fit("guarded_knn", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"level": level})


def test_the_default_is_within_the_maximum_cost(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(replace(kinds), replace(OBJECTIVE, max_cost=0.5))
    router = fit("guarded_knn", problem)
    assert measure(router, kinds.part("test"), OBJECTIVE, 10.0).shares[3] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_it_is_exported(kinds: OutcomeTable, tmp_path: Path, format: str) -> None:
    router = fit("guarded_knn", RoutingProblem(kinds, OBJECTIVE))
    assert export(router, tmp_path / "out", format=format, rows=kinds).passed
