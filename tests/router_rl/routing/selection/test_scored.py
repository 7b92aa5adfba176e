"""Scored top-k: by hand, its groups and biases, and a policy that is Plackett-Luce over its ranking."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from router_rl.routing import RouterError, ScoredTopK, TopK, gumbel, selection_from_spec

INF = math.inf
ODDS = torch.tensor([[1.0, 3.0, 9.0, 4.0]]).log()  # sigmoid scores 1/2, 3/4, 9/10, 4/5

RULES = [
    ScoredTopK(k=2),
    ScoredTopK(k=2, bias=(0.3, 0.0, -0.4, 0.1)),
    ScoredTopK(k=1, groups=2),
    ScoredTopK(k=2, groups=2, bias=(0.3, 0.0, -0.4, 0.1)),
    ScoredTopK(k=3, groups=2, kept=2),
    ScoredTopK(k=2, score="softmax", groups=2, judged_by=1),
    ScoredTopK(k=2, score="softmax", bias=(0.3, 0.0, -0.4, 0.1)),
    ScoredTopK(k=2, score="relu"),
    ScoredTopK(k=2, score="relu", groups=2),
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=str)


def test_the_bias_chooses_and_does_not_weigh() -> None:
    choice = ScoredTopK(k=2).select(ODDS)
    assert choice.experts.tolist() == [[2, 3]]
    torch.testing.assert_close(choice.weights, torch.tensor([[9 / 17, 8 / 17]]))
    # s + b = .9, .75, .5, .8: experts 0 and 3, which weigh .5 / 1.3 and .8 / 1.3
    biased = ScoredTopK(k=2, bias=(0.4, 0.0, -0.4, 0.0)).select(ODDS)
    assert biased.experts.tolist() == [[0, 3]]
    torch.testing.assert_close(biased.weights, torch.tensor([[5 / 13, 8 / 13]]))


def test_groups_are_judged_by_their_best() -> None:
    # Groups (.5, .75) and (.9, .05): the second has the best expert, the first the larger sum of two.
    logits = torch.tensor([[1.0, 3.0, 9.0, 1 / 19]]).log()
    by_sum = ScoredTopK(k=1, groups=2, judged_by=2).select(logits)
    by_best = ScoredTopK(k=1, groups=2, judged_by=1).select(logits)
    assert (by_sum.experts.tolist(), by_best.experts.tolist()) == ([[1]], [[2]])
    both = ScoredTopK(k=2, groups=2, kept=2).select(logits)
    assert both.experts.tolist() == [[2, 1]]
    # A bias moves the group as well.
    assert ScoredTopK(k=1, groups=2, bias=(0.0, 0.0, 0.5, 0.0)).select(logits).experts.tolist() == [[2]]


def test_relu_weighs_nothing_that_is_off() -> None:
    rule = ScoredTopK(k=2, score="relu")
    choice = rule.select(torch.tensor([[3.0, 1.0, -1.0], [2.0, -1.0, -2.0], [-3.0, -1.0, -2.0]]))
    assert choice.experts.tolist() == [[0, 1], [0, 1], [1, 2]]
    torch.testing.assert_close(choice.weights, torch.tensor([[0.75, 0.25], [1.0, 0.0], [1.0, 0.0]]))


def test_softmax_scores_without_more_are_topk() -> None:
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    one, two = ScoredTopK(k=3, score="softmax").select(logits), TopK(k=3).select(logits)
    assert one.experts.equal(two.experts)
    torch.testing.assert_close(one.weights, two.weights)


@every_rule
def test_weights_are_a_distribution_even_far_out(rule: ScoredTopK) -> None:
    logits = 1e4 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    experts, weights = rule.select(logits)
    assert experts.shape == weights.shape == (200, rule.k)
    assert experts.dtype == torch.int64
    assert all(len(set(row)) == rule.k for row in experts.tolist())
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(200))
    assert rule.select(logits[:0]).experts.shape == (0, rule.k)


@every_rule
def test_ties_go_to_the_lowest_id(rule: ScoredTopK) -> None:
    if not rule.bias:
        assert rule.select(torch.ones(1, 4)).experts.tolist() == [list(range(rule.k))]


@every_rule
@pytest.mark.parametrize(
    "allowed", [[True, True, True, False], [True, False, False, True], [False] * 3 + [True]]
)
def test_masked_experts_never_work(rule: ScoredTopK, allowed: list[bool]) -> None:
    mask = torch.tensor(allowed)
    logits = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    masked = rule.mask(logits, mask)
    experts, weights = rule.select(masked)
    assert mask[experts[weights > 0]].all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(300))
    if mask.sum() >= rule.k:  # another group's expert comes before a masked one
        assert mask[experts].all()
        assert mask[rule.sample(masked)].all()
        leaf = masked.clone().requires_grad_()
        (rule.entropy(leaf).sum() + rule.log_prob(leaf, experts).sum()).backward()
        assert leaf.grad.isfinite().all()


@every_rule
def test_the_fallback_expert_wins_whatever_the_bias(rule: ScoredTopK) -> None:
    for expert in range(4):
        experts, weights = rule.select(rule.prefer(expert, 4)[None])
        assert int(experts[0, 0]) == expert
        torch.testing.assert_close(weights[0, 0], torch.tensor(1.0))


@every_rule
def test_the_policy_is_plackett_luce_over_the_ranking(rule: ScoredTopK) -> None:
    logits = torch.tensor([0.3, -1.2, 2.0, 0.9])
    draws = torch.tensor(list(itertools.permutations(range(4), rule.k)))
    log_p = rule.log_prob(logits.expand(len(draws), -1), draws).double()
    rank = rule.ranking(logits).double()
    for draw, found in zip(draws.tolist(), log_p, strict=True):
        left, expected = list(range(4)), 0.0
        for expert in draw:
            expected += float(rank[expert] - rank[left].logsumexp(dim=0))
            left.remove(expert)
        assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    entropy = float(rule.entropy(logits[None]))
    assert entropy == pytest.approx(-float((log_p.exp() * log_p).sum()), abs=1e-4)
    count = 20_000
    sampled = rule.sample(logits.expand(count, -1), gumbel((count, 4), torch.Generator().manual_seed(3)))
    codes = 4 ** torch.arange(rule.k)
    seen = torch.bincount((sampled * codes).sum(dim=1), minlength=4**rule.k)[(draws * codes).sum(dim=1)]
    assert int(seen.sum()) == count
    likely = log_p.exp() * count >= 5
    assert int(seen[~likely].sum()) <= 10
    wanted = log_p.exp()[likely] / log_p.exp()[likely].sum() * int(seen[likely].sum())
    assert stats.chisquare(seen[likely].numpy(), wanted.numpy()).pvalue > 1e-3
    # The greedy choice is the likeliest draw.
    assert draws[int(log_p.argmax())].tolist() == rule.select(logits[None]).experts[0].tolist()


def test_permuting_experts_with_their_biases_permutes_the_choice() -> None:
    order = torch.tensor([2, 0, 3, 1])
    logits, bias = torch.randn(40, 4, generator=torch.Generator().manual_seed(4)), (0.3, 0.0, -0.4, 0.1)
    one = ScoredTopK(k=2, bias=bias).select(logits)
    two = ScoredTopK(k=2, bias=tuple(bias[i] for i in order.tolist())).select(logits[:, order])
    assert order[two.experts].equal(one.experts)
    torch.testing.assert_close(one.weights, two.weights)


@every_rule
def test_spec_round_trip(rule: ScoredTopK) -> None:
    assert selection_from_spec(rule.spec()) == rule


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"k": 0}, r"k=0 is not positive"),
        ({"score": "tanh"}, r"score='tanh' is unknown; use softmax"),
        ({"groups": 2, "kept": 3}, r"kept=3 exceeds groups=2"),
        ({"bias": (INF,)}, r"not on the scale of scores"),
        ({"groups": 3}, r"groups=3 does not divide 4 experts"),
        ({"k": 3, "groups": 2}, r"k=3 exceeds the 2 experts"),
        ({"bias": (0.0,)}, r"bias has 1 values but there are 4 experts"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(RouterError, match=problem):
        ScoredTopK(**settings).check(4)  # type: ignore[arg-type]


def test_the_margin_of_the_groups_is_the_worst_kept_one_minus_the_best_other_one() -> None:
    # Scores 1/2, 3/4 | 9/10, 4/5 | 1/4, 1/10, judged by the sum of two: 5/4, 17/10 and 7/20.
    logits = torch.tensor([[1.0, 3.0, 9.0, 4.0, 1 / 3, 1 / 9]]).log()
    for kept, expected in ((1, 1.7 - 1.25), (2, 1.25 - 0.35), (3, INF)):
        rule = ScoredTopK(k=2, groups=3, kept=kept)
        torch.testing.assert_close(rule.group_margin(logits), torch.tensor([expected]))
    tied = ScoredTopK(k=1, groups=3, kept=1).group_margin(torch.ones(2, 6))
    assert tied.tolist() == [0.0, 0.0]
    sequences = logits.repeat(10, 1).reshape(2, 5, 6)
    for kept in (1, 3):
        rule = ScoredTopK(k=2, groups=3, kept=kept)
        assert rule.group_margin(sequences).equal(rule.group_margin(logits).expand(2, 5))
