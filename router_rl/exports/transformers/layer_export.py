"""A router for one layer of a transformers model: a python file and weights that need torch alone.

`put_into(model, layer)` makes a linear router the stock gate's own parameters, and lets the gate ask any
other (see `standalone.py`). For the parity check a small model is made, of the architecture that the router
fits, and routed through. Such exports in folders layer-0, layer-1, ... are what `handover` makes a patch of a
model's files from.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts import InputError

from ...routing import Router, Routing
from .. import layer_module

__all__ = ["load", "put_into_small_model", "usage", "write"]


def write(router: Router, folder: Path) -> None:
    """Write the file and the weights.

    Raises:
        InputError: transformers is missing, in which the export is checked.
        RouterError: more than hidden states decide, or the scorer is one that layers have no use for.
    """
    if importlib.util.find_spec("transformers") is None:
        problem = "is checked in transformers, which is not installed"
        raise InputError("format", "transformers", problem, "pip install 'router-rl[llm]'")
    layer_module.require_layer(router, "transformers")
    layer_module.write(router, folder)


def load(folder: Path) -> Callable[..., Routing]:
    """Put the router into a small model of transformers, run the model, and route by its gate."""
    router = layer_module.load(folder)
    gate, how = put_into_small_model(router)

    @torch.no_grad()
    def route(features: Tensor) -> Routing:
        logits, weights, experts = gate(features)
        if how == "asked":
            own, _, logits, fallback = router(features)
            return Routing(torch.where(own == len(router.names), own, experts), weights, logits, fallback)
        # Some gates leave the order of the chosen open.
        merit = logits if not hasattr(gate, "e_score_correction_bias") else logits.sigmoid() + router.bias
        order = merit.gather(1, experts).argsort(dim=1, descending=True, stable=True)
        nobody = torch.zeros(len(features), dtype=torch.bool)
        return Routing(experts.gather(1, order), weights.gather(1, order), logits, nobody)

    return route


def usage(router: Router) -> str:
    """How to load it, as Python."""
    return f"""from transformers import AutoModelForCausalLM
from routing import load  # routing.py, beside this file: it needs torch alone
model = AutoModelForCausalLM.from_pretrained("MODEL")  # {len(router.experts)} experts a layer
print(load().put_into(model, layer=0))  # one export a layer; `folded`: save_pretrained keeps it
# Its files: `handover` makes a patch of such exports in layer-0, layer-1, ..., and `patch` applies it."""


def put_into_small_model(router: Any) -> tuple[Any, str]:
    """The gate of a small model that routes by an export's router, and how it does; the model has run."""
    model = _small_model(router)
    how = router.put_into(model, 0)
    with torch.no_grad():
        assert model(torch.arange(4).unsqueeze(0)).logits.isfinite().all()
    block = model.model.layers[0].mlp
    return block.router if hasattr(block, "router") else block.gate, how


def _small_model(router: Any) -> Any:
    """One layer with random weights, of the architecture whose gate computes what the router does, if any."""
    import transformers

    rule = router.rule
    linear = router.kind == "linear"
    if rule.get("score") == "sigmoid":
        kind = "dots1"
    else:
        kind = "gpt_oss" if linear and bool(router.layers[1].any()) else "mixtral"
    inputs = 8 if router.kind == "constant" else router.layers[0].shape[1]
    sizes: dict[str, Any] = {
        "hidden_size": inputs,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 8,
        "pad_token_id": 0,
        "num_local_experts": len(router.names),
        "num_experts_per_tok": router.k,
    }
    if kind == "dots1":
        sizes |= {
            "n_routed_experts": len(router.names),
            "n_shared_experts": 1,
            "moe_intermediate_size": 8,
            "first_k_dense_replace": 0,
            "n_group": rule["groups"],
            "topk_group": rule["kept"],
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(
            transformers.CONFIG_MAPPING[kind](**sizes)
        ).eval()
