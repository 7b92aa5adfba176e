"""Early stopping keeps the best and stops in time."""

from __future__ import annotations

import copy
import json

import torch
from torch import nn

from experts import OutcomeTable
from router_rl import Objective
from router_rl.methods.training_loop import EarlyStopping, Snapshot, adamw, descend
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import ConstantScorer, Hard, Router


def _always(task: RoutingProblem, expert: int) -> Router:
    router = task.new_router(0, kind="constant")
    assert isinstance(router.scorer, ConstantScorer)
    with torch.no_grad():
        router.scorer.logits.zero_()[expert] = 1.0
    return router


def test_the_best_weights_are_kept(kinds: OutcomeTable) -> None:
    task = RoutingProblem(kinds, Objective(compute_weight=0.0), Hard())
    seen: list[Snapshot] = []
    stopping = EarlyStopping(task, patience=2, callback=seen.append)
    assert not stopping.update(_always(task, 0), 1, 10)
    assert not stopping.update(_always(task, 3), 2, 10)  # the best single expert
    assert not stopping.update(_always(task, 1), 3, 10)
    assert stopping.update(_always(task, 2), 4, 10)
    router = stopping.best(_always(task, 1))
    assert int(router(torch.zeros(1, 4)).experts) == 3
    assert not router.training
    assert [snapshot.step for snapshot in seen] == [1, 2, 3, 4]
    assert seen[3].best == seen[1].best == seen[1].validation.means()["utility"]


def test_the_curve_is_kept_over_a_resumption(kinds: OutcomeTable) -> None:
    task = RoutingProblem(kinds, Objective(compute_weight=0.0), Hard())
    seen: list[Snapshot] = []
    stopping = EarlyStopping(task, patience=9, callback=seen.append)
    stopping.update(_always(task, 0), 0, 10)
    stopping.update(task.new_router(0), 1, 10)
    resumed = EarlyStopping(task, patience=9, callback=seen.append)
    resumed.load_state_dict(json.loads(json.dumps(stopping.state_dict() | {"weights": {}})))
    resumed.update(_always(task, 3), 2, 10)
    curve = seen[-1].curve
    assert [point.step for point in curve] == [0, 1, 2]
    assert curve[:2] == seen[1].curve
    assert (curve[0].entropy, curve[0].largest_share) == (0.0, 1.0)
    assert curve[1].entropy > 0.0
    assert curve[2].utility == seen[-1].validation.means()["utility"]


def test_what_comes_after_does_not_change_what_was_kept(kinds: OutcomeTable) -> None:
    task = RoutingProblem(kinds, Objective(compute_weight=0.0), Hard())
    router = _always(task, 3)
    stopping = EarlyStopping(task, patience=1, callback=None)
    stopping.update(router, 1, 1)
    with torch.no_grad():
        router.scorer.logits.fill_(-5.0)  # type: ignore[operator, union-attr]
    assert int(stopping.best(router)(torch.zeros(1, 4)).experts) == 3


def test_the_start_is_no_candidate(kinds: OutcomeTable) -> None:
    """It was selected on the same rows, so a step is returned even if the start measures higher."""
    task = RoutingProblem(kinds, Objective(compute_weight=0.0), Hard())
    seen: list[Snapshot] = []
    stopping = EarlyStopping(task, patience=3, callback=seen.append)
    stopping.update(_always(task, 3), 0, 10)  # the best single expert
    stopping.update(_always(task, 1), 1, 10)
    router = stopping.best(_always(task, 3))
    assert int(router(torch.zeros(1, 4)).experts) == 1
    assert seen[0].best > seen[1].best


def test_a_step_is_that_of_backward_and_leaves_unused_weights_alone() -> None:
    plain = nn.Linear(3, 2), nn.Linear(3, 1)  # the second has no part in the loss
    ours = copy.deepcopy(plain)
    data = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    optimizers = [adamw([*a.parameters(), *b.parameters()], 0.1, 0.01) for a, b in (plain, ours)]
    for x in data:
        optimizers[0].zero_grad(set_to_none=True)
        plain[0](x).square().mean().backward()
        optimizers[0].step()
        descend(optimizers[1], ours[0](x).square().mean())
    torch.testing.assert_close(ours[0].state_dict(), plain[0].state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(ours[1].state_dict(), plain[1].state_dict(), rtol=0, atol=0)
    assert not optimizers[1].state[ours[1].weight]
