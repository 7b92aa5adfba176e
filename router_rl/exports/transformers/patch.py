"""Write trained routers as a patch of a few MB for an existing mixture-of-experts model, and apply it.

Only the gates' bytes change in the model's files. A patch is applied completely or not at all
(`patch_journal.py`). An undo has the original gates and is never overwritten.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts import InputError
from experts.io.atomic import sync_file, sync_folder, writable_folder
from experts.io.temporaries import remove, remove_stale, temporary_beside
from experts.moe import Checkpoint

from ...routing import RouterError
from .host import Host
from .patch_files import DESCRIPTION, Patch, patch_in_memory, write_patch_files
from .patch_journal import JOURNAL, Change, recover_patch, run_change, write_durably
from .patch_target import PatchTarget, read_target
from .patch_undo import take_undo
from .shards import raw, replace_tensors
from .stock_gate import Gate, LayerRouter, fold

__all__ = ["Applied", "apply_patch", "extract_patch", "write_patch", "write_routers"]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """The result of applying a patch.

    Attributes:
        model: folder of the model.
        layers: layers whose gates were written.
        experts_per_token: routed experts per token after the patch.
        patch_bytes: size of the patch's tensors.
        dtype: dtype of the gates in the model's files.
        largest_rounding: largest absolute rounding error of a weight, from the patch's float32 to the files'
            dtype; 0 if the files have float32.
        architecture: the class of stock transformers that loads the model, such as `Glm4MoeForCausalLM`.
        warnings: warnings to read before running the model.
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
        """Return the fields as a dictionary."""
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
        model: folder of the mixture that they were trained on.
        out: folder of the patch.
        norm_gains: one [H] for each router that was trained on the output of its own RMSNorm instead of the
            layer's: the gain of that norm (ones if it has none). None if routers were trained on the stock
            gate's input.
        temperature: divides the logits.

    Returns:
        the folder of the patch.

    Raises:
        RouterError: a router does not fold into this model's gates; the message says why.
        InputError: the model cannot be read; `out` cannot be written, is inside the model or has an undo.
    """
    _check_apart({"model": model}, {"out": out})
    target = read_target(Path(model))
    tensors, k = _folded(routers, target, norm_gains, temperature)
    write_patch_files(Path(out), tensors, target.fields(k, restores=False))
    return Path(out)


def extract_patch(model: Path | str, out: Path | str) -> Path:
    """Write the original gates of a model as a patch, which undoes a later one.

    Args:
        model: folder of a mixture of experts that is not patched.
        out: folder of the patch. If it has an undo of this model, nothing is written.

    Returns:
        the folder of the patch.

    Raises:
        InputError: the model is patched, or `out` has other files.
    """
    _check_apart({"model": model}, {"out": out})
    take_undo(read_target(Path(model)), Path(out), "out")
    return Path(out)


def apply_patch(
    patch: Path | str, model: Path | str, out: Path | str | None = None, *, undo: Path | str | None = None
) -> Applied:
    """Write a patch's gates into a model's folder, or into a copy of it.

    All checks run first. Then the undo is written, then the model. If the process is killed, the same call
    finishes the patch. If the model already has these gates, nothing is changed.

    Args:
        patch: folder of the patch.
        model: folder of the mixture that it was made for.
        out: folder of the patched copy; None patches the model in place.
        undo: folder for a patch with the model's original gates; if it has an undo of this model, it is kept.

    Returns:
        a description of the change.

    Raises:
        InputError: the patch is damaged, or was made for other weights (the message has both digests); the
            undo cannot be written; an output folder is an input or exists.
    """
    _check_apart({"patch": patch, "model": model}, {"out": out, "undo": undo})
    recovered = recover_patch(model)
    try:
        target = read_target(Path(model))
        contents, stored = target.read("patch", Path(patch))
        messages = [] if recovered is None else [recovered]
        if target.record == {}:
            messages.append(f"{DESCRIPTION} of the model is damaged: its original routers are unknown")
        if undo is not None:
            messages += take_undo(target, Path(undo), "undo", (contents, stored))
        return _apply(target, contents, stored, out, messages)
    except InputError as error:
        if recovered is None:
            raise
        problem, _, fix = str(error).removeprefix(f"{error.field}={error.value!r}: ").rpartition("; ")
        raise InputError(error.field, error.value, f"{problem} ({recovered})", fix) from error


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
        a description of the change.

    Raises:
        RouterError: as for `write_patch`.
        InputError: as for `write_patch` and `apply_patch`.
    """
    _check_apart({"model": model}, {"out": out})
    target = read_target(Path(model))
    tensors, k = _folded(routers, target, norm_gains, temperature)
    contents = patch_in_memory(tensors, target.fields(k, restores=False))
    return _apply(target, *target.fitted("routers", Path(model), contents), out, [])


def _check_apart(inputs: Mapping[str, Path | str | None], outputs: Mapping[str, Path | str | None]) -> None:
    """Refuse an output that is an input or another output, or is inside a model."""
    for name, output in outputs.items():
        others = {**inputs, **{other: path for other, path in outputs.items() if other != name}}
        for other, path in others.items():
            if output is None or path is None:
                continue
            ours, theirs = Path(os.path.realpath(output)), Path(os.path.realpath(path))
            if ours == theirs or (theirs in ours.parents and other != "patch"):
                relation = "is" if ours == theirs else "lies inside"
                fix = "choose another folder"
                raise InputError(name, str(output), f"{relation} the folder of {other}", fix)


