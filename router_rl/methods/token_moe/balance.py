"""Balance the load of trained layer routers with a bias per expert, layer by layer, as in DeepSeek-V3."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...routing import LinearScorer
from ..gates.bias_controller import balancing_bias

__all__ = ["balanced_routers"]


def balanced_routers(pool: TokenPool, routers: LayerRouters, strength: float = 1.0) -> LayerRouters:
    """Return a copy whose biases bring each layer's loads on the training text to a target.

    Layers are balanced in order, because the choices of one layer change the inputs of the next.

    Args:
        pool: frozen experts and text.
        routers: top-k routers with one logit per expert.
        strength: from 0 (the routers' own shares) to 1 (uniform shares).
    """
    tail, sequences = pool.tail, pool.parts["train"]
    balanced = routers.copy()
    hidden = [sequences.states(rows) for rows in torch.arange(len(sequences)).split(16)]
    with torch.no_grad():
        for layer in range(tail.depth):
            attended = [tail.attend(layer, batch) for batch in hidden]
            logits = torch.cat([balanced.logits(layer, x).flatten(0, -2) for _, x in attended])
            own = _shares(balanced, logits)
            target = (1.0 - strength) * own + strength / tail.experts
            scorer = cast(LinearScorer, balanced.scorers[layer])
            scorer.bias.add_(balancing_bias(logits, balanced.rule, target))
            hidden = [h + tail.mix(layer, x, *balanced.choose(layer, x)) for h, x in attended]
    return balanced


def _shares(routers: LayerRouters, logits: Tensor) -> Tensor:
    experts = routers.rule.select(logits).experts
    return torch.nn.functional.one_hot(experts, len(routers.experts)).float().mean(dim=(0, 1))
