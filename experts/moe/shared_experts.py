"""Shared experts of a mixture's layer: every token runs them beside those that the router selects.

DeepSeekMoE (Dai et al. 2024, section 3.2, https://arxiv.org/abs/2401.06066); Qwen2-MoE scales its shared
expert by the sigmoid of a logit of its own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["shared_experts"]


class _Scaled(nn.Module):
    """A shared expert times the sigmoid of its own linear gate."""

    def __init__(self, expert: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.expert = expert
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., H] to [..., H]."""
        scale: Tensor = self.gate(x).sigmoid()
        output: Tensor = self.expert(x)
        return scale * output


def shared_experts(layer: nn.Module) -> nn.Module | None:
    """Return the module from a gate's input [..., H] to what the shared experts add, or None without them.

    Args:
        layer: a decoder layer of transformers.
    """
    block: Any = getattr(layer, "mlp", None)
    several: Any = getattr(block, "shared_experts", None)
    if isinstance(several, nn.Module):
        return several
    one, gate = getattr(block, "shared_expert", None), getattr(block, "shared_expert_gate", None)
    return _Scaled(one, gate) if isinstance(one, nn.Module) and isinstance(gate, nn.Module) else None
