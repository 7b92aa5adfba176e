"""A router as vLLM's `custom_routing_function`: a python file and weights that need torch alone.

vLLM calls it for each mixture-of-experts layer as (hidden_states [T, D], gating_output [T, N], topk,
renormalize) and takes (topk_weights [T, k] float32, topk_ids [T, k] int32). See `standalone.py`.
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
    layer_module.require_layer(router, "vLLM")
    layer_module.write(router, folder)


def load(folder: Path) -> Callable[..., Routing]:
    """Load the file and route through the contract."""

    def call(router: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        return router.custom_routing_function(
            hidden_states=features, gating_output=None, topk=router.k, renormalize=True
        )

    return layer_module.load_with(folder, call)


def usage(router: Router) -> str:
    """How to load it, as Python."""
    return f"""from routing import load  # routing.py, beside this file: it needs torch alone
router = load(device="cpu")  # the layer's device; one router a layer
weights, ids = router.custom_routing_function(features, None, {router.rule.k}, True)
# In the model: FusedMoE(..., top_k={router.rule.k}, custom_routing_function=router.custom_routing_function)
# router.alive[3] = False: never choose expert 3. router.fallbacks: how many rows took the fallback."""
