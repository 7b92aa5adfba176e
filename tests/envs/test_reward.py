from __future__ import annotations

import numpy as np
import pytest
import torch

from envs import Outcomes, utility
from envs.reward import expert_utility, mixture, running


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


def test_utility_golden():
    # 0.9 - 0.5 * 0.4 - 2 * 0.1
    parts = {"quality": 0.9, "compute": 0.4, "load": 0.1, "share": 7.0}  # a part without a weight is ignored
    assert utility(parts, {"compute": 0.5, "load": 2.0}) == pytest.approx(0.5)
    assert utility(parts, {}) == 0.9
    assert utility({"nats": 2.0, "compute": 1.0}, {"compute": 0.25}) == -2.25


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_utility_of_arrays_subtracts_in_the_order_of_the_weights(convert):
    generator = np.random.default_rng(0)
    quality, compute, load = (convert(generator.random(999).astype(np.float32)) for _ in range(3))
    before = [part.tolist() for part in (quality, compute, load)]
    found = utility({"load": load, "compute": compute, "quality": quality}, {"compute": 0.37, "load": 0.21})
    assert type(found) is type(quality)
    assert found.dtype == quality.dtype
    assert found.tolist() == (quality - 0.37 * compute - 0.21 * load).tolist()  # bit for bit
    assert [part.tolist() for part in (quality, compute, load)] == before


def test_utility_takes_one_weight_for_each_entry():
    parts = {"quality": torch.ones(3), "compute": torch.tensor([1.0, 2.0, 4.0])}
    assert utility(parts, {"compute": torch.tensor([0.0, 0.5, 0.25])}).tolist() == [1.0, 0.0, 0.0]


def test_utility_needs_every_part_that_has_a_weight():
    with pytest.raises(KeyError, match="load"):
        utility({"quality": 1.0}, {"load": 0.0})


def test_expert_utility(make_table):
    outcomes = outcomes_of(make_table())
    assert expert_utility(outcomes, 0.3).equal(outcomes.quality - 0.3 * outcomes.compute)


def test_the_id_of_no_expert_earns_nothing_alone(make_table):
    outcomes = outcomes_of(make_table(3))
    row = torch.tensor([18, 18, 0])
    quality, compute = mixture(
        outcomes, row, torch.tensor([[3], [2], [3]]), torch.tensor([[0.0], [1.0], [0.0]])
    )
    assert quality.tolist() == [0.0, float(outcomes.quality[18, 2]), 0.0]
    assert compute.tolist() == [0.0, float(outcomes.compute[18, 2]), 0.0]
