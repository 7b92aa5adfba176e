"""Linear routers, of one layer or of several, as the tensors of llama.cpp's gates, in a GGUF file.

`blk.N.ffn_gate_inp.weight` [N, D] and, where the router has them, `blk.N.ffn_gate_inp.bias` and
`blk.N.exp_probs_b.bias` [N], all float32, under the names that llama.cpp gives a model's own gate; how they
are scored is in the metadata under its own keys. `patch --gguf` writes them into a model. llama.cpp has
neither a fallback nor a mask: a row that is not finite stays so. It reads a bias on the logits in gpt-oss
models only.
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
_LEAST_SUM = 6.103515625e-5  # below which llama.cpp does not renormalise


def tensors(router: Router, layer: int = 0) -> dict[str, Tensor]:
    """The tensors of one layer's gate by name, float32.

    Args:
        router: linear, with `hard`, `topk` or `scored_topk` selection.
        layer: its number, the N of `blk.N`.

    Raises:
        RouterError: the router does not fold into a gate of llama.cpp.
    """
    return _tensors(_gate(router), layer)


def write(router: Router, folder: Path, architecture: str | None = None) -> None:
    """Write one router as that of layer 0; see `write_layers`."""
    write_layers({0: router}, folder, architecture)


def write_layers(routers: Mapping[int, Router], folder: Path, architecture: str | None = None) -> None:
    """Write `router.gguf` with a gate for each layer, and the routers' description beside it.

    Args:
        routers: by the number of their layer, the N of `blk.N`.
        folder: made if it does not exist.
        architecture: of the model in llama.cpp, such as `gpt-oss`; None if it is not known.

    Raises:
        InputError: the package gguf is missing.
        RouterError: a router does not fold into a gate of llama.cpp, has a bias that the architecture does
            not read, or has another form than the first: llama.cpp has one form for all layers.
    """
    require_gguf("format", "gguf")
    import gguf

    gates = {layer: _gate(routers[layer]) for layer in sorted(routers)}
    router, gate = routers[min(gates)], gates[min(gates)]
    for layer, other in gates.items():
        if other.bias is not None and architecture != "gpt-oss":
            raise RouterError(
                f"the router of layer {layer} has a bias, which llama.cpp reads in gpt-oss models only: "
                "train it without (problem.scorer.bias false), distil it (export --distil), or name a "
                "gpt-oss model (export --verify MODEL.gguf)"
            )
        if _form(routers[layer], other) != _form(router, gate):
            raise RouterError(
                f"the router of layer {layer} has other experts, inputs, k, score or groups than that of "
                f"layer {min(gates)}, and llama.cpp has one form for all layers; train them alike"
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
        folder: of the export.

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
        raise InputError("router", str(path), "holds no exported router", "export one with --format gguf")
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
    """Read a layer of the file and route as llama.cpp's build_moe_ffn does, in float32."""
    gate = read_gates(folder)[layer]
    assert gate.k is not None
    k = gate.k

    def route(features: Tensor) -> Routing:
        logits = features.float() @ gate.weight.T + (0.0 if gate.bias is None else gate.bias)
        scores = logits.softmax(dim=-1) if gate.score == "softmax" else logits.sigmoid()
        merit = scores if gate.selection_bias is None else scores + gate.selection_bias
        experts = largest(_in_best_groups(merit, gate), k)
        weights = scores.gather(-1, experts)
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=_LEAST_SUM)
        return Routing(experts, weights, logits, torch.zeros(len(features), dtype=torch.bool))

    return route


def usage(router: Router) -> str:
    """Python that loads and calls the export."""
    return """from pathlib import Path
from router_rl.exports.gguf import read_gates
gates = read_gates(Path("."))  # weights and biases by layer, such as gates[0].weight
# Into a model: train-router patch --gguf MODEL.gguf --router . --out PATCHED.gguf
# llama.cpp has no fallback for rows that are not finite, and no mask."""


def _gate(router: Router) -> Gate:
    require_layer(router, "llama.cpp")
    otherwise = "export it as a module (vllm, sglang, onnx, pt2), or distil it (export --distil)"
    return fold(router, otherwise=otherwise)


def _form(router: Router, gate: Gate) -> tuple[object, ...]:
    """What must be equal in all layers."""
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
        model: of the file.

    Raises:
        InputError: it is no mixture of experts that llama.cpp runs as routers need it.
    """
    return read_gguf_model(model, "verify").host.architecture


def _for_model(model: Path) -> Format:
    write_for = partial(write, architecture=architecture_of(model))
    return replace(FORMAT, write=write_for, verify=partial(_verified, model))


def _verified(model: Path, routers: Sequence[Router]) -> dict[str, Any]:
    if not is_installed():
        return {"name": "contract only", "reason": "llama.cpp is not installed"}
    parity = verify_gguf(routers, model)
    if not parity.passed:
        raise RouterError(f"the router decides otherwise in llama.cpp: {parity.to_json()}")
    return parity.to_json()


FORMAT = Format(write=write, load=load, usage=usage, guarded=False, takes_state=False, for_model=_for_model)
