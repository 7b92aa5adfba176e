"""The priced scorer: by hand, folded, fixed at a weight, and at other prices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from router_rl.exports.safetensors import write
from router_rl.routing import Hard, LinearScorer, PricedScorer, Router, RouterError, StateInput, load


def _scorer() -> PricedScorer:
    torch.manual_seed(0)
    scorer = PricedScorer(4, 2, [[0.01, 1.0]])
    with torch.no_grad():
        scorer.weight.normal_()
        scorer.bias.normal_()
        scorer.gain.fill_(5.0)
        scorer.demand_weight.normal_()
        scorer.shift.normal_()
        scorer.scale.uniform_(0.5, 2.0)
        scorer.compute.copy_(torch.tensor([0.25, 1.0]))
    return scorer


def _router() -> Router:
    state = [StateInput("compute_weight", 1, "utility per unit")]
    return Router(_scorer(), Hard(), ["small", "large"], state=state).eval()


def test_by_hand() -> None:
    scorer = PricedScorer(2, 2, [[0.1, 1.0]])
    with torch.no_grad():
        scorer.weight.copy_(torch.tensor([[1.0], [2.0]]))
        scorer.bias.copy_(torch.tensor([0.5, 0.0]))
        scorer.compute.copy_(torch.tensor([0.5, 2.0]))
        scorer.gain.fill_(10.0)
    # worth 1.5 and 2; at weight .2 they cost .1 and .4
    torch.testing.assert_close(scorer(torch.tensor([[1.0, 0.2]])), torch.tensor([[14.0, 16.0]]))
    with torch.no_grad():
        scorer.demand_weight.copy_(torch.tensor([[1.0], [0.0]]))
    # the query takes twice of the first what queries take on average: .2
    torch.testing.assert_close(scorer(torch.tensor([[1.0, 0.2]])), torch.tensor([[13.0, 16.0]]))


def test_without_its_weight_it_says_how_to_fix_one() -> None:
    with pytest.raises(RouterError, match=r"holding compute_weight .*; or fix it, once: router.at\(compute"):
        _router()(torch.zeros(1, 3))


def test_folded_and_fixed_are_the_same_function() -> None:
    scorer, x = _scorer(), torch.randn(7, 3)
    for weight in (0.0, 0.3, 5.0):  # outside its range too
        expected = scorer(torch.cat([x, torch.full((7, 1), weight)], dim=1))
        folded = scorer.folded()(torch.cat([x, torch.full((7, 1), weight)], dim=1))
        torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-5)
        fixed = scorer.at([weight])
        assert isinstance(fixed, LinearScorer)
        torch.testing.assert_close(fixed(x), expected, atol=1e-5, rtol=1e-5)


def test_other_prices_move_the_logits_by_what_they_cost() -> None:
    router, x = _router(), torch.randn(7, 3)
    weight = torch.full((7, 1), 0.4)
    dearer = router.repriced([0.25, 2.0])
    moved = router(x, weight).logits - dearer(x, weight).logits
    scorer = router.scorer
    assert isinstance(scorer, PricedScorer)
    demand = 1.0 + ((x - scorer.shift) * scorer.scale) @ scorer.demand_weight[1]
    expected = torch.stack([torch.zeros(7), 5.0 * 0.4 * demand], dim=1)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)
    assert router.scorer.compute.tolist() == [0.25, 1.0]


def test_survives_storage(tmp_path: Path) -> None:
    router, x, weight = _router(), torch.randn(5, 3), torch.full((5, 1), 0.1)
    write(router, tmp_path)
    torch.testing.assert_close(load(tmp_path)(x, weight).logits, router(x, weight).logits)


def test_mistakes_are_named() -> None:
    with pytest.raises(RouterError, match=r"must be one pair"):
        PricedScorer(3, 2, [[1.0, 0.5]])
    with pytest.raises(RouterError, match=r"must be 2 numbers"):
        _router().repriced([1.0])
    with pytest.raises(RouterError, match=r"prices are not inputs of this router"):
        _router().at(compute_weight=0.1).repriced([1.0, 1.0])
