"""Tensor names of gates and experts in each architecture, and the form of its gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..io.errors import unknown_name

__all__ = ["LAYOUTS", "Layout", "layout_of"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The names of one architecture's tensors and the form of its gate.

    Attributes:
        block: name of the mixture inside a layer, in files.
        module: name of the mixture inside a layer, in a loaded model.
        gate: name of the gate inside the mixture.
        parts: names of an expert's gate, up and down projections; empty if all experts are one tensor.
        score: from logits to weights: softmax or sigmoid, renormalised over the selected experts unless the
            configuration's `norm_topk_prob` is false.
        bias: whether the gate has a bias on its logits.
        selection_bias: whether the gate has a bias that affects the selection but not the weights.
    """

    block: str = "mlp"
    module: str = "mlp"
    gate: str = "gate"
    parts: tuple[str, str, str] | tuple[()] = ("gate_proj", "up_proj", "down_proj")
    score: Literal["softmax", "sigmoid"] = "softmax"
    bias: bool = False
    selection_bias: bool = False

    def gate_weight(self, layer: int) -> str:
        """Return the name in files of a layer's gate weight [E, H]."""
        return f"model.layers.{layer}.{self.block}.{self.gate}.weight"

    def gate_bias(self, layer: int) -> str:
        """Return the name in files of a layer's logit bias [E], if the architecture has one."""
        return f"model.layers.{layer}.{self.block}.{self.gate}.bias"

    def gate_selection_bias(self, layer: int) -> str:
        """Return the name in files of a layer's selection bias [E], if the architecture has one."""
        return f"model.layers.{layer}.{self.block}.{self.gate}.e_score_correction_bias"

    def gate_module(self, layer: int) -> str:
        """Return the name of a layer's gate in a loaded causal language model."""
        return f"model.layers.{layer}.{self.module}.{self.gate}"

    def expert(self, layer: int, expert: int) -> list[str]:
        """Return the names in files of an expert's gate, up and down projections."""
        return [f"model.layers.{layer}.{self.block}.experts.{expert}.{part}.weight" for part in self.parts]


_SIGMOID = Layout(score="sigmoid", selection_bias=True)

LAYOUTS: dict[str, Layout] = {
    "mixtral": Layout(block="block_sparse_moe", parts=("w1", "w3", "w2")),
    "olmoe": Layout(),
    "qwen2_moe": Layout(),
    "qwen3_moe": Layout(),
    "gpt_oss": Layout(gate="router", parts=(), bias=True),
    "deepseek_v3": _SIGMOID,
    "glm4_moe": _SIGMOID,
    "dots1": _SIGMOID,
    "solar_open": _SIGMOID,
}


def layout_of(config: Any) -> Layout:
    """Return the layout of a configuration's architecture.

    Args:
        config: a transformers configuration.

    Raises:
        InputError: the architecture is not supported.
    """
    kind = str(config.model_type)
    if kind not in LAYOUTS:
        raise unknown_name("model_type", kind, LAYOUTS)
    return LAYOUTS[kind]
