"""A member of the ensemble is trained without its fold, and no cascade method reads a test row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from environment_tables import made_cascade

from router_rl import Objective
from router_rl.methods.cascade.cascade_training import (
    CascadeHyperparameters,
    LossWeights,
    fit_cascade,
    greedy_utility,
)
from router_rl.methods.fit import fit
from router_rl.problems.cascade import beliefs
from router_rl.problems.cascade.cascade_data import CascadeData
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.routing.policies.cascade_policy import CascadePolicy

WEIGHTS = (0.1, 0.4)
# One epoch has one checkpoint, so the held-out fold has nothing to choose.
ONE_EPOCH = CascadeHyperparameters(steps=1, members=1, hidden=8, pool=3)
EPOCHS = CascadeHyperparameters(steps=12, members=2, hidden=8, pool=3, learning_rate=3e-2)


@pytest.fixture(scope="module", autouse=True)
def _rough_beliefs() -> Iterator[None]:
    """Beliefs of a few steps, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beliefs, "_EPOCHS", 3)
        patch.setattr(beliefs, "_EXCHANGES", 2)
        yield


@pytest.fixture(scope="module")
def data(_rough_beliefs: None) -> CascadeData:
    return CascadeProblem(made_cascade(rows=120)).data(0)


def _fitted(
    data: CascadeData, hyperparameters: CascadeHyperparameters = ONE_EPOCH
) -> tuple[CascadePolicy, float]:
    return fit_cascade(
        data, 3, WEIGHTS, hyperparameters, lambda left: LossWeights(1.0, left), seed=0, report=None
    )


def _with_other_outcomes(data: CascadeData, rows: torch.Tensor) -> CascadeData:
    """Return the data with wrong answers that were right on some rows, and the reverse; equal beliefs."""
    outcomes = data.table.outcomes
    quality = torch.where(rows.unsqueeze(-1), 1.0 - outcomes.quality, outcomes.quality)
    return replace(data, table=replace(data.table, outcomes=replace(outcomes, quality=quality)))


def _weights(policy: CascadePolicy) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in policy.parameters()])


def test_kills_a_member_that_trains_on_its_held_out_fold(data: CascadeData) -> None:
    own = data.fitted.fold == 0
    before = _weights(_fitted(data)[0])
    torch.testing.assert_close(_weights(_fitted(_with_other_outcomes(data, own))[0]), before)
    assert not torch.equal(_weights(_fitted(_with_other_outcomes(data, ~own))[0]), before)


def test_kills_a_held_out_utility_on_the_rows_trained_on(data: CascadeData) -> None:
    policy, utility = _fitted(data)
    held_out = (data.fitted.fold == 0).nonzero().squeeze(-1)
    expected = [float(greedy_utility(policy, data, held_out, weight).mean()) for weight in WEIGHTS]
    assert utility == pytest.approx(sum(expected) / 2, abs=1e-6)


def test_kills_members_that_share_a_fold(data: CascadeData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member is judged on another fold, each of which no other member leaves out."""
    judged: list[set[int]] = []

    def record(policy: CascadePolicy, data: CascadeData, rows: torch.Tensor, weight: float) -> torch.Tensor:
        judged.append(set(data.fitted.fold[rows].tolist()))
        return greedy_utility(policy, data, rows, weight)

    monkeypatch.setattr("router_rl.methods.cascade.cascade_training.greedy_utility", record)
    _fitted(data, replace(ONE_EPOCH, members=3))
    assert [judged[place] for place in (0, 2, 4)] == [{0}, {1}, {2}]


def test_kills_the_worst_checkpoint_kept(data: CascadeData) -> None:
    """The reported best is the highest that any epoch reached, and the policy returned earns it."""
    best: list[float] = []
    policy, utility = fit_cascade(
        data,
        3,
        (0.1,),
        replace(EPOCHS, members=1),
        lambda left: LossWeights(1.0, left),
        seed=0,
        report=lambda done, total, message, measured: best.append(float(measured.utility.mean())),
    )
    held_out = (data.fitted.fold == 0).nonzero().squeeze(-1)
    assert min(best) < max(best)
    assert utility == pytest.approx(max(best), abs=1e-6)
    assert float(greedy_utility(policy, data, held_out, 0.1).mean()) == pytest.approx(max(best), abs=1e-6)


def test_kills_cascade_data_with_test_rows() -> None:
    """Nor does it hold the tuning rows, which select between methods."""
    problem = CascadeProblem(made_cascade(rows=60))
    learned = problem.table.take(np.isin(problem.table.split, ("train", "validation")))
    features = problem.data(0).table.outcomes.features
    torch.testing.assert_close(features, torch.from_numpy(learned.features))


@pytest.mark.parametrize("name", ["thresholds", "lookahead", "automix"])
def test_kills_rivals_tuned_on_test_rows(name: str) -> None:
    """With other outcomes on test rows, a rival acts as before."""
    table = made_cascade(rows=120)
    changed = replace(table, quality=abs(table.quality - (table.split == "test")[:, None]))
    observation = None
    actions = []
    for each in (table, changed):
        problem = CascadeProblem(each, Objective(compute_weight=0.1))
        core = problem.core("validation", problem.case, lanes=24, seed=0)
        observation = core.observation() if observation is None else observation
        policy = fit(name, problem)
        policy.start(core)
        actions.append(policy.act(observation))
    assert actions[0].equal(actions[1])


def test_the_policy_returned_has_no_gradients(data: CascadeData) -> None:
    policy, _ = _fitted(data)
    assert not policy.training
    assert not any(weight.requires_grad for weight in policy.parameters())


def test_progress_counts_the_steps_of_all_members(data: CascadeData) -> None:
    told: list[tuple[int, int]] = []
    fit_cascade(
        data,
        3,
        WEIGHTS,
        replace(EPOCHS, steps=3, members=3),
        lambda left: LossWeights(1.0, left),
        seed=0,
        report=lambda done, total, message, measured: told.append((done, total)),
    )
    done = [each for each, _ in told]
    assert done == sorted(done)
    assert {3, 6, 9} <= set(done) <= set(range(1, 10))
    assert {total for _, total in told} == {9}
