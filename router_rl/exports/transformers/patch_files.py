"""Write and read the files of a patch; reading checks a digest over all of them.

A patch is `router_patch.safetensors` (the gates under their names in the model's files) and
`router_patch.json`, whose digest covers itself and the tensors. An undo is a patch with the original gates of
a model. Its folder is written as a whole or not at all, and never replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from experts import InputError
from experts.io.atomic import replacing, sync_file, sync_folder, writable_folder, write_json
from experts.io.temporaries import remove, remove_stale, temporary_beside

__all__ = [
    "DESCRIPTION",
    "SCHEMA_VERSION",
    "WEIGHTS",
    "Patch",
    "patch_in_memory",
    "read_description",
    "read_patch",
    "seal",
    "write_patch_files",
    "write_undo_files",
]

SCHEMA_VERSION = 2
WEIGHTS, DESCRIPTION = "router_patch.safetensors", "router_patch.json"
_MAX_DESCRIPTION = 1 << 20  # bytes
_AGAIN = "write the patch again"


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Gates for a model.

    Attributes:
        tensors: tensors by their names in the model's files.
        model_type: `model_type` of the model's configuration.
        layers: layers that have a gate.
        experts: routed experts of a layer.
        k: routed experts per token.
        applies_to: digest of all tensors of the model except the gates.
        restores: whether these are the original gates of the model.
        digest: digest of the patch.
    """

    tensors: dict[str, Tensor]
    model_type: str
    layers: tuple[int, ...]
    experts: int
    k: int
    applies_to: str
    restores: bool
    digest: str


