"""Write linear routers of one or several layers as llama.cpp's gates, in a GGUF file.

The tensors are `blk.N.ffn_gate_inp.weight` [E, D] and, if the router has them, `blk.N.ffn_gate_inp.bias` and
`blk.N.exp_probs_b.bias` [E], all float32: llama.cpp's names for a model's own gate. The metadata has the
score under llama.cpp's keys. `patch --gguf` writes the gates into a model. llama.cpp has no fallback for
non-finite rows and no mask. It reads a bias on the logits only in gpt-oss models.
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-graph.cpp (build_moe_ffn)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts import InputError
from experts.io.atomic import replacing, write_json

from ..routing import Router, RouterError, Routing
from ..routing.selection.topk import largest
from .format import Format
from .layer_formats import require_layer
from .llama_cpp.gguf_model import field_value, open_gguf, read_gguf_model, require_gguf
from .llama_cpp.gguf_parity import verify_gguf
from .llama_cpp.llama_runtime import is_installed
from .transformers.stock_gate import Gate, fold

__all__ = [
    "FORMAT",
    "architecture_of",
    "load",
    "read_gates",
    "tensors",
    "usage",
    "write",
    "write_layers",
]

_ARCHITECTURE = "router"
_GATE = re.compile(r"blk\.(\d+)\.ffn_gate_inp\.weight")
_MIN_SUM = 6.103515625e-5  # llama.cpp clamps the sum of the weights to this minimum


def tensors(router: Router, layer: int = 0) -> dict[str, Tensor]:
    """Return the float32 tensors of one layer's gate, by name.

    Args:
        router: a linear router with `hard`, `topk` or `scored_topk` selection.
        layer: layer number, the N of `blk.N`.

    Raises:
        RouterError: the router does not fold into a gate of llama.cpp.
    """
    return _tensors(_gate(router), layer)


def write(router: Router, folder: Path, architecture: str | None = None) -> None:
    """Write one router as the gate of layer 0; see `write_layers`."""
    write_layers({0: router}, folder, architecture)


def write_layers(routers: Mapping[int, Router], folder: Path, architecture: str | None = None) -> None:
    """Write `router.gguf` with a gate for each layer, and the routers' description.

    Args:
        routers: routers by layer number, the N of `blk.N`.
        folder: the output folder; created if it does not exist.
        architecture: architecture of the model in llama.cpp, such as `gpt-oss`; None if it is not known.

    Raises:
        InputError: the package gguf is missing.
        RouterError: a router does not fold into a gate of llama.cpp, has a bias that the architecture does
            not read, or differs in form from the first: llama.cpp has one form for all layers.
    """
    require_gguf("format", "gguf")
    import gguf

    gates = {layer: _gate(routers[layer]) for layer in sorted(routers)}
    router, gate = routers[min(gates)], gates[min(gates)]
    for layer, other in gates.items():
        if other.bias is not None and architecture != "gpt-oss":
            raise RouterError(
                f"the router of layer {layer} has a bias, which llama.cpp reads only in gpt-oss models: "
                "train it without (problem.scorer.bias false), distil it (export --distil), or give a "
                "gpt-oss model (export --verify MODEL.gguf)"
            )
        if _form(routers[layer], other) != _form(router, gate):
            raise RouterError(
                f"the router of layer {layer} differs from that of layer {min(gates)} in experts, inputs, k, "
                "score or groups, but llama.cpp has one form for all layers; train all routers with the same"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "router.gguf") as temporary:
        writer = gguf.GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_name("router")
        writer.add_block_count(max(gates) + 1)
        writer.add_embedding_length(gate.weight.shape[1])
        writer.add_expert_count(len(router.experts))
        writer.add_expert_used_count(router.rule.k)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType[gate.score.upper()])
        writer.add_expert_weights_norm(True)
        writer.add_expert_weights_scale(1.0)
        writer.add_array(f"{_ARCHITECTURE}.expert_names", list(router.experts))
        if gate.groups > 1:
            writer.add_expert_group_count(gate.groups)
            writer.add_expert_group_used_count(gate.kept)
        for layer, other in gates.items():
            for name, value in _tensors(other, layer).items():
                writer.add_tensor(name, value.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    described = {"schema_version": 1, "format": "gguf", "layers": list(gates), **router.spec()}
    write_json(folder / "router.json", described)


def read_gates(folder: Path) -> dict[int, Gate]:
    """Read the gates of an export, by layer.

    Args:
        folder: folder of the export.

    Raises:
        InputError: `router.gguf` is not the file of an export.
    """
    require_gguf("router", str(folder))
    path = folder / "router.gguf"
    reader = open_gguf(path, "router")

    def field_of(name: str, default: int) -> int:
        return int(field_value(reader, f"{_ARCHITECTURE}.{name}", default))

    stored = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    layers = sorted(int(m.group(1)) for name in stored if (m := _GATE.fullmatch(name)))
    if field_value(reader, "general.architecture", "") != _ARCHITECTURE or not layers:
        raise InputError("router", str(path), "has no exported router", "export one with --format gguf")
    sigmoid = field_of("expert_gating_func", 1) == 2  # gguf.ExpertGatingFuncType.SIGMOID
    return {
        layer: Gate(
            weight=stored[f"blk.{layer}.ffn_gate_inp.weight"],
            bias=stored.get(f"blk.{layer}.ffn_gate_inp.bias"),
            k=field_of("expert_used_count", 0),
            score="sigmoid" if sigmoid else "softmax",
            selection_bias=stored.get(f"blk.{layer}.exp_probs_b.bias"),
            groups=field_of("expert_group_count", 1),
            kept=field_of("expert_group_used_count", 1),
        )
        for layer in layers
    }


def load(folder: Path, layer: int = 0) -> Callable[..., Routing]:
    """Return a function that routes as llama.cpp's build_moe_ffn does, in float32, by a layer of the file."""
    gate = read_gates(folder)[layer]
    assert gate.k is not None
    k = gate.k

    def route(features: Tensor) -> Routing:
        logits = features.float() @ gate.weight.T + (0.0 if gate.bias is None else gate.bias)
        scores = logits.softmax(dim=-1) if gate.score == "softmax" else logits.sigmoid()
        merit = scores if gate.selection_bias is None else scores + gate.selection_bias
        experts = largest(_in_best_groups(merit, gate), k)
        weights = scores.gather(-1, experts)
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=_MIN_SUM)
        return Routing(experts, weights, logits, torch.zeros(len(features), dtype=torch.bool))

    return route


