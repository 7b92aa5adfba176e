"""The auxiliary load loss, by hand; when the gates' training loop validates."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from envs import Outcomes
from experts import OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.methods.gates.gate_training import balance_loss, train_gate
from router_rl.methods.gates.softmax_gate import SoftmaxGateHyperparameters
from router_rl.methods.method import Run
from router_rl.methods.training_loop import Snapshot
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, LinearScorer, Router


def test_uniform_is_one_and_collapse_is_the_number_of_experts() -> None:
    uniform = torch.full((4, 4), 0.25)
    assert float(balance_loss(uniform, torch.tensor([[0], [1], [2], [3]]))) == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(4, 4)
    assert float(balance_loss(collapsed, torch.zeros(4, 1, dtype=torch.int64))) == pytest.approx(4.0)


def test_by_hand() -> None:
    # f = (2/3, 1/3), P = (0.6, 0.4): 2 * (0.4 + 0.1333) = 1.0667
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]], requires_grad=True)
    loss = balance_loss(probabilities, torch.tensor([[0], [0], [1]]))
    assert float(loss.detach()) == pytest.approx(2 * (2 / 3 * 0.6 + 1 / 3 * 0.4))
    loss.backward()
    torch.testing.assert_close(probabilities.grad[0], torch.tensor([2 * 2 / 3 / 3, 2 * 1 / 3 / 3]))


def test_two_choices_a_row_count_half_each() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2]])
    assert float(balance_loss(probabilities, torch.tensor([[0, 1]]))) == pytest.approx(3 * (0.25 + 0.15))


def _trained(table: OutcomeTable, **run: int) -> tuple[RoutingProblem, list[Snapshot]]:
    """Train three epochs on the mean row number, which no weight changes."""
    problem = RoutingProblem(table, Objective(), Hard(), scorer=ScorerConfig(kind="linear"))
    snapshots: list[Snapshot] = []

    def loss(
        router: Router, outcomes: Outcomes, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        return rows.float().mean() + 0.0 * cast(LinearScorer, router.scorer).bias.sum()

    hyperparameters = SoftmaxGateHyperparameters(epochs=3, batch=50, patience=99)
    train_gate(problem, hyperparameters, Run(callback=snapshots.append, **run), loss)
    return problem, snapshots


def test_it_validates_before_training_and_after_each_epoch(kinds: OutcomeTable) -> None:
    problem, snapshots = _trained(kinds)
    assert [each.step for each in snapshots] == [0, 1, 2, 3]
    mean = (problem.outcomes().queries - 1) / 2  # whatever the order and the size of the last batch
    assert [each.training.get("loss") for each in snapshots] == [None, *[pytest.approx(mean)] * 3]


def test_it_validates_after_as_many_queries_as_it_is_told(kinds: OutcomeTable) -> None:
    _, snapshots = _trained(kinds, validate_every=100)
    queries = int((kinds.split == "train").sum())
    assert len(snapshots) == 1 + 3 * queries // 100


def test_the_best_weights_on_validation_are_returned_not_the_last(kinds: OutcomeTable) -> None:
    """The loss turns all queries from the best single expert to the worst, epoch by epoch."""
    problem = RoutingProblem(kinds, Objective(compute_weight=0.0), Hard(), scorer=ScorerConfig(kind="linear"))
    mean = problem.validation.quality.mean(axis=0)
    best, worst = int(mean.argmax()), int(mean.argmin())
    snapshots: list[Snapshot] = []

    def loss(
        router: Router, outcomes: Outcomes, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        bias = cast(LinearScorer, router.scorer).bias
        return bias[best] - bias[worst]

    router = problem.new_router(0)
    scorer = cast(LinearScorer, router.scorer)
    with torch.no_grad():
        scorer.weight.zero_()
        scorer.bias.zero_()[best] = 0.3
    hyperparameters = SoftmaxGateHyperparameters(epochs=8, batch=1000, patience=99, learning_rate=0.1)
    found = train_gate(problem, hyperparameters, Run(callback=snapshots.append), loss, router=router)
    assert snapshots[-1].curve[-1].utility < snapshots[-1].curve[1].utility
    assert problem.evaluate(found, "validation").means()["utility"] == pytest.approx(float(mean[best]))
