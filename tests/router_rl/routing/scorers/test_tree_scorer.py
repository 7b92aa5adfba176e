"""The tree scorer against a loop over nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from router_rl.routing import RouterError, TreeScorer


def filled(inputs: int, experts: int, trees: int, depth: int) -> TreeScorer:
    """A scorer with random trees, some of whose branches end early."""
    torch.manual_seed(1)
    scorer = TreeScorer(inputs, experts, trees, depth)
    with torch.no_grad():
        scorer.feature.copy_(torch.randint(0, inputs, scorer.feature.shape))
        scorer.threshold.normal_()
        scorer.threshold[torch.rand(scorer.threshold.shape) < 0.2] = float("inf")
        scorer.leaf.normal_()
        scorer.bias.normal_()
    return scorer


def twin(scorer: TreeScorer, x: np.ndarray) -> np.ndarray:
    """Logits [N] of one query [D], node by node."""
    nodes = 2**scorer.depth - 1
    logits = scorer.bias.double().numpy().copy()
    for tree in range(scorer.experts * scorer.trees):
        node = 0
        while node < nodes:
            right = x[int(scorer.feature[tree, node])] > float(scorer.threshold[tree, node])
            node = 2 * node + (2 if right else 1)
        logits[tree // scorer.trees] += float(scorer.leaf[tree, node - nodes])
    return logits


@pytest.mark.parametrize(("experts", "trees", "depth"), [(1, 1, 1), (3, 5, 2), (2, 7, 4)])
def test_equals_a_loop_over_nodes(experts: int, trees: int, depth: int) -> None:
    scorer = filled(5, experts, trees, depth)
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    expected = np.stack([twin(scorer, row) for row in x])
    np.testing.assert_allclose(scorer(torch.from_numpy(x)).numpy(), expected, atol=1e-5)


def test_a_value_at_the_threshold_goes_to_the_left() -> None:
    scorer = TreeScorer(1, 1, 1, 1)
    with torch.no_grad():
        scorer.threshold.fill_(0.5)
        scorer.leaf.copy_(torch.tensor([[1.0, 2.0]]))
    x = torch.tensor([[0.5], [np.nextafter(np.float32(0.5), np.float32(1.0))], [-9.0]])
    assert scorer(x).flatten().tolist() == [1.0, 2.0, 1.0]


def test_no_rows_and_no_trees() -> None:
    assert filled(5, 3, 2, 2)(torch.zeros(0, 5)).shape == (0, 3)
    with pytest.raises(RouterError, match=r"TreeScorer.trees=0 is below 1; use 1 or more"):
        TreeScorer(5, 3, 0, 2)
    with pytest.raises(RouterError, match=r"TreeScorer.depth=0 is below 1; use 1 or more"):
        TreeScorer(5, 3, 2, 0)
