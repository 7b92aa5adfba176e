"""Plugin for vLLM: with ROUTER_RL_ROUTER=router/, every mixture-of-experts layer routes by its export.

vLLM calls `register` in each of its processes. `register` wraps the function that builds a layer: the layer
gets vLLM's own `CustomRoutingRouter` around the export, whatever router the model specifies. (vLLM ignores a
model's `custom_routing_function` if its gate is grouped, as in DeepSeek and GLM.) vLLM still does
expert-parallel load balancing and captures expert ids.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch

from .served_layers import ServedLayer, ServedRouters, layers_with_experts, served_routers

__all__ = ["register"]

_LOG = logging.getLogger("vllm.router_rl")  # a child of vLLM's own logger, which has a handler
_LAYERS = "vllm.model_executor.layers.fused_moe"
# Arguments that change the choice of experts after the router, or replace it.
_REFUSED = ("router", "zero_expert_type", "hash_indices_table", "fuse_shared_experts")


def register() -> None:
    """Make vLLM route by the exports that ROUTER_RL_ROUTER names; do nothing if it is not set.

    Raises:
        ValueError: the folder has no export.
        RuntimeError: this version of vLLM is not supported.
    """
    if served_routers() is None:
        return
    layer = importlib.import_module(f"{_LAYERS}.layer")
    build = getattr(layer, "FusedMoEFactory", None)
    if build is None or not hasattr(layer, "create_fused_moe_router"):
        version = getattr(sys.modules["vllm"], "__version__", "unknown")
        raise RuntimeError(f"router-rl does not support the layers of vLLM {version}; use 0.32")
    if hasattr(build, "router_rl"):  # vLLM may register more than once in a process
        return

    @functools.wraps(build)
    def factory(*args: Any, **kwargs: Any) -> Any:
        routers = served_routers()
        if routers is None:
            return build(*args, **kwargs)
        _separate_cache(routers)
        return _build(layer, build, routers, inspect.signature(build).bind(*args, **kwargs).arguments)

    factory.router_rl = True  # pyright: ignore[reportAttributeAccessIssue]
    for module in [value for name, value in sys.modules.items() if name.startswith("vllm.")]:
        if getattr(module, "FusedMoEFactory", None) is build:
            module.FusedMoEFactory = factory  # pyright: ignore[reportAttributeAccessIssue]
    worker: Any = importlib.import_module("vllm.v1.worker.worker_base").WorkerBase
    worker.router_rl_status = _status
    worker.router_rl_alive = _alive


def _build(layer: Any, build: Any, routers: ServedRouters, arguments: dict[str, Any]) -> Any:
    """Build a layer of a model with its export as the router."""
    prefix = arguments.get("prefix", "")
    refused = [name for name in _REFUSED if arguments.get(name)]
    if refused:
        raise ValueError(f"{prefix} has {refused[0]}, which an exported router does not replace")
    if not arguments.get("renormalize", True):
        raise ValueError(f"{prefix} does not renormalise weights (norm_topk_prob is false); a router does")
    numbers = re.findall(r"\.(\d+)\.", f".{prefix}.")
    if not numbers:
        raise ValueError(f"{prefix} has no layer number, so its export cannot be found")
    config = importlib.import_module("vllm.config").get_current_vllm_config().model_config.hf_text_config
    folder = routers.folder_of(int(numbers[-1]), layers_with_experts(config))
    scale = float(arguments.get("routed_scaling_factor", 1.0))
    served = routers.layer(
        folder,
        segments=routers.segments(folder, arguments["num_experts"], scale),
        scale=1.0 if arguments.get("apply_routed_scale_to_output", False) else scale,
        device=torch.get_default_device(),
        trims=True,
    )
    custom = importlib.import_module(f"{_LAYERS}.router.custom_routing_router").CustomRoutingRouter

    def create(**options: Any) -> Any:
        return custom(
            top_k=served.k,
            global_num_experts=options["global_num_experts"],
            custom_routing_function=served,
            eplb_state=options.get("eplb_state"),
        )

    own, layer.create_fused_moe_router = layer.create_fused_moe_router, create
    try:
        built = build(**{**arguments, "top_k": served.k})
    finally:
        layer.create_fused_moe_router = own
    _LOG.info("%s routes by %s", prefix, folder)
    return built


def _separate_cache(routers: ServedRouters) -> None:
    """Use one cache folder per router: on a CPU, graphs contain the router, but vLLM's key does not."""
    root = Path(importlib.import_module("vllm.envs").VLLM_CACHE_ROOT)
    root = root.parent if root.name.startswith("router_rl_") else root
    os.environ["VLLM_CACHE_ROOT"] = str(root / f"router_rl_{routers.digest()}")


def _served(worker: Any) -> dict[str, ServedLayer]:
    """The exported routers of a worker's model, by the name of their layer."""
    routers = {
        name: getattr(getattr(module, "router", None), "custom_routing_function", None)
        for name, module in worker.get_model().named_modules()
    }
    return {name: served for name, served in routers.items() if isinstance(served, ServedLayer)}


def _status(worker: Any) -> dict[str, Any]:
    """The status of each layer's router; called as `collective_rpc("router_rl_status")`."""
    return {name: served.status() for name, served in _served(worker).items()}


def _alive(worker: Any, alive: list[bool]) -> int:
    """Set which experts may be chosen in all layers; `collective_rpc("router_rl_alive", args=(mask,))`."""
    layers = _served(worker)
    for served in layers.values():
        served.set_alive(alive)
    return len(layers)
