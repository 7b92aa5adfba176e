from __future__ import annotations

import itertools
import math

import pytest
import torch

from router_rl.routing import RouterError, TopK
from router_rl.routing.selection import topk
from router_rl.routing.selection.topk import _keys, largest

# Probabilities 1/8, 2/8, 5/8.
LOGITS = torch.tensor([[1.0, 2.0, 5.0]]).log()
PAIRS = {(2, 1): 5 / 12, (2, 0): 5 / 24, (1, 2): 5 / 24, (1, 0): 1 / 24, (0, 1): 1 / 28, (0, 2): 5 / 56}


def test_golden():
    rule = TopK(k=2)
    choice = rule.select(LOGITS)
    assert choice.experts.tolist() == [[2, 1]]
    torch.testing.assert_close(choice.weights, torch.tensor([[5 / 7, 2 / 7]]))
    for pair, probability in PAIRS.items():
        found = rule.log_prob(LOGITS, torch.tensor([pair])).exp().item()
        assert found == pytest.approx(probability, abs=1e-6)
    assert rule.entropy(LOGITS).item() == pytest.approx(1.485502, abs=1e-5)


def test_weigh_follows_the_order_given():
    weights = TopK(k=2).weigh(LOGITS, torch.tensor([[0, 1]]))
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 2 / 3]]))


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_1_is_refused(k):
    with pytest.raises(RouterError, match=rf"TopK\.k={k} is not positive; use 1 or more"):
        TopK(k=k)


def test_k_above_the_experts_is_refused():
    TopK(k=4).check(4)
    with pytest.raises(RouterError, match=r"TopK\.k=5 exceeds 4 experts; use 1 to 4"):
        TopK(k=5).check(4)


@pytest.mark.parametrize("experts", [64, 65])  # 64^2 prefixes are summed, 65^2 are approximated
def test_entropy_of_uniform_logits_on_both_sides_of_the_limit(experts):
    logits = torch.zeros(2, experts, requires_grad=True)
    entropy = TopK(k=3).entropy(logits)
    expected = math.log(experts) + math.log(experts - 1) + math.log(experts - 2)
    torch.testing.assert_close(entropy, torch.full((2,), expected), atol=1e-4, rtol=1e-5)
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    assert gradient.isfinite().all()


def test_approximate_entropy_is_close_when_the_policy_is_sharp():
    experts, k = 17, 4
    assert experts ** (k - 1) > 4096
    logits = (3.0 * torch.arange(experts).flip(0))[None].requires_grad_()
    approximate = TopK(k=k).entropy(logits)
    draws = torch.tensor(list(itertools.permutations(range(experts), k)))
    log_p = TopK(k=k).log_prob(logits.detach().expand(len(draws), -1), draws).double()
    exact = -(log_p.exp() * log_p).sum()
    assert approximate.item() == pytest.approx(exact.item(), rel=0.05)
    (gradient,) = torch.autograd.grad(approximate.sum(), logits)
    assert gradient.isfinite().all()


def test_approximate_entropy_with_masked_experts():
    logits = torch.randn(3, 40)
    logits[:, 5:] = -math.inf
    logits.requires_grad_()
    entropy = TopK(k=4).entropy(logits)
    assert (entropy > 0).all()
    assert (entropy <= math.log(5 * 4 * 3 * 2) + 1e-5).all()
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    assert gradient.isfinite().all()


SMALLEST = 2.0**-149  # the smallest positive float32
AWKWARD = [
    0.0,
    -0.0,
    1.0,
    1.0 + 2**-23,
    -1.0,
    SMALLEST,
    -SMALLEST,
    3.4e38,
    -3.4e38,
    math.inf,
    -math.inf,
    math.nan,
]


