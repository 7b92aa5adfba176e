"""The network of a fold does not depend on the outcomes of its rows."""

from __future__ import annotations

import pytest
import torch

from router_rl.problems.cascade import beliefs
from router_rl.problems.cascade.beliefs import FittedBeliefs, fit_beliefs

ROWS, EXPERTS = 60, 3


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beliefs, "_EXCHANGES", 2)


@pytest.fixture
def _one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch has one checkpoint, so no held-out row has a say in which is kept."""
    monkeypatch.setattr(beliefs, "_EPOCHS", 1)


def _rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features, confidence = (torch.rand(ROWS, size, generator=generator) for size in (4, EXPERTS))
    quality = (torch.rand(ROWS, EXPERTS, generator=generator) < 0.6).float()
    return features, confidence, quality


def _fitted(quality: torch.Tensor, seed: int = 0) -> FittedBeliefs:
    features, confidence, _ = _rows()
    return fit_beliefs(features, confidence, quality, seed)


@pytest.mark.usefixtures("_one_epoch")
@pytest.mark.parametrize("fold", [0, 3])
def test_kills_beliefs_not_blind_to_their_fold(fold: int) -> None:
    """Flip every outcome of a fold: its network and its prior stay, and those of other folds change."""
    quality = _rows()[2]
    before = _fitted(quality)
    own = before.fold == fold
    after = _fitted(torch.where(own.unsqueeze(-1), 1.0 - quality, quality))
    assert own.any()
    assert after.fold.equal(before.fold)
    for name in ("first", "first_bias", "last", "last_bias"):
        one, two = (getattr(fitted.beliefs, name) for fitted in (before, after))
        torch.testing.assert_close(one[fold], two[fold])
        others = [other for other in range(5) if other != fold]
        assert not torch.equal(one[others], two[others])
    torch.testing.assert_close(after.prior[own], before.prior[own])
    assert not torch.allclose(after.prior[~own], before.prior[~own])


@pytest.mark.usefixtures("_one_epoch")
def test_kills_priors_of_a_network_that_saw_the_row() -> None:
    fitted = _fitted(_rows()[2])
    members = fitted.beliefs.members(_rows()[0])
    for row in range(ROWS):
        torch.testing.assert_close(fitted.prior[row], members[fitted.fold[row], row])


def test_kills_the_epoch_of_the_highest_held_out_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels are noise: with 40 epochs the held-out loss rises again, and an early epoch is kept."""
    quality = _rows()[2]
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    monkeypatch.setattr(beliefs, "_RATE", 3e-2)
    losses: list[float] = []
    for epochs in (1, 3, 40):
        monkeypatch.setattr(beliefs, "_EPOCHS", epochs)
        losses.append(float(loss(_fitted(quality).prior, quality)))
    assert losses[2] <= losses[1] <= losses[0]


@pytest.mark.usefixtures("_one_epoch")
def test_kills_beliefs_that_ignore_the_seed() -> None:
    one, two = (_fitted(_rows()[2], seed) for seed in (0, 1))
    assert not one.fold.equal(two.fold)
    assert not torch.equal(one.beliefs.first, two.beliefs.first)