def _apply(
    target: PatchTarget,
    patch: Patch,
    stored: Mapping[str, Tensor],
    out: Path | str | None,
    messages: Sequence[str],
) -> Applied:
    """Write gates into the model or a copy, unless it already has them."""
    host, model = target.host, target.folder
    if out is None:
        applied = _is_applied(target, target, patch, stored)
        if not applied:
            run_change(model, _change(target, patch, stored))
    else:
        applied = Path(out).exists()
        if applied and not _is_copy(target, Path(out), patch, stored):
            fix = "choose another folder, or leave it out to patch in place"
            raise InputError("out", str(out), "exists", fix)
        if not applied:
            _into_copy(model, Path(out), _change(target, patch, stored))
    if applied:
        place = "model" if out is None else "copy"
        messages = [*messages, f"the {place} already has these routers; nothing was changed"]
    rounding = (stored[name].double() - patch.tensors[name].double() for name in stored)
    return Applied(
        model=str(model if out is None else out),
        layers=host.layers,
        experts_per_token=patch.k,
        patch_bytes=sum(tensor.numel() * tensor.element_size() for tensor in patch.tensors.values()),
        dtype=", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored.values()})),
        largest_rounding=max(float(difference.abs().max()) for difference in rounding),
        architecture=host.architecture,
        warnings=(*messages, *host.warnings(patch.k)),
    )


def _is_applied(
    original: PatchTarget, current: PatchTarget, patch: Patch, stored: Mapping[str, Tensor]
) -> bool:
    """Whether a model has a patch's gates, number of experts and record."""
    if not current.has(stored) or current.host.k != patch.k:
        return False
    expected = original.record_of(patch, stored)
    if expected is None or current.record is None:
        return expected is current.record
    return current.record.get("patch", current.record.get("digest")) == patch.digest


def _is_copy(target: PatchTarget, out: Path, patch: Patch, stored: Mapping[str, Tensor]) -> bool:
    """Whether a folder is the patched copy of the model."""
    try:
        copy = read_target(out)
    except InputError:
        return False
    same = copy.gates.keys() == target.gates.keys() and copy.applies_to == target.applies_to
    return same and _is_applied(target, copy, patch, stored)


def _change(target: PatchTarget, patch: Patch, stored: Mapping[str, Tensor]) -> Change:
    gates: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        if raw(tensor) != raw(target.gates[name]):
            gates.setdefault(target.weights.files[name], {})[name] = tensor
    record = target.record_of(patch, stored)
    texts: dict[str, str | None] = {"config.json": _configuration(target, patch.k)}
    if record is not None or target.record is not None:
        texts[DESCRIPTION] = None if record is None else json.dumps(record, indent=2) + "\n"
    return Change(gates=gates, gates_before=target.gates, texts=texts)


def _configuration(target: PatchTarget, k: int) -> str:
    """The model's config.json with another number of experts per token."""
    text = (target.folder / "config.json").read_text(encoding="utf-8")
    if k == target.host.k:
        return text
    changed, count = re.subn(r'("num_experts_per_tok"\s*:\s*)\d+', rf"\g<1>{k}", text)
    fields = {**json.loads(text), "num_experts_per_tok": k}
    if count == 1 and json.loads(changed) == fields:
        return changed  # keeps the spaces and the order of the keys
    return json.dumps(fields, indent=2) + "\n"


def _into_copy(model: Path, out: Path, change: Change) -> None:
    """Write a changed copy of the model's folder, as a whole or not at all."""
    parent = writable_folder("out", out.absolute().parent)
    remove_stale(out)
    fresh = temporary_beside(out, "new")
    try:
        shutil.copytree(model, fresh, ignore=shutil.ignore_patterns(f".{JOURNAL}.*"))
        for file, tensors in change.gates.items():
            (fresh / file).chmod((fresh / file).stat().st_mode | 0o200)
            replace_tensors(fresh / file, tensors)
        for name, text in change.texts.items():
            (fresh / name).unlink(missing_ok=True)
            if text is not None:
                write_durably(fresh / name, text)
        for path in fresh.rglob("*"):
            if path.is_file():
                sync_file(path)
        sync_folder(fresh)
        fresh.rename(out)
        sync_folder(parent)
    finally:
        remove(fresh)


def _folded(
    routers: Sequence[LayerRouter],
    target: PatchTarget,
    norm_gains: Sequence[Tensor] | None,
    temperature: float,
) -> tuple[dict[str, Tensor], int]:
    """Fold routers into the gates of a model; returns tensors by name and the experts per token."""
    host, weights = target.host, target.weights
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
    tensors = {name: tensor.float().contiguous() for name, tensor in _tensors(host, gates).items()}
    missing = [name for name in tensors if name not in weights]
    if missing:
        raise RouterError(f"the model's files have no {missing[0]}; save it again with transformers")
    return tensors, ks.pop() or host.k


def _ratio(gain: Tensor, weights: Checkpoint, layer: int) -> Tensor:
    """The router's gain divided by the host's; an error if the host's norm zeroes an input of the router."""
    host = weights.tensor(f"model.layers.{layer}.post_attention_layernorm.weight").double()
    if gain.shape != host.shape:
        raise RouterError(f"the norm gain of layer {layer} is {list(gain.shape)}, not {list(host.shape)}")
    zeroed = (host == 0) & (gain != 0)
    if zeroed.any():
        raise RouterError(
            f"the norm of layer {layer} has a gain of 0 for {int(zeroed.sum())} inputs of the router; "
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
