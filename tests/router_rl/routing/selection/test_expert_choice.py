"""Expert choice: columns pick rows; every query is answered; no policy, no export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from router_rl import export
from router_rl.routing import ExpertChoice, LinearScorer, Router, RouterError


def test_by_hand() -> None:
    # softmax is monotone in the first logit here, so expert 0 takes the first rows and expert 1 the last.
    choice = ExpertChoice(k=2).select(torch.tensor([[5.0, 0.0], [4.0, 0.0], [3.0, 0.0], [2.0, 0.0]]))
    assert choice.experts.tolist() == [[0, 2], [0, 2], [1, 2], [1, 2]]
    assert choice.weights.tolist() == [[1.0, 0.0]] * 4


def test_two_experts_may_take_one_query_and_one_may_be_left() -> None:
    logits = torch.tensor([[2.0, 2.0], [-1.0, -3.0]]).log_softmax(dim=0)
    share = logits.softmax(dim=-1)
    choice = ExpertChoice(k=2).select(logits)
    taken = {(row, e) for row in range(2) for e in choice.experts[row].tolist() if e < 2}
    for expert in range(2):
        assert (int(share[:, expert].argmax()), expert) in taken
    torch.testing.assert_close(choice.weights.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("capacity", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rows", [1, 8, 101])
def test_experts_take_their_capacity_and_every_query_is_answered(capacity: float, rows: int) -> None:
    logits = torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows))
    choice = ExpertChoice(k=5, capacity=capacity).select(logits)
    works = choice.experts < 5
    assert works[:, 0].all()
    room = min(rows, -int(-rows * capacity // 5))
    counts = torch.bincount(choice.experts[works], minlength=5)
    alone = (works.sum(dim=1) == 1).sum()
    assert (counts >= room).all()
    assert int(counts.sum()) <= 5 * room + int(alone)
    torch.testing.assert_close(choice.weights.sum(dim=1), torch.ones(rows))


def test_no_rows() -> None:
    choice = ExpertChoice(k=3).select(torch.zeros(0, 3))
    assert choice.experts.shape == (0, 3)


def test_a_masked_expert_takes_nothing() -> None:
    rule = ExpertChoice(k=3)
    logits = rule.mask(
        torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([True, False, True])
    )
    assert not (rule.select(logits).experts == 1).any()


def test_there_is_no_policy_and_no_export(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="no policy"):
        ExpertChoice(k=2).log_prob(torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64))
    router = Router(LinearScorer(3, 2), ExpertChoice(k=2), ("a", "b"))
    with pytest.raises(RouterError, match="reads the whole batch"):
        export(router, tmp_path / "out")
    with pytest.raises(RouterError, match="k=2 but there are 3"):
        ExpertChoice(k=2).check(3)
    with pytest.raises(RouterError, match="capacity=0"):
        ExpertChoice(k=2, capacity=0)


def test_one_to_all_experts_take_a_query() -> None:
    assert list(ExpertChoice(k=3).sizes(3)) == [1, 2, 3]


def test_the_mixture_has_the_weights_of_the_experts_that_took_the_query() -> None:
    rule = ExpertChoice(k=3, capacity=2.0)
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    experts, weights = rule.select(logits)
    mixing = rule.mixing(logits)
    assert mixing.shape == (8, 3)
    for row in range(8):
        given = dict(zip(experts[row].tolist(), weights[row].tolist(), strict=True))
        expected = [given.get(expert, 0.0) for expert in range(3)]
        assert mixing[row].tolist() == pytest.approx(expected)


def test_an_expert_that_took_a_query_stands_before_one_that_did_not_however_small_its_share() -> None:
    """The shares of the second and the third expert in the first query are 0 in float32."""
    logits = torch.tensor([[0.0, -200.0, -200.0], [0.0, 0.0, -300.0], [0.0, -300.0, -300.0]])
    assert ExpertChoice(k=3).select(logits).experts.tolist() == [[0, 2, 3], [1, 3, 3], [0, 3, 3]]


def test_a_random_router_chooses_by_noisy_logits() -> None:
    logits, noise = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    rule = ExpertChoice(k=3)
    action = rule.sample(logits, noise)
    torch.testing.assert_close(action, logits + noise)
    assert rule.choice(logits, action).experts.equal(rule.select(logits + noise).experts)
