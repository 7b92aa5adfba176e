"""A router with SGLang's top-k output: a python file and weights that need torch alone.

SGLang's expert layers take `StandardTopKOutput(topk_weights [T, k] float32, topk_ids [T, k] int32,
router_logits [T, N] float32)`. See `standalone.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..routing import Router, Routing
from . import layer_module

__all__ = ["load", "usage", "write"]


def write(router: Router, folder: Path) -> None:
    """Write the file and the weights.

    Raises:
        RouterError: more than hidden states decide, or the scorer is one that layers have no use for.
    """
    layer_module.require_layer(router, "SGLang")
    layer_module.write(router, folder)


def load(folder: Path) -> Callable[..., Routing]:
    """Load the file and route through the contract."""

    def call(router: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        output = router.topk_output(features)
        return output.topk_weights, output.topk_ids

    return layer_module.load_with(folder, call)


def usage(router: Router) -> str:
    """How to load it, as Python."""
    return """from routing import load  # routing.py, beside this file: it needs torch alone
router = load(device="cpu")  # the layer's device; one router a layer
topk_output = router.topk_output(features)  # (topk_weights, topk_ids, router_logits)
# In the model's forward, in place of its gate and TopK: self.experts(hidden_states, topk_output)
# router.alive[3] = False: never choose expert 3. router.fallbacks: how many rows took the fallback."""
