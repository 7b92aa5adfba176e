"""Plugin for SGLang: with ROUTER_RL_ROUTER=router/, every mixture-of-experts layer routes by its export.

SGLang calls `register` in each of its processes. The layers keep their `TopK`, whose `select_experts` calls
the export as `custom_routing_function`. SGLang still does padding, the mapping to physical experts and the
recording of expert ids. Layer N uses the export layer-N.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .served_layers import ServedRouters, served_routers

__all__ = ["register"]

_TOPK = "sglang.srt.layers.moe.topk"


def register() -> None:
    """Make SGLang route by the exports that ROUTER_RL_ROUTER names; do nothing if it is not set.

    SGLang only logs an error of `register`. So exports are read when a layer is built, where an error ends
    the process.
    """
    hooks = importlib.import_module("sglang.srt.plugins.hook_registry")
    hooks.HookRegistry.register(f"{_TOPK}.TopK.__init__", _build, hooks.HookType.AROUND)


def _build(build: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Build a layer's `TopK` with its export."""
    routers = served_routers()
    if routers is None:
        return build(*args, **kwargs)
    arguments = inspect.signature(build).bind(*args, **kwargs).arguments
    layer, scale = int(arguments["layer_id"]), arguments.get("routed_scaling_factor") or 1.0
    if not arguments.get("renormalize", True):
        raise ValueError(
            f"layer {layer} does not renormalise weights (norm_topk_prob is false); a router does"
        )
    folder = _folder(routers, layer)
    k = routers.settings(folder)["select"].get("k", 1)
    segments = int(scale) if arguments["top_k"] == k * scale else 1
    if arguments["top_k"] != k * segments:
        raise ValueError(
            f"layer {layer} runs {arguments['top_k']} experts per token but {folder} chooses {k}: add "
            f"--json-model-override-args '{{\"num_experts_per_tok\": {k}}}'"
        )
    served = routers.layer(folder, segments=segments, scale=1.0, device=torch.get_default_device())
    standard = importlib.import_module(_TOPK).TopKOutputFormat.STANDARD  # the others choose experts elsewhere
    replaced = {"use_grouped_topk": False, "correction_bias": None, "output_format": standard}
    return build(**{**arguments, **replaced, "custom_routing_function": served})


def _folder(routers: ServedRouters, layer: int) -> Path:
    if not routers.layers:
        return routers.folder
    if layer not in routers.layers:
        present = ", ".join(map(str, routers.layers))
        raise ValueError(f"{routers.folder} has routers for layers {present}, but none for layer {layer}")
    return routers.layers[layer]
