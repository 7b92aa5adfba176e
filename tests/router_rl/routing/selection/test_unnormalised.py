"""Unnormalised top-k: OLMoE's weights, and the experts and draws of the rule that renormalises."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from router_rl.routing import RouterError, ScoredTopK, TopK, UnnormalisedTopK, selection_from_spec


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_weights_are_those_of_olmoe(k: int) -> None:
    import transformers
    from transformers.models.olmoe.modeling_olmoe import OlmoeTopKRouter

    config = transformers.OlmoeConfig(
        hidden_size=7, num_experts=5, num_experts_per_tok=k, norm_topk_prob=False
    )
    gate: Any = OlmoeTopKRouter(config)
    with torch.no_grad():
        gate.weight.normal_(generator=torch.Generator().manual_seed(0))
    logits, weights, experts = gate(torch.randn(11, 7, generator=torch.Generator().manual_seed(1)))
    choice = UnnormalisedTopK(k=k).select(logits)
    assert torch.equal(choice.experts, experts)
    torch.testing.assert_close(choice.weights, weights)
    assert bool((choice.weights.sum(dim=1) < 1.0 + 1e-6).all())
    assert k == 5 or bool((choice.weights.sum(dim=1) < 0.999).any())


@pytest.mark.parametrize(
    "fields", [{"k": 2}, {"k": 1, "bias": (0.5, 0.0, -0.5, 0.2)}, {"k": 2, "score": "sigmoid", "groups": 2}]
)
def test_experts_and_draws_are_those_of_the_normalised_rule(fields: dict[str, Any]) -> None:
    rule, other = UnnormalisedTopK(**fields), ScoredTopK(**{"score": "softmax", **fields})
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    z[3] = z[3, 0]  # a tie
    noise = rule.draw_noise((9, 4), torch.Generator().manual_seed(3))
    action = rule.sample(z, noise)
    assert torch.equal(action, other.sample(z, noise))
    assert torch.equal(rule.select(z).experts, other.select(z).experts)
    torch.testing.assert_close(rule.log_prob(z, action), other.log_prob(z, action))
    torch.testing.assert_close(rule.entropy(z), other.entropy(z))
    torch.testing.assert_close(rule.probabilities(z), other.probabilities(z))
    torch.testing.assert_close(rule.ranking(z), other.ranking(z))
    normalised = rule.weigh(z, action) / rule.weigh(z, action).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(normalised, other.weigh(z, action))
    assert rule.select(rule.prefer(2, 4)[None]).experts[0, 0] == 2 or "bias" in fields


def test_it_is_stored_and_its_mistakes_are_those_of_the_normalised_rule() -> None:
    rule = UnnormalisedTopK(k=2, score="sigmoid", bias=(0.1, 0.2, 0.3), groups=1)
    assert selection_from_spec(json.loads(json.dumps(rule.spec()))) == rule
    assert not rule.normalised
    assert TopK(k=2).normalised
    with pytest.raises(RouterError, match="is not positive"):
        UnnormalisedTopK(k=0)
    with pytest.raises(RouterError, match="exceeds the 3 experts"):
        UnnormalisedTopK(k=4).check(3)
