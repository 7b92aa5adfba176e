"""The k = 1 trap: a renormalised weight of one expert is 1 whatever the scores, so nothing is learned."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from routing_methods import METHODS

from experts import OutcomeTable
from router_rl import Objective, fit
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard, TopK

OBJECTIVE = Objective(compute_weight=0.05)


def _benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[4] / "benchmarks" / "k1_trap.py"
    spec = importlib.util.spec_from_file_location("k1_trap", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["k1_trap"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


trap = _benchmark()
FREE = [name for name in trap.SIGNALS if name != "renormalised gate (Mixtral)"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_renormalised_weight_passes_no_gradient(kinds: OutcomeTable, seed: int) -> None:
    task = trap.task_of(kinds, 0.05)
    assert trap.gradient_norm(task, trap.renormalised, seed) == 0.0


@pytest.mark.parametrize("signal", FREE)
def test_every_other_signal_does(kinds: OutcomeTable, signal: str) -> None:
    assert trap.gradient_norm(trap.task_of(kinds, 0.05), trap.SIGNALS[signal]) > 1e-3


def test_two_renormalised_weights_do(kinds: OutcomeTable) -> None:
    task = trap.task_of(kinds, 0.05)
    router, outcomes = task.new_router(0), task.outcomes()
    logits, _ = router.logits(outcomes.features)
    loss = trap.expected_loss(TopK(k=2).mixing(logits), outcomes, torch.arange(outcomes.queries), 0.05)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(gradient.norm()) > 1e-4


@pytest.mark.parametrize("signal", FREE)
def test_every_other_signal_learns_the_table(kinds: OutcomeTable, signal: str) -> None:
    curve, utility = trap.learn(
        trap.task_of(kinds, 0.05), trap.SIGNALS[signal], kinds.part("test"), trap.Training()
    )
    assert utility > 0.93 > curve[0]


def test_mixtral_stays_where_it_started(kinds: OutcomeTable) -> None:
    curve, _ = trap.learn(trap.task_of(kinds, 0.05), trap.renormalised, kinds.part("test"), trap.Training())
    assert set(curve) == {curve[0]}
    method = METHODS["mixtral_gate"]
    task = RoutingProblem(kinds, OBJECTIVE, Hard())
    settings = method.configure({"balance": 0.0, "weight_decay": 0.0})
    router = method.fit(task, settings, Run(seed=0))
    for name, value in task.new_router(0).state_dict().items():
        assert torch.equal(value, router.state_dict()[name])


def test_its_auxiliary_loss_moves_it_but_teaches_it_nothing(kinds: OutcomeTable) -> None:
    # What moves is chosen on validation, so a lucky drift is kept; the table is not learned.
    router = fit("mixtral_gate", RoutingProblem(kinds, OBJECTIVE), seed=0)
    scale = RoutingProblem(kinds, OBJECTIVE, Hard()).scale
    assert measure(router, kinds.part("test"), OBJECTIVE, scale).means()["utility"] < 0.93


def test_the_figure_is_drawn() -> None:
    drawn = trap.drawing({"a & b": [0.1, 0.5, 0.9], "c": [0.2, 0.2, 0.2]})
    assert drawn.startswith("<svg")
    assert "a &amp; b" in drawn
    assert "nan" not in drawn
