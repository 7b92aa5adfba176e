"""Adaptive k: a draw ends with nobody; probabilities, by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from router_rl.routing import AdaptiveK, RouterError, gumbel

LOGITS = torch.tensor([0.3, -1.2, 1.0, 0.4])  # three experts and nobody
NOBODY = 3


def draws(k: int) -> list[list[int]]:
    """Every possible draw of up to k experts among three: at least one, then padded with nobody."""
    found = []
    for size in range(1, k + 1):
        for chosen in itertools.permutations(range(3), size):
            found.append([*chosen, *[NOBODY] * (k - size)])
    return found


def reference(logits: torch.Tensor, draw: list[int]) -> torch.Tensor:
    """Probability of one draw in float64: the first among the experts, the others with nobody."""
    strength = logits.double().exp()
    left = [0, 1, 2]
    probability = torch.ones((), dtype=torch.float64)
    for place, expert in enumerate(draw):
        pool = left if place == 0 else [*left, NOBODY]
        probability = probability * strength[expert] / strength[pool].sum()
        if expert == NOBODY:
            break
        left.remove(expert)
    return probability


@pytest.mark.parametrize("k", [1, 2, 3])
def test_probabilities_of_all_draws(k: int) -> None:
    rule, every = AdaptiveK(k=k), draws(k)
    rows = LOGITS.expand(len(every), -1)
    found = rule.log_prob(rows, torch.tensor(every)).exp()
    torch.testing.assert_close(found.sum(), torch.tensor(1.0), atol=1e-5, rtol=0)
    expected = torch.stack([reference(LOGITS, draw) for draw in every])
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_the_score_function_gradient_is_the_gradient_of_the_expectation(k: int) -> None:
    rule, every = AdaptiveK(k=k), torch.tensor(draws(k))
    value = torch.arange(len(every), dtype=torch.float32)
    logits = LOGITS.clone().requires_grad_()
    log_p = rule.log_prob(logits.expand(len(every), -1), every)
    (score,) = torch.autograd.grad((log_p.detach().exp() * value * log_p).sum(), logits)
    expectation = sum(reference(logits, draw) * v for draw, v in zip(draws(k), value.tolist(), strict=True))
    assert isinstance(expectation, torch.Tensor)
    (exact,) = torch.autograd.grad(expectation, logits)
    torch.testing.assert_close(score.double(), exact.double(), atol=1e-5, rtol=1e-4)


def test_sampling_follows_log_prob() -> None:
    rule, every, count = AdaptiveK(k=2), draws(2), 20_000
    noise = gumbel((count, 4), torch.Generator().manual_seed(0))
    drawn = rule.sample(LOGITS.expand(count, -1), noise).tolist()
    seen = [drawn.count(draw) for draw in every]
    assert sum(seen) == count
    expected = [float(reference(LOGITS, draw)) * count for draw in every]
    assert stats.chisquare(seen, [e * count / sum(expected) for e in expected]).pvalue > 1e-3


def test_selection_stops_at_nobody() -> None:
    rule = AdaptiveK(k=3)
    rows = torch.tensor(
        [[3.0, 2.0, 1.0, 2.5], [1.0, 2.0, 3.0, 9.0], [1.0, 1.0, 1.0, 0.0], [2.0, 1.0, 0.0, 1.0]]
    )
    choice = rule.select(rows)
    assert choice.experts.tolist() == [[0, 3, 3], [2, 3, 3], [0, 1, 2], [0, 3, 3]]  # ties with nobody stop
    torch.testing.assert_close(choice.weights.sum(dim=1), torch.ones(4))
    assert (choice.weights[choice.experts == NOBODY] == 0).all()


def test_masked_experts_never_work() -> None:
    rule = AdaptiveK(k=3)
    allowed = torch.tensor([True, False, True])
    logits = rule.mask(LOGITS.expand(500, -1), allowed)
    drawn = rule.sample(logits, gumbel((500, 4), torch.Generator().manual_seed(0)))
    working = rule.weigh(logits, drawn)[drawn == 1]
    assert (working == 0).all()
    assert set(rule.select(logits).experts[0].tolist()) <= {0, 2, NOBODY}


def test_entropy_is_exact_for_one_and_finite_with_gradients() -> None:
    p = LOGITS[:3].softmax(dim=0)
    torch.testing.assert_close(AdaptiveK(k=1).entropy(LOGITS[None])[0], -(p * p.log()).sum())
    logits = LOGITS.clone().requires_grad_()
    AdaptiveK(k=3).entropy(logits[None]).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_probabilities_leave_nobodys_part_out() -> None:
    found = AdaptiveK(k=2).probabilities(LOGITS[None])
    assert found.shape == (1, 3)
    torch.testing.assert_close(1 - found.sum(), LOGITS.softmax(dim=0)[NOBODY])


def test_prefer_and_lift() -> None:
    rule = AdaptiveK(k=2)
    assert rule.select(rule.prefer(1, 3)[None]).experts.tolist() == [[1, NOBODY]]
    lifted = rule.lift(torch.tensor([[0.2, 0.9, 0.1]]), temperature=0.0)
    assert rule.select(lifted).experts.tolist() == [[1, NOBODY]]


@pytest.mark.parametrize(("k", "message"), [(0, "k=0"), (4, "k=4 exceeds 3 experts; use 1 to 3")])
def test_k_is_checked(k: int, message: str) -> None:
    with pytest.raises(RouterError, match=message):
        AdaptiveK(k=k).check(3)


def test_log_of_an_impossible_draw_is_minus_infinity() -> None:
    logits = AdaptiveK(k=2).mask(LOGITS[None], torch.tensor([True, False, True]))
    assert float(AdaptiveK(k=2).log_prob(logits, torch.tensor([[1, NOBODY]]))) == -math.inf


def test_every_expert_may_work() -> None:
    AdaptiveK(k=3).check(3)


@pytest.mark.parametrize("k", [2, 3])
def test_entropy_is_that_of_each_draw_after_the_greedy_ones(k: int) -> None:
    """The experts rank 2, 0, 1; a later draw counts as often as nobody was not drawn before it."""
    strength = LOGITS.double().exp()
    expected, reached = 0.0, 1.0
    for draw, pool in enumerate([[0, 1, 2], [0, 1, NOBODY], [1, NOBODY]][:k]):
        p = strength[pool] / strength[pool].sum()
        expected -= reached * float((p * p.log()).sum())
        reached *= 1.0 - (float(p[-1]) if draw else 0.0)
    assert float(AdaptiveK(k=k).entropy(LOGITS[None])[0]) == pytest.approx(expected, abs=1e-5)


def test_lifting_gives_nobody_the_value_of_all_together() -> None:
    values = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    greedy = AdaptiveK(k=2).lift(values, temperature=0.0)
    torch.testing.assert_close(greedy, torch.cat([values, values.amax(dim=-1, keepdim=True)], dim=-1))
    for temperature in (0.5, 1.0):
        lifted = AdaptiveK(k=2).lift(values, temperature=temperature)
        together = temperature * (values / temperature).exp().sum(dim=-1).log()
        torch.testing.assert_close(lifted[..., :3], values)
        torch.testing.assert_close(lifted[..., 3], together)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_batch_of_sequences_is_the_sequences_one_by_one(k: int) -> None:
    rule = AdaptiveK(k=k)
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    action = rule.sample(logits)
    torch.testing.assert_close(rule.entropy(logits), torch.stack([rule.entropy(each) for each in logits]))
    for function in (rule.log_prob, rule.weigh):
        found = function(logits, action)
        torch.testing.assert_close(found, torch.stack([function(logits[n], action[n]) for n in range(2)]))
