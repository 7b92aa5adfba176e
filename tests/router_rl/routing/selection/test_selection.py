"""What every selection rule owes: one test a promise, each rule through it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from router_rl.routing import SELECTIONS, Hard, RouterError, ScoredTopK, TopK, gumbel, selection_from_spec

RULES = [Hard(), *(TopK(k=k) for k in (1, 2, 3, 4)), ScoredTopK(k=2, score="softmax")]
INF = math.inf
LOGITS = [
    pytest.param([0.3, -1.2, 2.0, 0.9], id="plain"),
    pytest.param([0.0, 0.0, 0.0, 0.0], id="ties"),
    pytest.param([8.0, -8.0, 0.5, 0.5], id="sharp"),
    pytest.param([0.3, -INF, 2.0, 0.9], id="one-masked"),
    pytest.param([0.3, -INF, -INF, 0.9], id="two-masked"),
    pytest.param([-INF, -INF, -INF, 0.9], id="one-left"),
]
distinct = st.lists(st.integers(-40, 40), min_size=4, max_size=9, unique=True)


def draws_of(rule, experts=4):
    """All ordered draws of a rule, [A, k]."""
    return torch.tensor(list(itertools.permutations(range(experts), rule.k)))


def reference(logits, draws):
    """Plackett-Luce probabilities [A] of draws [A, k], as products of softmaxes in float64."""
    strength = (logits.double() - logits.detach().double().max()).exp()
    total = []
    for draw in draws.tolist():
        left, probability = list(range(len(logits))), torch.ones((), dtype=torch.float64)
        for expert in draw:
            rest = strength[left].sum()
            # Once only masked experts are left, the draw is impossible already.
            probability = probability * (strength[expert] / rest if rest > 0 else 0.0)
            left.remove(expert)
        total.append(probability)
    return torch.stack(total)


def rule_and_logits(test):
    """Parametrise over the rules and the logits from which they can draw."""
    cases = [
        pytest.param(rule, parameter.values[0], id=f"{rule.name}{rule.k}-{parameter.id}")
        for rule in RULES
        for parameter in LOGITS
        if rule.k <= sum(value > -INF for value in parameter.values[0])
    ]
    return pytest.mark.parametrize(("rule", "values"), cases)(test)


@rule_and_logits
def test_probabilities_of_all_draws(rule, values):
    logits, draws = torch.tensor(values), draws_of(rule)
    impossible = torch.tensor(values)[draws].isinf().any(dim=1)
    log_p = rule.log_prob(logits.expand(len(draws), -1), draws)
    assert log_p.dtype == torch.float32
    assert log_p[impossible].isneginf().all()
    found = log_p.double().exp()
    torch.testing.assert_close(found, reference(logits, draws), atol=1e-5, rtol=0)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-5)


@rule_and_logits
def test_sampling_follows_log_prob(rule, values):
    count = 20_000
    logits, draws = torch.tensor(values), draws_of(rule)
    noise = gumbel((count, 4), torch.Generator().manual_seed(11))
    sampled = rule.sample(logits.expand(count, -1), noise)
    assert sampled.shape == (count, rule.k)
    assert sampled.dtype == torch.int64
    codes = 4 ** torch.arange(rule.k)
    found = torch.bincount((sampled * codes).sum(dim=1), minlength=4**rule.k)[(draws * codes).sum(dim=1)]
    assert found.sum() == count, "an expert was drawn twice"
    expected = count * rule.log_prob(logits.expand(len(draws), -1), draws).double().exp()
    likely = expected >= 5
    assert (found[expected == 0] == 0).all()
    rare = int(found[~likely].sum())
    assert rare <= 5 * float(expected[~likely].sum()) + 10
    if likely.sum() > 1:
        wanted = expected[likely] / expected[likely].sum() * (count - rare)
        assert stats.chisquare(found[likely].numpy(), wanted.numpy()).pvalue > 1e-3


@rule_and_logits
def test_entropy_is_the_enumerated_one(rule, values):
    logits, draws = torch.tensor(values, requires_grad=True), draws_of(rule)
    entropy = rule.entropy(logits[None]).squeeze(0)
    probabilities = reference(logits, draws)
    probabilities = probabilities[probabilities > 0]
    expected = -(probabilities * probabilities.log()).sum()
    assert entropy.item() == pytest.approx(expected.item(), abs=1e-5)
    (found,) = torch.autograd.grad(entropy, logits)
    assert found.isfinite().all()
    masked = torch.tensor(values).isinf()
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found[~masked], wanted[~masked], atol=1e-5, rtol=1e-4)
    assert (found[masked] == 0).all()


@rule_and_logits
def test_the_score_function_gradient_is_the_gradient_of_the_expectation(rule, values):
    logits, draws = torch.tensor(values, requires_grad=True), draws_of(rule)
    utility = torch.linspace(-1, 2, len(draws), dtype=torch.float64) ** 2
    feasible = ~torch.tensor(values)[draws].isinf().any(dim=1)
    log_p = rule.log_prob(logits.expand(len(draws), -1), draws)[feasible]
    surrogate = (log_p.detach().double().exp() * utility[feasible] * log_p).sum()
    (found,) = torch.autograd.grad(surrogate, logits)
    (wanted,) = torch.autograd.grad((reference(logits, draws) * utility).sum(), logits)
    masked = torch.tensor(values).isinf()
    torch.testing.assert_close(found[~masked], wanted[~masked], atol=1e-5, rtol=1e-4)
    assert (found[masked] == 0).all()


@rule_and_logits
def test_masked_experts_are_never_chosen(rule, values):
    logits = torch.tensor(values).expand(500, -1)
    for experts in (rule.select(logits).experts, rule.sample(logits)):
        assert logits.gather(1, experts).isfinite().all()
    choice = rule.select(logits)
    torch.testing.assert_close(choice.weights.sum(dim=1), torch.ones(500))


@pytest.mark.parametrize("experts", [1, 2, 37, 4099])
def test_ties_go_to_the_lowest_id(experts):
    logits = torch.randint(0, 3, (20, experts)).float()
    logits[0] = 0.0
    for k in {1, min(2, experts), experts}:
        expected = [
            sorted(range(experts), key=lambda e, row=row: (-row[e], e))[:k] for row in logits.tolist()
        ]
        assert TopK(k=k).select(logits).experts.tolist() == expected
    assert Hard().select(logits).experts.equal(TopK(k=1).select(logits).experts)


@settings(deadline=None, max_examples=60)
@given(values=distinct, data=st.data())
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}{rule.k}")
def test_permuting_experts_permutes_the_outcome(rule, values, data):
    order = torch.tensor(data.draw(st.permutations(range(len(values)))))
    logits = torch.tensor(values)[None] / 7.0
    noise = gumbel(logits.shape, torch.Generator().manual_seed(data.draw(st.integers(0, 1000))))
    moved = logits[:, order]
    choice, again = rule.select(logits), rule.select(moved)
    assert order[again.experts].equal(choice.experts)
    torch.testing.assert_close(again.weights, choice.weights)
    drawn, redrawn = rule.sample(logits, noise), rule.sample(moved, noise[:, order])
    assert order[redrawn].equal(drawn)
    torch.testing.assert_close(rule.log_prob(moved, redrawn), rule.log_prob(logits, drawn))
    torch.testing.assert_close(rule.entropy(moved), rule.entropy(logits), atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=60)
@given(values=distinct, constant=st.integers(-1000, 1000))
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}{rule.k}")
def test_adding_a_constant_changes_nothing(rule, values, constant):
    logits = torch.tensor(values).float()[None]
    moved = logits + constant  # whole numbers of this size add exactly in float32
    choice, again = rule.select(logits), rule.select(moved)
    assert again.experts.equal(choice.experts)
    torch.testing.assert_close(again.weights, choice.weights)
    log_p = rule.log_prob(logits, choice.experts)
    torch.testing.assert_close(rule.log_prob(moved, choice.experts), log_p, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rule.entropy(moved), rule.entropy(logits), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}{rule.k}")
@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_and_types(rule, rows, dtype):
    logits = (1e4 * torch.randn(rows, 5)).to(dtype)
    experts, weights = rule.select(logits)
    assert experts.shape == weights.shape == rule.sample(logits).shape == (rows, rule.k)
    assert experts.dtype == torch.int64
    assert (
        weights.dtype == rule.log_prob(logits, experts).dtype == rule.entropy(logits).dtype == torch.float32
    )
    assert rule.log_prob(logits, experts).shape == rule.entropy(logits).shape == (rows,)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(rows))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}{rule.k}")
def test_without_noise_the_global_generator_draws(rule):
    logits = torch.zeros(50, 4)
    first = rule.sample(logits)
    assert not first.equal(rule.sample(logits))
    torch.manual_seed(0)
    assert rule.sample(logits).equal(first)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}{rule.k}")
def test_spec_round_trip(rule):
    assert selection_from_spec(rule.spec()) == rule
    assert SELECTIONS[rule.spec()["rule"]] is type(rule)


def test_unknown_rules_and_settings_are_refused():
    with pytest.raises(
        RouterError, match="selection rule 'top' is unknown; known: adaptive_k, expert_choice, hard"
    ):
        selection_from_spec({"rule": "top"})
    with pytest.raises(RouterError, match="selection rule None is unknown"):
        selection_from_spec({})
    with pytest.raises(RouterError, match=r"'hard' does not take \{'k': 2\}"):
        selection_from_spec({"rule": "hard", "k": 2})
