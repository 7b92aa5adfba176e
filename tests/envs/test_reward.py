from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import Outcomes, load_charge
from envs.reward import mixture, running


def outcomes_of(table):
    return Outcomes.of(table, 2.0)


def slow_mixture(outcomes, row, experts, weights):
    """One query's quality and compute, by loops over Python floats."""
    compute = sum(outcomes.compute[row, expert].item() for expert in set(experts))
    if len(experts) == 1:
        return outcomes.quality[row, experts[0]].item(), compute
    pairs = list(zip(experts, weights, strict=True))
    if outcomes.probabilities is None:
        return sum(weight * outcomes.quality[row, expert].item() for expert, weight in pairs), compute
    given_by = outcomes.probabilities[row].tolist()
    mixed = [sum(weight * given_by[expert][c] for expert, weight in pairs) for c in range(len(given_by[0]))]
    return float(mixed.index(max(mixed)) == outcomes.label[row].item()), compute


def test_running_marks_each_expert_once():
    mask = running(torch.tensor([[2, 0], [1, 1]]), 4)
    assert mask.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]
    assert mask.dtype == torch.float32


@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_mixture_equals_a_float64_loop(make_table, k, probabilities):
    outcomes = outcomes_of(make_table(4, probabilities=probabilities))
    generator = torch.Generator().manual_seed(k)
    row = torch.randint(0, 23, (300,), generator=generator)
    experts = torch.randint(0, 4, (300, k), generator=generator)  # repeated ids among them
    weights = torch.rand(300, k, generator=generator).softmax(dim=1)
    quality, compute = mixture(outcomes, row, experts, weights)
    expected = [
        slow_mixture(outcomes, *case)
        for case in zip(row.tolist(), experts.tolist(), weights.tolist(), strict=True)
    ]
    torch.testing.assert_close(torch.stack([quality, compute], dim=1), torch.tensor(expected))
    assert k == 1 or any(len(set(ids)) < k for ids in experts.tolist())


def test_mixture_golden():
    outcomes = Outcomes(
        features=torch.zeros(1, 1),
        quality=torch.tensor([[0.0, 0.0]]),
        compute=torch.tensor([[0.2, 0.7]]),
        probabilities=torch.tensor([[[0.4, 0.6, 0.0], [0.4, 0.0, 0.6]]]),
        label=torch.tensor([0]),
    )
    experts = torch.tensor([[0, 1], [0, 1], [1, 1]])
    weights = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]])
    quality, compute = mixture(outcomes, torch.zeros(3, dtype=torch.int64), experts, weights)
    # [.4 .3 .3]: right, though both experts are wrong; [.4 .54 .06]; one expert twice, [.4 0 .6].
    assert quality.tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(compute, torch.tensor([0.9, 0.9, 0.7]))


def test_without_probabilities_the_mixture_is_the_weighted_mean():
    outcomes = Outcomes(
        features=torch.zeros(1, 1),
        quality=torch.tensor([[0.8, 0.4]]),
        compute=torch.tensor([[0.2, 0.7]]),
    )
    quality, compute = mixture(
        outcomes, torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[0.25, 0.75]])
    )
    torch.testing.assert_close(quality, torch.tensor([0.5]))
    torch.testing.assert_close(compute, torch.tensor([0.9]))


def test_load_charge_golden():
    # N = 2, W = 2. First decision: (2 * 1 - 1) / 2. Then the same expert: (2 * (2 + 1) - 3) / 2, or the
    # other one: (2 * 1 - 3) / 2. Both on one expert: 2 = W (N - 1). One each: 0.
    first = torch.tensor([[1.0, 0.0]])
    second = torch.tensor([[0.0, 1.0]])
    start = load_charge(torch.zeros(1, 2), torch.zeros(1), first, 2)
    same = load_charge(first, torch.ones(1), first, 2)
    other = load_charge(first, torch.ones(1), second, 2)
    assert (start.item(), same.item(), other.item()) == (0.5, 1.5, -0.5)
    # Half to each expert: (2 * 1/2 - 1) / 2.
    assert load_charge(torch.zeros(1, 2), torch.zeros(1), (first + second) / 2, 2).item() == 0.0


@settings(deadline=None, max_examples=150)
@given(data=st.data(), experts=st.integers(2, 8), window=st.integers(1, 40))
def test_charges_over_a_window_sum_to_its_load(data, experts, window):
    k = data.draw(st.integers(1, experts))
    ids = st.lists(st.integers(0, experts - 1), min_size=k, max_size=k, unique=True)
    choices = data.draw(st.lists(ids, min_size=window, max_size=window))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        counts, total = torch.zeros(experts, dtype=dtype), 0.0
        for decision, chosen in enumerate(choices):
            share = torch.zeros(experts, dtype=dtype)
            share[chosen] = 1.0 / k
            total += load_charge(counts, torch.tensor(decision, dtype=dtype), share, window).item()
            counts = counts + share
        shares = [sum(expert in chosen for chosen in choices) / (k * window) for expert in range(experts)]
        load = experts * sum(share**2 for share in shares) - 1
        assert total == pytest.approx(window * load, abs=tolerance * window)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), experts=st.integers(2, 8))
def test_permuting_experts_leaves_the_charge(data, experts):
    order = torch.tensor(data.draw(st.permutations(range(experts))))
    counts = torch.tensor(data.draw(st.lists(st.integers(0, 30), min_size=experts, max_size=experts))).float()
    share = torch.zeros(experts)
    share[data.draw(st.integers(0, experts - 1))] = 1.0
    charge = load_charge(counts, counts.sum(), share, 64)
    torch.testing.assert_close(load_charge(counts[order], counts.sum(), share[order], 64), charge)
