"""The gates of four published models: as `Gate`, as a linear layer with top-k, and as in transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...routing.kernels import Gate, GateRule

__all__ = ["SHAPES", "Bare", "Shape", "bare_of", "gate_of", "transformers_router_of", "weights_of"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A published model's gate.

    Attributes:
        name: of the model.
        hidden: H, hidden size.
        experts: E.
        rule: the selection of experts from logits.
        corrected: whether a correction bias is added to the scores for the selection only.
        biased: whether the linear layer has a bias.
        router_class: module below `transformers.models`, and class, of its router in transformers.
        config: the fields of the model's configuration that the class reads, beside the common ones.
    """

    name: str
    hidden: int
    experts: int
    rule: GateRule
    corrected: bool = False
    biased: bool = False
    router_class: tuple[str, str]
    config: dict[str, Any]


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            name="Mixtral-8x7B",
            hidden=4096,
            experts=8,
            rule=GateRule(k=2),
            router_class=("mixtral.modeling_mixtral", "MixtralTopKRouter"),
            config={"num_local_experts": 8},
        ),
        Shape(
            name="Qwen3-30B-A3B",
            hidden=2048,
            experts=128,
            rule=GateRule(k=8),
            router_class=("qwen3_moe.modeling_qwen3_moe", "Qwen3MoeTopKRouter"),
            config={"num_experts": 128, "norm_topk_prob": True},
        ),
        Shape(
            name="DeepSeek-V3",
            hidden=7168,
            experts=256,
            rule=GateRule(k=8, score="sigmoid", groups=8, kept=4, judged_by=2, scale=2.5),
            corrected=True,
            router_class=("deepseek_v3.modeling_deepseek_v3", "DeepseekV3TopkRouter"),
            config={
                "num_local_experts": 256,
                "n_routed_experts": 256,
                "norm_topk_prob": True,
                "n_group": 8,
                "topk_group": 4,
                "routed_scaling_factor": 2.5,
            },
        ),
        Shape(
            name="GPT-OSS-120B",
            hidden=2880,
            experts=128,
            rule=GateRule(k=4),
            biased=True,
            router_class=("gpt_oss.modeling_gpt_oss", "GptOssTopKRouter"),
            config={"num_local_experts": 128},
        ),
    )
}


class Bare(nn.Module):
    """A linear layer and `torch.topk`: no weights, no rule for ties, no fallback."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.hidden, shape.experts, bias=shape.biased)
        self.k = shape.rule.k

    def forward(self, hidden: Tensor) -> Any:
        """Values and ids [T, k] of the k highest logits of hidden [T, H]."""
        return self.gate(hidden).topk(self.k, dim=-1)


def weights_of(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights with the scale of a trained gate's.

    Args:
        shape: of the gate.
        generator: of the random numbers.
    """
    weights = {"weight": torch.randn(shape.experts, shape.hidden, generator=generator) / shape.hidden**0.5}
    if shape.biased:
        weights["bias"] = torch.randn(shape.experts, generator=generator) / 10
    if shape.corrected:
        weights["correction"] = torch.rand(shape.experts, generator=generator) / 10
    return weights


def gate_of(shape: Shape, weights: dict[str, Tensor], *, dispatch: bool = False) -> Gate:
    """The gate of this package.

    Args:
        shape: of the gate.
        weights: from `weights_of`.
        dispatch: whether it also sorts the rows by expert.
    """
    gate = Gate(
        shape.hidden,
        shape.experts,
        shape.rule,
        bias=shape.biased,
        correction=shape.corrected,
        dispatch=dispatch,
    )
    gate.load_state_dict(weights)
    return gate.eval()


def bare_of(shape: Shape, weights: dict[str, Tensor]) -> Bare:
    """The bare linear layer with top-k.

    Args:
        shape: of the gate.
        weights: from `weights_of`; a correction is not used.
    """
    bare = Bare(shape)
    bare.gate.load_state_dict({name: weights[name] for name in ("weight", "bias") if name in weights})
    return bare.eval()


def transformers_router_of(
    shape: Shape, weights: dict[str, Tensor]
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The router of the same model in transformers; its import takes seconds.

    Args:
        shape: of the gate.
        weights: from `weights_of`.

    Returns:
        a module of hidden [T, H] float32 that returns logits, weights and experts.
    """
    from importlib import import_module
    from types import SimpleNamespace

    module, name = shape.router_class
    config = SimpleNamespace(hidden_size=shape.hidden, num_experts_per_tok=shape.rule.k, **shape.config)
    router = getattr(import_module(f"transformers.models.{module}"), name)(config)
    renamed = {"correction": "e_score_correction_bias"}
    router.load_state_dict({renamed.get(name, name): value for name, value in weights.items()})
    return router.eval()
