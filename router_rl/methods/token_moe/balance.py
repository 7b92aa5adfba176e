"""Even out the load of trained layer routers with a bias an expert, layer by layer, as DeepSeek-V3 does."""

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
    """A copy whose biases bring each layer's loads on the training text to a target.

    A layer is balanced before the next is looked at, since its choices change what the next one sees.

    Args:
        pool: the frozen experts and the text.
        routers: top-k routers with one logit an expert.
        strength: 0 keeps the routers' own shares, 1 makes them even.
    """
    tail, sequences = pool.tail, pool.parts["train"]
    found = routers.copy()
    hidden = [sequences.states(rows) for rows in torch.arange(len(sequences)).split(16)]
    with torch.no_grad():
        for layer in range(tail.depth):
            seen = [tail.attend(layer, batch) for batch in hidden]
            logits = torch.cat([found.logits(layer, x).flatten(0, -2) for _, x in seen])
            own = _shares(found, logits)
            target = (1.0 - strength) * own + strength / tail.experts
            scorer = cast(LinearScorer, found.scorers[layer])
            scorer.bias.add_(balancing_bias(logits, found.rule, target))
            hidden = [h + tail.mix(layer, x, *found.choose(layer, x)) for h, x in seen]
    return found


def _shares(routers: LayerRouters, logits: Tensor) -> Tensor:
    experts = routers.rule.select(logits).experts
    return torch.nn.functional.one_hot(experts, len(routers.experts)).float().mean(dim=(0, 1))
