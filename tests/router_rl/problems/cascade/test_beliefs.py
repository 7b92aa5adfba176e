"""The network of a fold does not depend on the outcomes of its rows."""

from __future__ import annotations

import pytest
import torch

from router_rl.problems.cascade import beliefs
from router_rl.problems.cascade.beliefs import FittedBeliefs, fit_beliefs
from router_rl.routing.policies.cascade_beliefs import Beliefs

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


def _agreeing_rows(rows: int = 900) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two experts that agree where both are right, and a third that says anything: [T, N], [T, N, N]."""
    generator = torch.Generator().manual_seed(1)
    quality = (torch.rand(rows, EXPERTS, generator=generator) < 0.6).float()
    wrong = torch.randint(1, 6, (rows, EXPERTS), generator=generator)
    answers = torch.where(quality > 0.0, 0, wrong)
    answers[:, 2] = torch.arange(rows) + 10
    return torch.zeros(rows, 1), quality, (answers.unsqueeze(-1) == answers.unsqueeze(-2)).float()


def test_agreement_is_believed_without_confidences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beliefs, "_EXCHANGES", 240)
    features, quality, same = _agreeing_rows()
    found = fit_beliefs(features, torch.full_like(quality, 0.5), quality, 0, same).beliefs
    posterior = found.posterior(found.prior(features), torch.full_like(quality, 0.5))
    asked = torch.tensor([True, True, False]).expand_as(quality)
    agree = same * asked.unsqueeze(-1) * asked.unsqueeze(-2)
    settled = found.settled(posterior, asked, agree).sigmoid()
    equal = same[:, 0, 1] > 0.0
    for rows in (equal, ~equal):
        assert float(settled[rows, 0].mean()) == pytest.approx(float(quality[rows, 0].mean()), abs=0.05)
    assert float(settled[equal, 0].mean() - settled[~equal, 0].mean()) > 0.5
    assert settled[:, 2].equal(posterior[:, 2].sigmoid())  # it was not asked


def test_the_moves_of_agreement_are_those_of_a_loop_over_pairs() -> None:
    generator = torch.Generator().manual_seed(2)
    made = Beliefs(1, 4, 1, 2, agreement=True).requires_grad_(False)
    with torch.no_grad():
        for weight in (made.agreeing, made.differing, made.influence):
            assert weight is not None
            weight.normal_(generator=generator)
    prior, posterior = (torch.randn(20, 4, generator=generator) for _ in range(2))
    asked = torch.rand(20, 4, generator=generator) < 0.6
    answers = torch.randint(0, 2, (20, 4), generator=generator)
    agree = (answers.unsqueeze(-1) == answers.unsqueeze(-2)).float() * (
        asked.unsqueeze(-1) & asked.unsqueeze(-2)
    )
    found = made.current(prior, posterior, asked, agree)
    agreeing, differing, influence = (
        weight.tolist() for weight in (made.agreeing, made.differing, made.influence) if weight is not None
    )
    for row in range(20):
        known = [expert for expert in range(4) if asked[row, expert]]
        settled = {}
        for expert in known:
            settled[expert] = float(posterior[row, expert]) + sum(
                (agreeing if answers[row, other] == answers[row, expert] else differing)[other][expert]
                for other in known
                if other != expert
            )
        for expert in range(4):
            expected = settled.get(
                expert,
                float(prior[row, expert])
                + sum((settled[one] - float(prior[row, one])) * influence[one][expert] for one in known),
            )
            assert float(found[row, expert]) == pytest.approx(expected, abs=1e-5)
    who = torch.tensor([2, 0, 3]).expand(20, -1)
    part = made.current(
        prior[:, who[0]], posterior[:, who[0]], asked[:, who[0]], agree[:, who[0]][:, :, who[0]], who
    )
    hidden = asked.clone()
    hidden[:, 1] = False
    alone = made.current(prior, posterior, hidden, agree * (hidden.unsqueeze(-1) & hidden.unsqueeze(-2)))
    torch.testing.assert_close(part, alone[:, who[0]])


def test_beliefs_that_do_not_read_agreement_are_not_moved_by_it() -> None:
    _, quality, same = _agreeing_rows(ROWS)
    found = _fitted(_rows()[2]).beliefs
    asked = torch.ones_like(quality, dtype=torch.bool)
    assert found.agreeing is None
    assert found.settled(quality, asked, same) is quality
    assert (found.moves(same) == 0.0).all()
