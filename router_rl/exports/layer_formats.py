"""Formats for one mixture-of-experts layer: the weights, and `routing.py`, which needs torch alone.

The three formats write the same files. They differ in the runtime's contract that the export is checked with:

- `vllm` and `sglang`: `custom_routing_function(hidden_states, gating_output, topk, renormalize)` returns
  (weights [T, k] float32, ids [T, k] int32), as vLLM's `CustomRoutingRouter` and SGLang's `TopK` require;
- `transformers`: `put_into(model, layer)` folds a linear router into the stock gate, and makes the gate call
  any other router. It is checked in a small model whose architecture fits the router.

`handover` turns exports in folders layer-0, layer-1, ... into a patch of a model's files.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from experts import InputError

from ..routing import Router, RouterError, Routing
from . import safetensors
from .format import Format
from .verify_layers import verify_in_sglang, verify_in_transformers, verify_in_vllm

__all__ = [
    "SGLANG",
    "TRANSFORMERS",
    "VLLM",
    "load_layer",
    "put_into_small_model",
    "require_layer",
]

Verify: TypeAlias = Callable[[Callable[[Router, Path], None], Path, Sequence[Router]], dict[str, Any]]


def require_layer(router: Router, runtime: str) -> None:
    """Check that a router is deterministic and needs only a layer's hidden states.

    Args:
        router: any router.
        runtime: name of the runtime, for the error.

    Raises:
        RouterError: the router is stochastic, takes more than hidden states, or its scorer is not supported.
    """
    if router.stochastic:
        raise RouterError(f"{runtime} cannot run a stochastic router; export it as safetensors")
    if router.conditions:
        names = ", ".join(name.replace("_", " ") for name in router.conditions)
        raise RouterError(
            f"{runtime} passes a router only hidden states, and this one also takes the {names}: fix it at a "
            "value (export --at 0.1), or export it as onnx, pt2 or aoti"
        )
    if router.state:
        names = ", ".join(part.name for part in router.state)
        raise RouterError(
            f"{runtime} passes a router only hidden states, and this one also takes {names}: train it "
            "without, or export it as onnx, pt2 or aoti"
        )
    if not router.scorer.standalone:
        raise RouterError(
            f"{runtime} cannot run a {router.scorer.kind} router: export it as pt2 or safetensors, or "
            "distil it into a linear one (export --distil)"
        )


def load_layer(folder: Path) -> Any:
    """Load the `StandaloneRouter` of an export by the export's own `routing.py`.

    Args:
        folder: folder of the export.
    """
    spec = importlib.util.spec_from_file_location("exported_routing", folder / "routing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def _write(runtime: str, router: Router, folder: Path) -> None:
    """Write the weights, their description and `routing.py`, the module that reads both."""
    if runtime == "transformers" and importlib.util.find_spec("transformers") is None:
        problem = "is checked in transformers, which is not installed"
        raise InputError("format", "transformers", problem, "pip install 'router-rl[llm]'")
    require_layer(router, runtime)
    safetensors.write(router, folder, text=False)
    shutil.copyfile(Path(__file__).with_name("standalone.py"), folder / "routing.py")


def _load(folder: Path) -> Callable[..., Routing]:
    """Load the export by its own `routing.py`, and route by the contract of vLLM and SGLang."""
    router = load_layer(folder)

    def route(features: Tensor, *, action_mask: Tensor | None = None) -> Routing:
        router.alive.fill_(True) if action_mask is None else router.alive.copy_(action_mask)
        counted = int(router.fallbacks)
        weights, ids = _call(router, features)
        experts, inner, logits, fallback = router(features)
        if weights.dtype != torch.float32 or ids.dtype != torch.int32 or not weights.equal(inner):
            raise RouterError(f"{folder / 'routing.py'} breaks the runtime's contract")
        if int(router.fallbacks) - counted != int(fallback.sum()):
            raise RouterError(f"{folder / 'routing.py'} does not count its fallbacks")
        no_expert = experts == len(router.names)
        return Routing(torch.where(no_expert, experts, ids.long()), weights, logits, fallback)

    return route


def _call(router: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    return router.custom_routing_function(
        hidden_states=features, gating_output=None, topk=router.k, renormalize=True
    )


def _load_transformers(folder: Path) -> Callable[..., Routing]:
    """Put the router into a small model of transformers, run the model, and route by its gate."""
    router = load_layer(folder)
    gate, mode = put_into_small_model(router)

    @torch.no_grad()
    def route(features: Tensor) -> Routing:
        logits, weights, experts = gate(features)
        if mode == "attached":
            own, _, logits, fallback = router(features)
            return Routing(torch.where(own == len(router.names), own, experts), weights, logits, fallback)
        # Some gates do not define the order of the chosen experts.
        merit = logits if not hasattr(gate, "e_score_correction_bias") else logits.sigmoid() + router.bias
        order = merit.gather(1, experts).argsort(dim=1, descending=True, stable=True)
        fallback = torch.zeros(len(features), dtype=torch.bool)
        return Routing(experts.gather(1, order), weights.gather(1, order), logits, fallback)

    return route


def put_into_small_model(router: Any) -> tuple[Any, str]:
    """Put an exported layer's router into a small model of transformers and run the model.

    Args:
        router: the result of `load_layer`.

    Returns:
        the gate of the model's one layer, and the result of `put_into`: "folded" or "attached".
    """
    model = _small_model(router)
    mode = router.put_into(model, 0)
    with torch.no_grad():
        assert model(torch.arange(4).unsqueeze(0)).logits.isfinite().all()
    block = model.model.layers[0].mlp
    return block.router if hasattr(block, "router") else block.gate, mode


def _small_model(router: Any) -> Any:
    """A model of one layer with random weights; its stock gate computes what the router does, if one can."""
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


def _use_vllm(router: Router) -> str:
    return f"""from routing import load  # routing.py, in this folder: it needs torch alone
