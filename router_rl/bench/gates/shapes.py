"""The gates that are timed: the sizes of four published models, ours, bare, and as transformers has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...routing.kernels import Gate, GateRule

__all__ = ["SHAPES", "Bare", "Shape", "gate_of", "theirs_of"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A published model's gate.

    Attributes:
        name: of the model.
        hidden: H.
        experts: E.
        rule: what it does with its logits.
        corrected: whether scores are corrected to choose by.
        biased: whether the linear layer has a bias.
        theirs: module and class of its router in transformers, below `transformers.models`.
        config: what that class reads of a configuration, beside what is the same for all.
    """

    name: str
    hidden: int
    experts: int
    rule: GateRule
    corrected: bool = False
    biased: bool = False
    theirs: tuple[str, str]
    config: dict[str, Any]


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            name="Mixtral-8x7B",
            hidden=4096,
            experts=8,
            rule=GateRule(k=2),
            theirs=("mixtral.modeling_mixtral", "MixtralTopKRouter"),
            config={"num_local_experts": 8},
        ),
        Shape(
            name="Qwen3-30B-A3B",
            hidden=2048,
            experts=128,
            rule=GateRule(k=8),
            theirs=("qwen3_moe.modeling_qwen3_moe", "Qwen3MoeTopKRouter"),
            config={"num_experts": 128, "norm_topk_prob": True},
        ),
        Shape(
            name="DeepSeek-V3",
            hidden=7168,
            experts=256,
            rule=GateRule(k=8, score="sigmoid", groups=8, kept=4, judged_by=2, scale=2.5),
            corrected=True,
            theirs=("deepseek_v3.modeling_deepseek_v3", "DeepseekV3TopkRouter"),
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
            theirs=("gpt_oss.modeling_gpt_oss", "GptOssTopKRouter"),
            config={"num_local_experts": 128},
        ),
    )
}


class Bare(nn.Module):
    """A linear layer and `torch.topk`: nothing weighed, no tie settled, nothing looked after."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.hidden, shape.experts, bias=shape.biased)
        self.k = shape.rule.k

    def forward(self, hidden: Tensor) -> Any:
        return self.gate(hidden).topk(self.k, dim=-1)


def weights_of(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Seeded weights of the size that trained gates have."""
    found = {"weight": torch.randn(shape.experts, shape.hidden, generator=generator) / shape.hidden**0.5}
    if shape.biased:
        found["bias"] = torch.randn(shape.experts, generator=generator) / 10
    if shape.corrected:
        found["correction"] = torch.rand(shape.experts, generator=generator) / 10
    return found


def gate_of(shape: Shape, weights: dict[str, Tensor], *, dispatch: bool = False) -> Gate:
    """Ours."""
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
    """The least that a gate can be."""
    bare = Bare(shape)
    bare.gate.load_state_dict({name: weights[name] for name in ("weight", "bias") if name in weights})
    return bare.eval()


def theirs_of(shape: Shape, weights: dict[str, Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The router of the same architecture in transformers; the import takes seconds."""
    from importlib import import_module
    from types import SimpleNamespace

    module, name = shape.theirs
    config = SimpleNamespace(hidden_size=shape.hidden, num_experts_per_tok=shape.rule.k, **shape.config)
    router = getattr(import_module(f"transformers.models.{module}"), name)(config)
    renamed = {"correction": "e_score_correction_bias"}
    router.load_state_dict({renamed.get(name, name): value for name, value in weights.items()})
    return router.eval()
