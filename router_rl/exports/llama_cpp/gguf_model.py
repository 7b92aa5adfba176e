"""Read the gates of a mixture-of-experts model in a GGUF file, and write a copy with other gates.

The file is mapped into memory, never read as a whole. A copy differs only in the bytes of the gates and, if
the routers use another number of experts per token, in the value of `expert_used_count`.

Source: scores, weights and biases of each architecture: llama.cpp b11739, `src/models/*.cpp`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experts import InputError
from experts.io.atomic import replacing, writable_file
from experts.moe import Layout

from ..transformers.host import Host
from ..transformers.stock_gate import Gate

__all__ = ["GgufModel", "copy_with_gates", "field_value", "open_gguf", "read_gguf_model", "require_gguf"]

_WEIGHT, _BIAS, _SELECTION = (
    "blk.{}.ffn_gate_inp.weight",
    "blk.{}.ffn_gate_inp.bias",
    "blk.{}.exp_probs_b.bias",
)
_CHUNK = 1 << 20  # bytes compared at a time
_SOFTMAX, _SIGMOID = 1, 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_*


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What llama.cpp's code computes for an architecture.

    Attributes:
        score: score of the experts; None: the key `expert_gating_func` of the file.
        default_score: value of `expert_gating_func` if the file does not have the key.
        renormalises: whether the chosen experts' weights sum to 1; None: the key `expert_weights_norm`.
        bias: whether the gate has a bias on its logits.
    """

    score: Literal["softmax", "sigmoid"] | None = "softmax"
    default_score: int = _SIGMOID
    renormalises: bool | None = True
    bias: bool = False


_FORMS = {
    "llama": _Form(),  # Mixtral
    "qwen2moe": _Form(renormalises=False),
    "qwen3moe": _Form(),
    "gpt-oss": _Form(bias=True),
    "glm4moe": _Form(score=None, renormalises=None),
    "dots1": _Form(score=None, renormalises=None),
    "deepseek2": _Form(score=None, default_score=_SOFTMAX, renormalises=None),  # DeepSeek-V2 has no key
}


@dataclass(frozen=True, kw_only=True)
class GgufModel:
    """A model in a GGUF file.

    Attributes:
        path: path of the file.
        host: the function that its gates compute.
        layers: blocks that have a gate.
        gates: the gates' tensors by name: weights [E, H], biases [E].
        rounds: whether a tensor is not float32, so that llama.cpp rounds the activations it multiplies.
    """

    path: Path
    host: Host
    layers: tuple[int, ...]
    gates: dict[str, Tensor]
    rounds: bool

    def tensors(self, gates: Mapping[int, Gate]) -> dict[str, Tensor]:
        """Return gates as tensors, by their names in the file.

        Args:
            gates: gates by block, as `host.take` returns them.
        """
        tensors: dict[str, Tensor] = {}
        for layer, gate in gates.items():
            parts = ((_WEIGHT, gate.weight), (_BIAS, gate.bias), (_SELECTION, gate.selection_bias))
            tensors |= {name.format(layer): part for name, part in parts if part is not None}
        return tensors

    def gate(self, layer: int) -> Gate:
        """Return the gate of a block in the file.

        Args:
            layer: number of the block.
        """
        config = self.host.config
        return Gate(
            weight=self.gates[_WEIGHT.format(layer)],
            bias=self.gates.get(_BIAS.format(layer)),
            selection_bias=self.gates.get(_SELECTION.format(layer)),
            k=self.host.k,
            score=self.host.layout.score,
            groups=config.n_group,
            kept=config.topk_group,
        )


