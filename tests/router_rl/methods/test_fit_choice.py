"""`fit` selects hyperparameters on tuning rows, and passes its seed on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import toy_methods
from toy_methods import FITS, disagreeing_table

from router_rl import Objective, RoutingProblem, fit


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toy_methods.installed():
        yield


@pytest.fixture
def problem() -> RoutingProblem:
    return RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))


@pytest.mark.parametrize(("method", "expert"), [("toy_gate_one", 1), ("toy_gate_two", 3)])
def test_kills_hyperparameters_that_are_worst_or_best_on_test_or_first_or_last(
    problem: RoutingProblem, method: str, expert: int
) -> None:
    router = fit(method, problem, n_trials=2)
    assert len(FITS) == 2
    assert (router(torch.eye(4)).experts == expert).all()


def test_kills_every_seed_0(problem: RoutingProblem) -> None:
    fit("toy_seeded", problem, seed=3)
    assert [seed for _, _, seed in FITS] == [3]
