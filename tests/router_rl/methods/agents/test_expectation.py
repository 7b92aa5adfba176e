"""The expectation equals its enumeration; where actions are drawn its gradient has no bias."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from envs import Outcomes
from envs.reward import mixture, shares
from router_rl.methods.agents import expectation
from router_rl.methods.agents.expectation import Expectation, RewardTable, actions_of, expected_utility
from router_rl.routing import AdaptiveK, Hard, Hierarchical, ScoredTopK, Selection, Soft, TopK

TREE = ("root", (0, ("pair", (1, 2)), 3))
RULES = [Hard(), Hierarchical(tree=TREE), TopK(k=1), TopK(k=2), AdaptiveK(k=1), AdaptiveK(k=3)]


def _slowly(rule: Selection, logits: Tensor, outcomes: Outcomes, weight: float, row: Tensor) -> Expectation:
    """The expectation summed action by action over everything ids could say."""
    count = outcomes.experts
    utility, entropy = torch.zeros(len(row)), torch.zeros(len(row))
    share = torch.zeros(len(row), count)
    for action in itertools.product(range(count + 1), repeat=rule.k):
        ids = [e for e in action if e < count]
        stopped = action[len(ids) :] == (count,) * (rule.k - len(ids))
        if not ids or len(set(ids)) < len(ids) or not stopped or len(ids) not in rule.sizes(count):
            continue
        experts = torch.tensor(action).expand(len(row), -1)
        log_p = rule.log_prob(logits, experts)
        chosen, weights = rule.choice(logits, experts)
        quality, compute = mixture(outcomes, row, chosen, weights)
        utility = utility + log_p.exp() * (quality - weight * compute)
        share = share + log_p.exp().unsqueeze(-1) * shares(experts, count)
        entropy = entropy - log_p.exp() * log_p
    return Expectation(utility, share, entropy)


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}{rule.k}")
def test_it_is_the_sum_over_actions(
    outcomes_of: Callable[..., Outcomes], rule: Selection, classes: bool
) -> None:
    outcomes, row = outcomes_of(7, 4, classes=classes), torch.tensor([0, 3, 3, 6, 1])
    logits = torch.randn(5, rule.outputs(4), requires_grad=True)
    fast = expected_utility(rule, logits, RewardTable(outcomes, 0.3), row, torch.Generator())
    slow = _slowly(rule, logits, outcomes, 0.3, row)
    for name in Expectation._fields:
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name))
        one, two = (
            torch.autograd.grad(getattr(found, name).square().sum(), logits, retain_graph=True)[0]
            for found in (fast, slow)
        )
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.share.sum(dim=-1), torch.ones(5))


def test_drawn_actions_give_the_exact_gradient_on_average(
    outcomes_of: Callable[..., Outcomes], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes, rule, row = outcomes_of(3, 4), TopK(k=2), torch.tensor([1])
    logits = torch.tensor([[0.5, -0.2, 0.1, 0.3]], requires_grad=True)
    rewards = RewardTable(outcomes, 0.3)

    def gradients(found: Expectation) -> list[Tensor]:
        goals = (found.utility.mean(), (found.share.mean(dim=0) * torch.arange(4.0)).sum())
        return [torch.autograd.grad(goal, logits, retain_graph=True)[0] for goal in goals]

    exact = gradients(expected_utility(rule, logits, rewards, row, torch.Generator()))
    monkeypatch.setattr(expectation, "_MAX_ACTIONS", 0)
    actions_of.cache_clear()
    many = 20_000
    drawn = expected_utility(
        rule,
        logits.expand(many, -1),
        rewards,
        row.expand(many),
        torch.Generator().manual_seed(0),
    )
    for one, two in zip(gradients(drawn), exact, strict=True):
        torch.testing.assert_close(one, two, atol=4e-3, rtol=0.0)
    actions_of.cache_clear()


def test_soft_selection_is_drawn(outcomes_of: Callable[..., Outcomes]) -> None:
    rule, logits = Soft(k=4), torch.zeros(2, 4, requires_grad=True)
    found = expected_utility(
        rule, logits, RewardTable(outcomes_of(3, 4), 0.0), torch.tensor([0, 1]), torch.Generator()
    )
    found.utility.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert actions_of(rule, 4) is None


def test_smoothing_pays_the_probability_of_the_right_class(outcomes_of: Callable[..., Outcomes]) -> None:
    outcomes, row = outcomes_of(5, 3, classes=True), torch.tensor([4, 2])
    assert outcomes.probabilities is not None
    assert outcomes.label is not None
    rewards = RewardTable(outcomes, 0.5, smoothing=0.25)
    for b, query in enumerate(row.tolist()):
        for e in range(3):
            right = outcomes.probabilities[query, e, int(outcomes.label[query])]
            want = 0.75 * outcomes.quality[query, e] + 0.25 * right - 0.5 * outcomes.compute[query, e]
            torch.testing.assert_close(rewards.rows(row)[b, e], want)
            alone = torch.tensor([[e], [e]])
            torch.testing.assert_close(rewards.mixture(row, alone, torch.ones(2, 1))[b], want)
    both, halves = torch.tensor([[0, 2], [1, 0]]), torch.full((2, 2), 0.5)
    quality, compute = mixture(outcomes, row, both, halves)
    given = outcomes.probabilities[row.unsqueeze(1), both, outcomes.label[row].unsqueeze(1)].mean(dim=1)
    want = 0.75 * quality + 0.25 * given - 0.5 * compute
    torch.testing.assert_close(rewards.mixture(row, both, halves), want)


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_each_query_may_have_a_price_of_its_own(
    outcomes_of: Callable[..., Outcomes], smoothing: float
) -> None:
    """And the prices may change between calls, though what quality earns is looked up."""
    outcomes, row = outcomes_of(5, 3, classes=True), torch.tensor([4, 2, 4])
    prices = torch.zeros(5)
    rewards = RewardTable(outcomes, prices, smoothing)
    both, halves = torch.tensor([[0, 2], [1, 0], [2, 1]]), torch.full((3, 2), 0.5)
    for _ in range(2):
        prices += torch.rand(5, generator=torch.Generator().manual_seed(1))
        for b, query in enumerate(row.tolist()):
            same, here = RewardTable(outcomes, float(prices[query]), smoothing), slice(b, b + 1)
            torch.testing.assert_close(rewards.rows(row)[here], same.rows(row[here]))
            for experts, weights in ((both[:, :1], torch.ones(3, 1)), (both, halves)):
                one = same.mixture(row[here], experts[here], weights[here])
                torch.testing.assert_close(rewards.mixture(row, experts, weights)[here], one)


def test_a_scored_rule_expects_what_its_greedy_choice_earns_once_it_is_sure(
    outcomes_of: Callable[..., Outcomes],
) -> None:
    outcomes = outcomes_of(5, 4)
    rewards = RewardTable(outcomes, 0.1)
    rule = ScoredTopK(k=1, bias=(0.0, 0.3, 0.0, 0.0))
    logits = torch.tensor([[9.0, -9.0, -9.0, -9.0], [-9.0, -9.0, -9.0, -9.0]]).repeat(3, 1)[:5]
    row = torch.arange(5)
    found = expected_utility(rule, logits, rewards, row, torch.Generator())
    chosen = rule.select(logits).experts.squeeze(-1)
    assert chosen.tolist() == [0, 1, 0, 1, 0]
    assert (found.share.argmax(dim=-1) == chosen).all()
    assert found.share.max(dim=-1).values.min() > 0.85
    torch.testing.assert_close(found.utility, (found.share * rewards.rows(row)).sum(dim=-1))
