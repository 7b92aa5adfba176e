"""Trained routers as a patch of a few MB for an existing mixture-of-experts model.

A patch is `router_patch.safetensors` (the gates under their names in the model's files) and
`router_patch.json` (digests of the patch and of the weights it was made for). Only the gates' bytes change in
the model's files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from experts import InputError
from experts.io.atomic import replacing, writable_folder, write_json
from experts.moe import Checkpoint

from ...routing import RouterError
from .host import Host, host_of_folder
from .shards import digest_without, replace_tensors, stored_dtype
from .stock_gate import Gate, LayerRouter, fold

__all__ = ["Applied", "apply_patch", "extract_patch", "write_patch", "write_routers"]

SCHEMA_VERSION = 1
_WEIGHTS, _DESCRIPTION = "router_patch.safetensors", "router_patch.json"


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a patch changed.

    Attributes:
        model: the folder.
        layers: layers whose gates were written.
        experts_per_token: routed experts per token after the patch.
        patch_bytes: size of the patch's tensors.
        dtype: of the gates in the model's files.
        largest_rounding: largest absolute difference of a weight to the patch's float32; 0 where the files
            have float32.
        architecture: the class of stock transformers that loads the model, such as `Glm4MoeForCausalLM`.
        warnings: what a user should know before running the model.
    """

    model: str
    layers: tuple[int, ...]
    experts_per_token: int
    patch_bytes: int
    dtype: str
    largest_rounding: float
    architecture: str
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)


def write_patch(
    routers: Sequence[LayerRouter],
    model: Path | str,
    out: Path | str,
    *,
    norm_gains: Sequence[Tensor] | None = None,
    temperature: float = 1.0,
) -> Path:
    """Fold routers into gates and write them as a patch for a model; the model is not changed.

    Args:
        routers: one for each layer that has a gate, in order.
        model: the folder of the mixture they were trained on.
        out: the patch's folder.
        norm_gains: [H] each, the gain of an RMSNorm that routers were trained behind in place of the layer's
            norm (ones for a norm without gain); None where routers were trained on the stock gate's input.
        temperature: divides the logits.

    Returns:
        the patch's folder.

    Raises:
        RouterError: a router does not fold into this model's gates; says why.
        InputError: the model cannot be read, or `out` cannot be written.
    """
    host, weights = host_of_folder(model)
    if len(routers) != len(host.layers):
        raise RouterError(f"there are {len(routers)} routers but {len(host.layers)} layers have gates")
    if norm_gains is not None and len(norm_gains) != len(routers):
        raise RouterError(f"there are {len(norm_gains)} norm gains for {len(routers)} routers; give one each")
    gates: dict[int, Gate] = {}
    for at, layer in enumerate(host.layers):
        ratio = None if norm_gains is None else _ratio(norm_gains[at], weights, layer)
        gates[layer] = host.take(fold(routers[at], gain=ratio, temperature=temperature))
    ks = {gate.k for gate in gates.values()}
    if len(ks) > 1:
        raise RouterError(f"layers run {', '.join(sorted(map(str, ks)))} experts per token; use one number")
    return _write(Path(out), host, weights, _tensors(host, gates), ks.pop() or host.k)


def extract_patch(model: Path | str, out: Path | str) -> Path:
    """Write the present gates of a model as a patch, which undoes a later one.

    Args:
        model: the folder of a mixture of experts.
        out: the patch's folder.

    Returns:
        the patch's folder.
    """
    host, weights = host_of_folder(model)
    tensors = {name: weights.tensor(name) for name in _gate_names(host, weights)}
    return _write(Path(out), host, weights, tensors, host.k)


def apply_patch(patch: Path | str, model: Path | str, out: Path | str | None = None) -> Applied:
    """Write a patch's gates into a model's folder, or into a copy of it.

    All checks come first. Each file is replaced atomically; if the machine stops in between, the same call
    finishes the work.

    Args:
        patch: the patch's folder.
        model: the folder of the mixture it was made for.
        out: the folder of the patched copy; None patches the model in place.

    Raises:
        InputError: the patch is damaged, or was made for other weights; names both digests.
    """
    tensors, description = _read(Path(patch))
    host, weights = host_of_folder(model)
    if description["model_type"] != host.config.model_type:
        wanted = f"was made for {description['model_type']} but the model is {host.config.model_type}"
        raise InputError("patch", str(patch), wanted, "give the model that its routers were trained on")
    names = _gate_names(host, weights)
    if set(tensors) != set(names) or any(tensors[name].shape != weights.shapes[name] for name in names):
        raise InputError("patch", str(patch), "has other gates than the model", "give its own model")
    digest = digest_without(weights, names)
    if digest != description["applies_to"]:
        short = f"{description['applies_to'][:12]}, the model is {digest[:12]}"
        raise InputError("patch", str(patch), f"was made for the weights {short}", "give its own model")
    stored = {name: tensors[name].to(stored_dtype(weights, name)) for name in names}
    k = int(description["experts_per_token"])

    def into(folder: Path) -> None:
        for file in sorted({weights.files[name] for name in names}):
            here = {name: stored[name] for name in names if weights.files[name] == file}
            replace_tensors(folder / file, here)
        if k != host.k:
            fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            write_json(folder / "config.json", {**fields, "num_experts_per_tok": k})
        write_json(folder / _DESCRIPTION, description)

    if out is None:
        into(Path(model))
    else:
        _into_copy(Path(model), Path(out), into)
    return Applied(
        model=str(model if out is None else out),
        layers=host.layers,
        experts_per_token=k,
        patch_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        dtype=", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored.values()})),
        largest_rounding=max(float((stored[name].float() - tensors[name]).abs().max()) for name in names),
        architecture=host.architecture,
        warnings=host.warnings(k),
    )


