"""Mutual information of condition and expert, by hand."""

from __future__ import annotations

import pytest
import torch

from experts.training.specialisation import entropy_bits, mutual_information_bits


def test_indifferent_experts_tell_nothing():
    conditions = torch.tensor([0, 1, 2, 0])
    assert mutual_information_bits(conditions, torch.full((4, 3), 1 / 3)) == pytest.approx(0.0, abs=1e-6)


def test_by_hand():
    # p(c, e) = (3/8, 1/8; 1/8, 3/8): I = 1 + 1 - H = 2 - (2 * 3/8 * log2(8/3) + 2 * 1/8 * 3)
    responsibilities = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64)
    found = mutual_information_bits(torch.tensor([0, 1]), responsibilities)
    assert found == pytest.approx(0.18872, abs=1e-5)


def test_one_expert_a_condition_is_the_entropy():
    conditions = torch.tensor([0, 0, 1, 2])
    found = mutual_information_bits(conditions, torch.eye(3, dtype=torch.float64)[conditions])
    assert found == pytest.approx(1.5)
    assert entropy_bits(torch.tensor([0.5, 0.25, 0.25])) == pytest.approx(1.5)
