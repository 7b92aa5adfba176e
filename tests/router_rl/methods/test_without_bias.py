"""Linear scorers trained without bias fold into gates that have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from experts import InputError, OutcomeTable
from router_rl import Objective, RoutingProblem, export, fit
from router_rl.exports.transformers import fold
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.routing.routing_options import ScorerConfig
from router_rl.routing import RouterError

OBJECTIVE = Objective(compute_weight=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "router_ppo", "exact_pg", "softmax_gate", "switch_gate"])
def test_a_router_without_bias_learns_and_folds(kinds: OutcomeTable, tmp_path: Path, method: str) -> None:
    problem = RoutingProblem(kinds, OBJECTIVE, scorer=ScorerConfig(kind="linear", bias=False))
    router = fit(method, problem)
    assert fold(router).bias is None
    found = measure(router, kinds.part("test"), OBJECTIVE, problem.scale).means()["utility"]
    assert found > 0.9  # the best single expert has .65
    if method == "exact_pg":
        assert export(router, tmp_path / "out", format="gguf", rows=kinds).passed


def test_the_default_has_a_bias(kinds: OutcomeTable, tmp_path: Path) -> None:
    router = fit(
        "switch_gate",
        RoutingProblem(kinds, OBJECTIVE, scorer=ScorerConfig(kind="linear")),
        hyperparameters={"epochs": 1},
    )
    assert fold(router).bias is not None
    with pytest.raises(RouterError, match=r"train it without \(problem.scorer.bias false\)"):
        export(router, tmp_path / "out", format="gguf")


def test_what_needs_a_bias_is_refused(kinds: OutcomeTable) -> None:
    with pytest.raises(
        InputError, match=r"problem\.scorer\.bias=False: an MLP has biases; use .*kind linear"
    ):
        ScorerConfig(bias=False)
    scorer = ScorerConfig(kind="linear", bias=False)
    with pytest.raises(
        InputError, match=r"problem\.scorer\.bias=False: a budget is met by shifting the bias"
    ):
        RoutingProblem(kinds, Objective(budget=0.5), scorer=scorer)