router = load(device="cpu")  # the layer's device; one router per layer
weights, ids = router.custom_routing_function(features, None, {router.rule.k}, True)
# Serving: ROUTER_RL_ROUTER=FOLDER vllm serve MODEL, with router-rl installed in vLLM's environment.
# FOLDER has layer-0, layer-1, ..., one export for each layer with experts; or it is this folder.
# router.alive[3] = False: never choose expert 3. router.fallbacks: number of rows that took the fallback."""


def _use_sglang(router: Router) -> str:
    return f"""from routing import load  # routing.py, in this folder: it needs torch alone
router = load(device="cpu")  # the layer's device; one router per layer
weights, ids = router.custom_routing_function(features, None, {router.rule.k}, True)
# Serving: ROUTER_RL_ROUTER=FOLDER python -m sglang.launch_server --model-path MODEL
# FOLDER has layer-N for each layer N with experts; or it is this folder. router-rl must be installed.
# router.alive[3] = False: never choose expert 3. router.fallbacks: number of rows that took the fallback."""


def _use_transformers(router: Router) -> str:
    return f"""from transformers import AutoModelForCausalLM
from routing import load  # routing.py, in this folder: it needs torch alone
model = AutoModelForCausalLM.from_pretrained("MODEL")  # {len(router.experts)} experts per layer
print(load().put_into(model, layer=0))  # one export per layer; `folded`: save_pretrained saves it
# For the model's files: `handover` makes a patch of exports in layer-0, layer-1, ...; `patch` applies it."""


def _format(runtime: str, verify: Verify, **facts: Any) -> Format:
    """A format whose `for_model` adds `verify`, the comparison in the runtime."""

    def for_model(model: Path) -> Format:
        if not (model / "config.json").is_file():
            fix = "give a folder that transformers saved"
            raise InputError("verify", str(model), "is not the folder of a model", fix)
        return replace(format, verify=partial(verify, format.write, model))

    format = Format(write=partial(_write, runtime), takes_state=False, for_model=for_model, **facts)
    return format


VLLM = _format("vLLM", verify_in_vllm, load=_load, usage=_use_vllm)
SGLANG = _format("SGLang", verify_in_sglang, load=_load, usage=_use_sglang)
TRANSFORMERS = _format(
    "transformers", verify_in_transformers, load=_load_transformers, usage=_use_transformers, guarded=False
)