def seal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with `digest`, the SHA-256 of all of them.

    Args:
        fields: values that `json.dumps` accepts; a `digest` among them is replaced.
    """
    plain = {name: value for name, value in fields.items() if name != "digest"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return {**plain, "digest": hashlib.sha256(text.encode()).hexdigest()}


def read_patch(field: str, folder: Path, largest: int) -> Patch:
    """Read a patch and check its files.

    Args:
        field: name of the option, for errors.
        folder: folder of the patch.
        largest: maximum size of the tensors' file, in bytes.

    Raises:
        InputError: the folder has no patch, or the patch is damaged.
    """
    description = read_description(field, folder)
    size = _size(field, folder, WEIGHTS)
    if size > largest:
        problem = f"{WEIGHTS} has {size} bytes, but the model's gates have at most {largest}"
        raise InputError(field, str(folder), problem, "give a patch for this model")
    data = _read(field, folder, WEIGHTS)
    version = description["schema_version"]
    if hashlib.sha256(data).hexdigest() != description.get("digest" if version == 1 else "weights"):
        raise InputError(field, str(folder), f"{WEIGHTS} was changed after it was written", _AGAIN)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise InputError(field, str(folder), f"{WEIGHTS} is damaged ({error})", _AGAIN) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            problem = f"{WEIGHTS} has values in {name} that are not finite numbers"
            raise InputError(field, str(folder), problem, "train the routers again")
    return _patch(tensors, description)


def patch_in_memory(tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> Patch:
    """Return a patch without writing it.

    Args:
        tensors: tensors by their names in the model's files.
        fields: fields of the description, without the digests.
    """
    return _patch(dict(tensors), _contents(tensors, fields)[1])


def _patch(tensors: dict[str, Tensor], description: Mapping[str, Any]) -> Patch:
    return Patch(
        tensors=tensors,
        model_type=description["model_type"],
        layers=tuple(description["layers"]),
        experts=description["experts"],
        k=description["experts_per_token"],
        applies_to=description["applies_to"],
        restores=description.get("restores") is True,
        digest=description["digest"],
    )


def read_description(field: str, folder: Path) -> dict[str, Any]:
    """Read the description of a patch, of version 1 or 2, and check each field and the digest.

    Args:
        field: name of the option, for errors.
        folder: folder with `router_patch.json`: a patch or a patched model.

    Raises:
        InputError: the file does not exist or is damaged.
    """
    damaged = f"{DESCRIPTION} is damaged"
    if _size(field, folder, DESCRIPTION) > _MAX_DESCRIPTION:
        raise InputError(field, str(folder), damaged, _AGAIN)
    try:
        values: Any = json.loads(_read(field, folder, DESCRIPTION))
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(field, str(folder), damaged, _AGAIN) from error
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        problem = f"has schema version {version!r}"
        raise InputError(field, str(folder), problem, f"this release reads 1 and {SCHEMA_VERSION}")

    def check(name: str, good: bool) -> None:
        if not good:
            problem = f"{DESCRIPTION} has {name}={values.get(name)!r}"
            raise InputError(field, str(folder), problem[:200], _AGAIN)

    if version > 1 and seal(values) != values:
        raise InputError(field, str(folder), f"{DESCRIPTION} was changed after it was written", _AGAIN)
    check("model_type", isinstance(values.get("model_type"), str))
    check("experts", _count(values.get("experts")))
    check("experts_per_token", _count(values.get("experts_per_token")))
    check("experts_per_token", values["experts_per_token"] <= values["experts"])
    layers = values.get("layers")
    check("layers", isinstance(layers, list) and all(type(layer) is int for layer in layers))
    for name in ("applies_to", "digest"):
        check(name, isinstance(values.get(name), str))
    if version > 1:
        check("restores", isinstance(values.get("restores"), bool))
    return values


def write_patch_files(folder: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
    """Write a patch; an existing patch is replaced, but not an undo.

    Args:
        folder: the output folder; created if it does not exist.
        tensors: tensors by their names in the model's files.
        fields: fields of the description, without the digests.

    Raises:
        InputError: the folder has an undo or a `router_patch.json` of another tool, or cannot be written.
    """
    data, description = _contents(tensors, fields)
    if (folder / DESCRIPTION).exists() and not _holds(folder, data, description):
        _check_no_undo(folder)
    writable_folder("out", folder)
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(data)
    write_json(folder / DESCRIPTION, description)


def write_undo_files(
    field: str, folder: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> None:
    """Write an undo as a new folder, as a whole or not at all.

    Args:
        field: name of the option, for errors.
        folder: a folder that does not exist or is empty.
        tensors: as for `write_patch_files`.
        fields: as for `write_patch_files`.

    Raises:
        InputError: the folder cannot be written.
    """
    data, description = _contents(tensors, fields)
    writable_folder(field, folder.absolute().parent)
    remove_stale(folder)
    fresh = temporary_beside(folder, "new")
    try:
        fresh.mkdir()
        (fresh / WEIGHTS).write_bytes(data)
        (fresh / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        for path in (fresh / WEIGHTS, fresh / DESCRIPTION):
            sync_file(path)
        sync_folder(fresh)
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
        sync_folder(folder.absolute().parent)
    finally:
        remove(fresh)


def _contents(tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    for name, tensor in tensors.items():
        assert bool(torch.isfinite(tensor).all()), name
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    weights = hashlib.sha256(data).hexdigest()
    return data, seal({"schema_version": SCHEMA_VERSION, **fields, "weights": weights})


def _holds(folder: Path, data: bytes, description: Mapping[str, Any]) -> bool:
    """Whether a folder has exactly this patch."""
    weights = folder / WEIGHTS
    if not weights.is_file() or weights.stat().st_size != len(data) or weights.read_bytes() != data:
        return False
    try:
        return read_description("out", folder) == description
    except InputError:
        return False


def _check_no_undo(folder: Path) -> None:
    """Refuse a folder that may have the only copy of a model's original gates."""

    def refuse(problem: str) -> NoReturn:
        raise InputError("out", str(folder), problem, "choose another folder")

    try:
        description = read_description("out", folder)
    except InputError:
        refuse(f"has a {DESCRIPTION} that router-rl did not write")
    if description["schema_version"] == 1:
        refuse("has a patch of version 1, which may be the undo of a model")
    if description["restores"]:
        refuse("has the original routers of a model (an undo)")


def _count(value: object) -> bool:
    return type(value) is int and value >= 1


def _size(field: str, folder: Path, name: str) -> int:
    path = folder / name
    if folder.is_dir() and not path.is_file():
        raise _no_patch(field, folder, f"there is no {name}")
    try:
        return path.stat().st_size
    except OSError as error:
        raise _no_patch(field, folder, error.strerror) from error


def _read(field: str, folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise _no_patch(field, folder, error.strerror) from error


def _no_patch(field: str, folder: Path, why: str | None) -> InputError:
    return InputError(field, str(folder), f"is not a patch ({why})", "give the folder of a patch")
