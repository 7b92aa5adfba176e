"""The lookup of an inferred group, and a rule with a correction: by hand, folded, and what is frozen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from router_rl.routing import KernelScorer, LookupScorer, ResidualScorer
from router_rl.routing.scorers.registry import scorer_from_spec


def test_the_lookup_by_hand() -> None:
    """Two groups with logits log 3 and 0: probabilities 3/4 and 1/4."""
    scorer = LookupScorer(1, 2, groups=2)
    with torch.no_grad():
        scorer.shift.fill_(1.0)
        scorer.weight.copy_(torch.tensor([[np.log(3.0)], [0.0]]))
        scorer.values.copy_(torch.tensor([[1.0, 0.0], [0.2, 0.8]]))
    np.testing.assert_allclose(scorer(torch.tensor([[2.0]])).detach().numpy(), [[0.8, 0.2]], atol=1e-6)
    found = scorer.probabilities(torch.tensor([[2.0]]))[0].tolist()
    assert found == pytest.approx([0.75, 0.25])


def _residual() -> ResidualScorer:
    torch.manual_seed(0)
    base = KernelScorer(3, 2, rows=6, components=2, neighbours=2, factor=0.5)
    base.standardise(torch.full((3,), 0.1), torch.full((3,), 2.0))
    base.store(torch.randn(6, 3), torch.rand(6, 2))
    return ResidualScorer(5, 2, base, (4,), 7.0)  # three features, two numbers of state


def test_a_new_residual_is_the_scaled_rule() -> None:
    scorer, x = _residual(), torch.randn(8, 5)
    torch.testing.assert_close(scorer(x), 7.0 * scorer.base(x[:, :3]))


def test_the_correction_adds_to_the_rule_and_reads_the_state() -> None:
    scorer, x = _residual(), torch.randn(8, 5)
    with torch.no_grad():
        for parameter in scorer.correction.parameters():
            parameter.normal_()
    expected = 7.0 * scorer.base(x[:, :3]) + scorer.correction(x)
    torch.testing.assert_close(scorer(x), expected)
    moved = x.clone()
    moved[:, 4] += 1.0
    assert not torch.equal(scorer(moved), scorer(x))


def test_the_rule_is_frozen_and_the_correction_is_trained() -> None:
    scorer = _residual()
    scorer(torch.randn(8, 5)).sum().backward()
    trained = {name for name, value in scorer.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in scorer.named_parameters() if name.startswith("correction.")}
    assert scorer.output_bias().grad is not None


def test_a_residual_comes_back_with_its_rule() -> None:
    scorer, x = _residual(), torch.randn(8, 5)
    again = scorer_from_spec(scorer.spec())
    assert isinstance(again, ResidualScorer)
    again.load_state_dict(scorer.state_dict())
    assert torch.equal(again(x), scorer(x))
    torch.testing.assert_close(scorer.folded()(x), scorer(x))