def by_sorting(scores, k):
    """The definition: the largest first, NaN above all, equal ones by increasing id."""
    rows = [
        sorted(range(len(row)), key=lambda e: (0, 0.0, e) if math.isnan(row[e]) else (1, -row[e], e))[:k]
        for row in scores.tolist()
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(scores), k)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 2), (5, 1), (12, 3), (12, 12), (130, 8)])
@pytest.mark.parametrize("compiles", [False, True])
def test_the_largest_are_those_of_a_sort_with_ties_to_the_lowest_id(n, k, compiles):
    torch.compiler.reset()  # past a number of shapes, torch would no longer compile
    compiled = torch.compile(largest, backend="eager", dynamic=True, fullgraph=True)
    function = compiled if compiles else largest
    generator = torch.Generator().manual_seed(n)
    ties = torch.randint(-1, 2, (40, n), generator=generator).float()
    values = torch.tensor(AWKWARD)
    awkward = values[torch.randint(len(values), (200, n), generator=generator)]
    distinct = torch.randn(30, n, generator=generator)
    last = distinct.maximum(
        distinct.sort(dim=1, descending=True).values[:, k - 1 : k]
    )  # the k-th ties with the rest
    for scores in (ties, distinct, last, awkward, torch.zeros(0, n)):
        assert function(scores, k).equal(by_sorting(scores, k))
        double = scores.double()
        assert function(double, k).equal(by_sorting(double, k))


def test_neighbouring_scores_are_no_tie_however_many_there_are():
    """Keys hold 2^15 ids beside a float32; of more, a stable sort decides."""
    torch.compiler.reset()
    for n in (2**15, 2**15 + 1):
        scores = torch.ones(1, n)
        scores[0, -1] = 1.0 + 2**-23
        scores[0, 7] = 1.0 - 2**-24
        compiled = torch.compile(largest, backend="eager", fullgraph=True)
        assert compiled(scores, 3).tolist() == largest(scores, 3).tolist() == [[n - 1, 0, 1]]
        assert compiled(-scores, n)[0, -1] == n - 1
        assert compiled(-scores, 1)[0, 0] == 7


@pytest.mark.parametrize("n", [1, 5, 12, 130])
def test_keys_rank_as_the_scores_do_and_equal_scores_by_increasing_id(n):
    generator = torch.Generator().manual_seed(n)
    values = torch.tensor(AWKWARD)
    scores = values[torch.randint(len(values), (200, n), generator=generator)]
    assert _keys(scores).sort(dim=-1, descending=True).indices.equal(by_sorting(scores, n))


def test_the_largest_of_sequences_are_those_of_each_row():
    scores = torch.randint(-1, 2, (4, 6, 5), generator=torch.Generator().manual_seed(0)).double()
    assert largest(scores, 3).equal(torch.stack([by_sorting(each, 3) for each in scores]))


@pytest.mark.parametrize("n", [2**15, 2**15 + 1, 2**17])
def test_where_no_value_may_be_looked_at_a_tie_still_goes_to_the_lowest_id(n, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    scores = torch.ones(1, n)
    scores[0, -1] = 1.0 + 2**-23
    scores[0, 0] = 1.0 - 2**-24  # below a score of 1 at any place
    assert largest(scores, 3).tolist() == [[n - 1, 1, 2]]
    assert largest(scores, n)[0, -1] == 0


def test_the_mixture_of_sequences_has_the_weights_of_the_chosen():
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    mixing = TopK(k=2).mixing(logits)
    kept = logits.masked_fill(logits < logits.topk(2).values[..., 1:], -math.inf)
    torch.testing.assert_close(mixing, kept.softmax(dim=-1))


@pytest.mark.parametrize(("experts", "enumerated"), [(4, True), (5, False)])
def test_entropy_is_exact_up_to_the_limit_of_prefixes_and_follows_the_best_beyond(
    experts, enumerated, monkeypatch
):
    """The first two of three draws have 16 or 25 prefixes."""
    monkeypatch.setattr(topk, "_EXACT_PREFIXES", 16)
    logits = torch.randn(2, 3, experts, generator=torch.Generator().manual_seed(0))
    found = TopK(k=3).entropy(logits)
    draws = torch.tensor(list(itertools.permutations(range(experts), 3)))
    for place in itertools.product(range(2), range(3)):
        row = logits[place]
        log_p = TopK(k=3).log_prob(row.expand(len(draws), -1), draws).double()
        exact = -float((log_p.exp() * log_p).sum())
        greedy, left = 0.0, row.sort(descending=True).values.double()
        for draw in range(3):
            p = left[draw:].softmax(dim=0)
            greedy -= float((p * p.log()).sum())
        assert abs(exact - greedy) > 1e-3
        assert float(found[place]) == pytest.approx(exact if enumerated else greedy, abs=1e-5)
