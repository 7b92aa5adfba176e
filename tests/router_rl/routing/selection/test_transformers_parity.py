"""Our routers against the ones transformers ships: same ids, same weights, from the same linear scores.

It takes seconds to import, so each test imports what it compares with, and collecting them is free.
"""

from __future__ import annotations

import pytest
import torch

from router_rl.routing import LinearScorer, Router, ScoredTopK, Selection, TopK

SIZES = [(8, 1), (8, 2), (8, 8), (37, 5), (128, 8)]
ROWS, HIDDEN = 257, 24


def ours(theirs: torch.nn.Module, rule: Selection, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Route through our Router with their weights; ids and weights ordered by id."""
    weight = theirs.get_parameter("weight")
    scorer = LinearScorer(*reversed(weight.shape))
    with torch.no_grad():
        scorer.weight.copy_(weight)
        if "bias" in dict(theirs.named_parameters()):
            scorer.bias.copy_(theirs.get_parameter("bias"))
    with torch.inference_mode():
        routing = Router(scorer, rule, [str(i) for i in range(len(weight))])(hidden)
    assert not routing.fallback.any()
    return by_id(routing.experts, routing.weights)


def by_id(experts: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = experts.argsort(dim=1)  # theirs come in no promised order
    return experts.gather(1, order), weights.gather(1, order)


def start(module: torch.nn.Module, seed: int = 0) -> torch.Tensor:
    """Random weights and hidden states [T, D]."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return torch.randn(ROWS, HIDDEN, generator=generator)


def agree(theirs: torch.nn.Module, rule: Selection, hidden: torch.Tensor, scaling: float = 1.0) -> None:
    with torch.inference_mode():
        _, weights, experts = theirs(hidden)
    wanted, expected = by_id(experts, weights)
    found, got = ours(theirs, rule, hidden)
    assert found.equal(wanted)
    torch.testing.assert_close(got * scaling, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("count", "k"), SIZES)
def test_mixtral(count: int, k: int) -> None:
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=HIDDEN, intermediate_size=8, num_local_experts=count, num_experts_per_tok=k
    )
    router = MixtralSparseMoeBlock(config).gate
    agree(router, TopK(k=k), start(router))


@pytest.mark.parametrize(("count", "k"), SIZES)
def test_qwen3_moe(count: int, k: int) -> None:
    from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

    config = Qwen3MoeConfig(hidden_size=HIDDEN, num_experts=count, num_experts_per_tok=k, norm_topk_prob=True)
    router = Qwen3MoeTopKRouter(config)
    agree(router, TopK(k=k), start(router))


@pytest.mark.parametrize(("count", "k"), SIZES)
def test_gpt_oss(count: int, k: int) -> None:
    from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter

    config = GptOssConfig(hidden_size=HIDDEN, num_local_experts=count, num_experts_per_tok=k)
    router = GptOssTopKRouter(config)
    agree(router, TopK(k=k), start(router))


@pytest.mark.parametrize(("groups", "kept", "k"), [(1, 1, 2), (4, 2, 3), (8, 4, 8), (8, 1, 4), (8, 8, 8)])
@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_deepseek_v3(groups: int, kept: int, k: int, spread: float) -> None:
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    config = DeepseekV3Config(
        hidden_size=HIDDEN,
        n_routed_experts=32,
        num_experts_per_tok=k,
        n_group=groups,
        topk_group=kept,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
    )
    router = DeepseekV3TopkRouter(config)
    hidden = start(router)
    bias = spread * torch.randn(32, generator=torch.Generator().manual_seed(5))
    router.get_buffer("e_score_correction_bias").copy_(bias)
    rule = ScoredTopK(k=k, score="sigmoid", bias=tuple(bias.tolist()), groups=groups, kept=kept)
    agree(router, rule, hidden, scaling=2.5)


@pytest.mark.parametrize(("groups", "kept", "k"), [(4, 2, 3), (8, 3, 6), (8, 1, 4)])
def test_deepseek_v2(groups: int, kept: int, k: int) -> None:
    from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter

    config = DeepseekV2Config(
        hidden_size=HIDDEN,
        num_attention_heads=4,  # must divide the hidden size; not used here
        n_routed_experts=32,
        num_experts_per_tok=k,
        topk_method="group_limited_greedy",
        n_group=groups,
        topk_group=kept,
        routed_scaling_factor=1.0,
    )
    router = DeepseekV2TopkRouter(config)
    hidden = start(router)
    with torch.inference_mode():
        _, weights, experts = router(hidden)
    wanted, unnormalised = by_id(experts, weights)
    rule = ScoredTopK(k=k, score="softmax", groups=groups, kept=kept, judged_by=1)
    found, got = ours(router, rule, hidden)
    assert found.equal(wanted)
    # DeepSeek-V2 does not renormalise; a Router's weights sum to 1.
    expected = unnormalised / unnormalised.sum(dim=1, keepdim=True)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