def write_routers(
    routers: Sequence[LayerRouter],
    model: Path | str,
    out: Path | str | None = None,
    *,
    norm_gains: Sequence[Tensor] | None = None,
    temperature: float = 1.0,
) -> Applied:
    """Fold routers and write them into a model's folder or a copy of it: `write_patch`, then `apply_patch`.

    Args:
        routers: as for `write_patch`.
        model: as for `write_patch`.
        out: as for `apply_patch`.
        norm_gains: as for `write_patch`.
        temperature: as for `write_patch`.

    Returns:
        what was changed.

    Raises:
        RouterError: as for `write_patch`.
        InputError: as for both.
    """
    with tempfile.TemporaryDirectory() as folder:
        patch = write_patch(routers, model, folder, norm_gains=norm_gains, temperature=temperature)
        return apply_patch(patch, model, out)


def _ratio(gain: Tensor, weights: Checkpoint, layer: int) -> Tensor:
    """The router's gain over the host's; refuse where the host's norm zeroes an input of the router."""
    host = weights.tensor(f"model.layers.{layer}.post_attention_layernorm.weight").double()
    if gain.shape != host.shape:
        raise RouterError(f"the norm gain of layer {layer} is {list(gain.shape)}, not {list(host.shape)}")
    lost = (host == 0) & (gain != 0)
    if lost.any():
        raise RouterError(
            f"the norm of layer {layer} has a gain of 0 in {int(lost.sum())} places that the router uses; "
            "distil it"
        )
    return torch.where(host == 0, 0.0, gain.double() / host)


def _tensors(host: Host, gates: dict[int, Gate]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer, gate in gates.items():
        tensors[host.layout.gate_weight(layer)] = gate.weight.contiguous()
        if gate.bias is not None:
            tensors[host.layout.gate_bias(layer)] = gate.bias
        if gate.selection_bias is not None:
            tensors[host.layout.gate_selection_bias(layer)] = gate.selection_bias
    return tensors


def _gate_names(host: Host, weights: Checkpoint) -> list[str]:
    """Names of all tensors of the gates in the model's files."""
    named = [
        name(layer)
        for layer in host.layers
        for name in (host.layout.gate_weight, host.layout.gate_bias, host.layout.gate_selection_bias)
    ]
    return [name for name in named if name in weights]


def _write(out: Path, host: Host, weights: Checkpoint, tensors: dict[str, Tensor], k: int) -> Path:
    missing = [name for name in tensors if name not in weights]
    if missing:
        raise RouterError(f"the model's files have no {missing[0]}; save it again with transformers")
    folder = writable_folder("out", out)
    data = save({name: tensor.float().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    with replacing(folder / _WEIGHTS) as temporary:
        temporary.write_bytes(data)
    description = {
        "schema_version": SCHEMA_VERSION,
        "model_type": host.config.model_type,
        "architecture": host.architecture,
        "layers": list(host.layers),
        "experts": host.experts,
        "experts_per_token": k,
        "applies_to": digest_without(weights, _gate_names(host, weights)),
        "digest": hashlib.sha256(data).hexdigest(),
    }
    write_json(folder / _DESCRIPTION, description)
    return folder


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        data = (folder / _WEIGHTS).read_bytes()
        version = description["schema_version"]
        digests = (description["applies_to"], description["digest"])
    except OSError as error:
        raise InputError(
            "patch", str(folder), f"is no patch ({error.strerror})", "give a patch's folder"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "patch", str(folder), f"{_DESCRIPTION} is damaged", "write the patch again"
        ) from error
    if version != SCHEMA_VERSION:
        raise InputError(
            "patch", str(folder), f"has schema version {version}", f"this release reads {SCHEMA_VERSION}"
        )
    if hashlib.sha256(data).hexdigest() != digests[1]:
        raise InputError("patch", str(folder), f"{_WEIGHTS} is not what was written", "write the patch again")
    return load(data), description


def _into_copy(model: Path, out: Path, change: Callable[[Path], None]) -> None:
    """A changed copy of the model's folder, whole or not at all."""
    if out.exists():
        raise InputError(
            "out", str(out), "exists", "choose another folder, or leave it out to patch in place"
        )
    parent = writable_folder("out", out.absolute().parent)
    fresh = parent / f".{out.name}.copying"
    shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
    try:
        shutil.copytree(model, fresh)
        change(fresh)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