def require_gguf(field: str, value: object) -> None:
    """Raise InputError if the package gguf is not installed.

    Args:
        field: name of the option that needs the package, for the error.
        value: value of the option.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(field, value, "needs the package gguf", "pip install 'router-rl[export]'")


def open_gguf(path: Path, field: str) -> Any:
    """Return gguf's reader of a file, which maps it into memory.

    Args:
        path: path of the file.
        field: name of the option, for errors.

    Raises:
        InputError: the path is not a file, or the file is damaged.
    """
    import gguf

    fix = "give a GGUF file"
    if not path.is_file():  # opening a pipe would wait for its writer
        raise InputError(field, str(path), "is not a file", fix)
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # the library raises many types of errors for a damaged file
        problem = f"cannot be read as GGUF ({type(error).__name__}: {error})"
        raise InputError(field, str(path), problem, fix) from error


def field_value(reader: Any, name: str, default: Any) -> Any:
    """Return the value of a key of the metadata, or the default.

    Args:
        reader: a reader from `open_gguf`.
        name: name of the key.
        default: value for a file without the key.
    """
    field = reader.get_field(name)
    return default if field is None else field.contents()


def read_gguf_model(path: Path, field: str = "gguf") -> GgufModel:
    """Read the gates of a model, and how llama.cpp computes with them.

    Args:
        path: path of the file.
        field: name of the option, for errors.

    Raises:
        InputError: the file is not a GGUF file, is one part of several, or is not a mixture of experts whose
            gates a router can replace.
    """
    require_gguf(field, str(path))

    def refuse(problem: str, fix: str) -> InputError:
        return InputError(field, str(path), problem, fix)

    reader = open_gguf(path, field)
    architecture = str(field_value(reader, "general.architecture", ""))
    form = _FORMS.get(architecture)
    if form is None:
        known = ", ".join(sorted(name for name, each in _FORMS.items() if each.renormalises is not False))
        raise refuse(f"has the architecture {architecture!r}", f"give one of {known}")

    def value(key: str, default: Any) -> Any:
        return field_value(reader, f"{architecture}.{key}", default)

    if int(field_value(reader, "split.count", 1)) > 1:
        raise refuse("is one part of several", "join them with llama-gguf-split --merge")
    if form.renormalises is False:
        raise refuse(
            f"is a {architecture}: llama.cpp does not renormalise its weights, but a router does",
            "use a Mixtral, Qwen3-MoE or DeepSeek model (assemble --layers all makes a Mixtral of a Llama)",
        )
    names = {tensor.name: tensor for tensor in reader.tensors}
    blocks = range(int(value("block_count", 0)) - int(value("nextn_predict_layers", 0)))
    layers = tuple(block for block in blocks if _WEIGHT.format(block) in names)
    if not layers or not isinstance(value("expert_used_count", None), int):
        raise refuse(
            "has no gates, or no single number of experts per token", "give a mixture-of-experts model"
        )
    gate_names = [name.format(layer) for layer in layers for name in (_WEIGHT, _BIAS, _SELECTION)]
    gates = {name: _floats(names[name], refuse) for name in gate_names if name in names}
    experts, hidden = gates[_WEIGHT.format(layers[0])].shape
    gating = value("expert_gating_func", form.default_score)
    score = form.score or ("sigmoid" if gating == _SIGMOID else "softmax")
    layout = Layout(
        score=score,
        bias=form.bias,
        selection_bias=all(_SELECTION.format(layer) in gates for layer in layers),
    )
    config = SimpleNamespace(
        model_type=architecture,
        architectures=[architecture],
        norm_topk_prob=bool(form.renormalises or value("expert_weights_norm", False)),
        routed_scaling_factor=float(value("expert_weights_scale", 0.0)) or None,
        n_group=int(value("expert_group_count", 0)) or 1,
        topk_group=int(value("expert_group_used_count", 0)) or 1,
    )
    k = int(value("expert_used_count", 0))
    host = Host(config=config, layout=layout, layers=layers, experts=experts, k=k, hidden=hidden)
    rounds = any(tensor.tensor_type.name != "F32" for tensor in reader.tensors)
    return GgufModel(path=path, host=host, layers=layers, gates=gates, rounds=rounds)


def copy_with_gates(model: GgufModel, out: Path, gates: Mapping[str, Tensor], k: int) -> bool:
    """Write a copy of a model with other gates, as a whole or not at all.

    Args:
        model: the model to copy.
        out: the file to write. If the same copy exists, nothing is written; another file is not replaced.
        gates: tensors by name, with the shapes of the model's.
        k: experts per token.

    Returns:
        whether the file was written.

    Raises:
        InputError: `out` is another file or cannot be written.
    """
    import gguf

    if os.path.lexists(out):
        if out.is_file() and _is_copy(model, out, gates, k):
            return False
        raise InputError("out", str(out), "exists", "choose another file, or delete it")
    writable_file("out", out)
    with replacing(out) as temporary:
        shutil.copyfile(model.path, temporary)
        reader = gguf.GGUFReader(temporary, "r+")
        for tensor in reader.tensors:
            if tensor.name in gates:
                values = gates[tensor.name].numpy().astype(np.float32)
                tensor.data[...] = gguf.quantize(values, tensor.tensor_type)
        used = reader.fields[f"{model.host.config.model_type}.expert_used_count"]
        used.parts[used.data[0]][0] = k
        reader.data.flush()
    return True


def _is_copy(model: GgufModel, out: Path, gates: Mapping[str, Tensor], k: int) -> bool:
    """Whether a file is a copy of a model with these gates, and equal in every other byte."""
    if out.stat().st_size != model.path.stat().st_size:
        return False
    try:
        copy = read_gguf_model(out, "out")
    except InputError:
        return False
    if copy.host.k != k or not all(torch.equal(copy.gates[name], gate) for name, gate in gates.items()):
        return False
    reader, other = open_gguf(model.path, "gguf"), open_gguf(out, "out")
    used = reader.fields[f"{model.host.config.model_type}.expert_used_count"]
    changed = [(used.offset, used.offset + sum(part.nbytes for part in used.parts))]
    changed += [
        (each.data_offset, each.data_offset + each.n_bytes) for each in reader.tensors if each.name in gates
    ]
    ends = [0, *(end for _, end in sorted(changed))]
    starts = [*(start for start, _ in sorted(changed)), len(reader.data)]
    return all(
        np.array_equal(reader.data[at : min(at + _CHUNK, start)], other.data[at : min(at + _CHUNK, start)])
        for end, start in zip(ends, starts, strict=True)
        for at in range(end, start, _CHUNK)
    )


def _floats(tensor: Any, refuse: Any) -> Tensor:
    """A gate's tensor as float32; llama.cpp's own tools do not quantize gates."""
    import gguf

    kind = tensor.tensor_type
    if kind not in (
        gguf.GGMLQuantizationType.F32,
        gguf.GGMLQuantizationType.F16,
        gguf.GGMLQuantizationType.BF16,
    ):
        raise refuse(f"has the gate {tensor.name} in {kind.name}", "convert it again with gates in F32")
    return torch.from_numpy(np.array(gguf.dequantize(tensor.data, kind), dtype=np.float32))