def usage(router: Router) -> str:
    """Return Python that loads the export."""
    return """from pathlib import Path
from router_rl.exports.gguf import read_gates
gates = read_gates(Path("."))  # weights and biases by layer, such as gates[0].weight
# Write them into a model: train-router patch --gguf MODEL.gguf --router . --out PATCHED.gguf
# llama.cpp has no fallback for non-finite rows, and no mask."""


def _gate(router: Router) -> Gate:
    require_layer(router, "llama.cpp")
    if not router.rule.normalised:
        raise RouterError(f"the format gguf holds weights that sum to 1; those of {router.rule.name} do not")
    otherwise = "export it as a module (vllm, sglang, onnx, pt2), or distil it (export --distil)"
    return fold(router, otherwise=otherwise)


def _form(router: Router, gate: Gate) -> tuple[object, ...]:
    """The properties that must be equal in all layers."""
    return (router.experts, gate.weight.shape, gate.k, gate.score, gate.groups, gate.kept)


def _tensors(gate: Gate, layer: int) -> dict[str, Tensor]:
    tensors = {f"blk.{layer}.ffn_gate_inp.weight": gate.weight}
    if gate.bias is not None:
        tensors[f"blk.{layer}.ffn_gate_inp.bias"] = gate.bias
    if gate.selection_bias is not None:
        tensors[f"blk.{layer}.exp_probs_b.bias"] = gate.selection_bias
    return tensors


def _in_best_groups(merit: Tensor, gate: Gate) -> Tensor:
    if gate.groups == 1:
        return merit
    grouped = merit.unflatten(-1, (gate.groups, -1))
    best = largest(grouped.sort(dim=-1, descending=True).values[..., :2].sum(dim=-1), gate.kept)
    kept = torch.zeros(grouped.shape[:-1], dtype=torch.bool).scatter(-1, best, True)
    return torch.where(kept.unsqueeze(-1), grouped, float("-inf")).flatten(-2)


def architecture_of(model: Path) -> str:
    """Return the architecture of a GGUF model, such as `gpt-oss`.

    Args:
        model: path of the file.

    Raises:
        InputError: the file is not a mixture of experts whose gates a router can replace.
    """
    return read_gguf_model(model, "verify").host.architecture


def _for_model(model: Path) -> Format:
    write_for = partial(write, architecture=architecture_of(model))
    return replace(FORMAT, write=write_for, verify=partial(_verify, model))


def _verify(model: Path, routers: Sequence[Router]) -> dict[str, Any]:
    if not is_installed():
        return {"name": "contract only", "reason": "llama.cpp is not installed"}
    parity = verify_gguf(routers, model)
    if not parity.passed:
        raise RouterError(f"the router decides differently in llama.cpp: {parity.to_json()}")
    return parity.to_json()


FORMAT = Format(write=write, load=load, usage=usage, guarded=False, takes_state=False, for_model=_for_model)
