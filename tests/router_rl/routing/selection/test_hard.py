from __future__ import annotations

import pytest
import torch

from router_rl.routing import Hard, RouterError

# Probabilities 1/8, 2/8, 5/8.
LOGITS = torch.tensor([[1.0, 2.0, 5.0]]).log()


def test_golden():
    rule = Hard()
    choice = rule.select(LOGITS)
    assert choice.experts.tolist() == [[2]]
    assert choice.weights.tolist() == [[1.0]]
    for expert, expected in ((0, -2.079442), (1, -1.386294), (2, -0.470004)):
        assert rule.log_prob(LOGITS, torch.tensor([[expert]])).item() == pytest.approx(expected, abs=1e-6)
    # 1/8 ln 8 + 1/4 ln 4 + 5/8 ln(8/5)
    assert rule.entropy(LOGITS).item() == pytest.approx(0.900256, abs=1e-6)


def test_the_weight_passes_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    choice = Hard().select(logits)
    assert choice.weights.dtype == torch.float32
    assert not choice.weights.requires_grad


def test_needs_an_expert():
    Hard().check(1)
    with pytest.raises(RouterError, match="at least 1 expert, not 0"):
        Hard().check(0)
