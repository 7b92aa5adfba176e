"""Linear routers, one per layer: the gates of a mixture of experts.

The layers have one selection rule, or rules that differ in their selection biases, as DeepSeek-V3's do.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from experts.io.atomic import replacing

from ...routing import LinearScorer, RouterError, Selection

__all__ = ["LayerRouters"]


class LayerRouters(nn.Module):
    """Linear scorers of each layer's gate inputs, under one selection rule.

    Args:
        depth: L, number of layers.
        hidden: H, hidden size.
        rule: selection rule, or one for each layer.
        experts: names of the N experts.

    Attributes:
        rules: the selection rule of each layer.
        experts: names of the experts.
    """

    def __init__(
        self, depth: int, hidden: int, rule: Selection | Sequence[Selection], experts: Sequence[str]
    ) -> None:
        super().__init__()
        self.experts = tuple(experts)
        self.rules = _of_layers(rule, depth, len(experts))
        rule = self.rule
        self.scorers = nn.ModuleList(LinearScorer(hidden, rule.outputs(len(experts))) for _ in range(depth))

    @property
    def rule(self) -> Selection:
        """The selection rule of the first layer, which other layers share but for selection biases."""
        return self.rules[0]

    def logits(self, layer: int, x: Tensor) -> Tensor:
        """Return the logits [..., outputs] float32 of gate inputs [..., H]."""
        scorer = self.scorers[layer]
        return cast(Tensor, scorer(x.reshape(-1, x.shape[-1]))).reshape(*x.shape[:-1], -1)

    def choose(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the greedy experts [..., k] int64 and their weights [..., k] float32."""
        with torch.no_grad():
            return self.rules[layer].select(self.logits(layer, x))

    def copy(self, rule: Selection | Sequence[Selection] | None = None) -> LayerRouters:
        """Return a copy for further training, optionally under another selection rule.

        Args:
            rule: a rule with as many logits, or one for each layer; the same rules if None.

        Raises:
            RouterError: the rule needs another number of logits.
        """
        other = copy.deepcopy(self)
        if rule is not None:
            other.rules = _of_layers(rule, len(self.scorers), len(self.experts))
            first, given = other.rule, cast(LinearScorer, self.scorers[0]).experts
            needed = first.outputs(len(self.experts))
            if needed != given:
                raise RouterError(f"{first.name} selection needs {needed} logits, the routers have {given}")
        return other

    def save(self, folder: Path) -> None:
        """Write `routers.safetensors` for `handover`: weights, nonzero biases and the selection rules."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for layer, (weight, bias) in enumerate(self.pairs()):
            tensors[f"layers.{layer}.weight"] = weight.contiguous()
            if bias is not None and bias.any():
                tensors[f"layers.{layer}.bias"] = bias.contiguous()
        specs = [rule.spec() for rule in self.rules]
        rules = specs[0] if all(spec == specs[0] for spec in specs) else specs
        facts = {"select": json.dumps(rules), "experts": json.dumps(list(self.experts))}
        with replacing(folder / "routers.safetensors") as temporary:
            save_file(tensors, temporary, metadata={"format": "pt", **facts})

    def pairs(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return (weight [outputs, H], bias [outputs]) of each layer, float32, standardisation folded in.

        They apply to the gate's input in the stock model, after `post_attention_layernorm`.
        """
        folded = [cast(LinearScorer, scorer).folded() for scorer in self.scorers]
        return [(scorer.weight.detach(), scorer.bias.detach()) for scorer in folded]


def _of_layers(rule: Selection | Sequence[Selection], depth: int, experts: int) -> tuple[Selection, ...]:
    """The rule of each layer, checked."""
    rules = (rule,) * depth if isinstance(rule, Selection) else tuple(rule)
    assert len(rules) == depth, "one rule for each layer"
    for each in rules:
        each.check(experts)
    return rules
