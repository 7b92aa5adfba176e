"""Trees of gates: probabilities and the M-step by hand."""

from __future__ import annotations

import math

import pytest
import torch

from experts import InputError
from experts.training import GateTree


def test_leaf_probabilities_are_products_along_the_path():
    gate = GateTree((0, (1, 2)), inputs=1)
    gate.weights[0][:, -1] = torch.tensor([math.log(0.3), math.log(0.7)])
    gate.weights[1][:, -1] = torch.tensor([math.log(0.2), math.log(0.8)])
    found = gate.log_probabilities(torch.zeros(1, 1, dtype=torch.float64)).exp()
    assert found.tolist()[0] == pytest.approx([0.3, 0.14, 0.56])


def test_a_node_is_fitted_with_its_childrens_responsibilities():
    gate = GateTree((0, (1, 2)), inputs=1)
    x = torch.zeros(2, 1, dtype=torch.float64)
    gate.maximise(x, torch.tensor([[0.6, 0.1, 0.3], [0.0, 0.8, 0.2]], dtype=torch.float64))
    # Constant inputs: branch probabilities are shares. Root .6 of 2; below it .9 against .5 of 1.4.
    found = gate.log_probabilities(x).exp()[0].tolist()
    assert found == pytest.approx([0.3, 0.7 * 0.9 / 1.4, 0.7 * 0.5 / 1.4])


@pytest.mark.parametrize("tree", [(0, 2), (0, (1, 1)), 0])
def test_leaves_must_be_the_experts(tree):
    with pytest.raises(InputError, match="give each of 0 to"):
        GateTree(tree, inputs=1)
