"""Write the undo of a patch: the original gates of a model that is not patched yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from experts import InputError

from .patch_files import Patch, write_undo_files
from .patch_target import PatchTarget

__all__ = ["take_undo"]


def take_undo(
    target: PatchTarget,
    folder: Path,
    field: str,
    coming: tuple[Patch, Mapping[str, Tensor]] | None = None,
) -> list[str]:
    """Write the original gates of a model as a patch, or check that a folder has them.

    Args:
        target: the model.
        folder: folder of the undo. An undo of this model in it is kept; any other content is an error.
        field: name of the option, for errors.
        coming: the patch to apply next, and its gates in the model's dtype. A model that has these gates is
            already patched, with or without a record.

    Returns:
        messages for the user.

    Raises:
        InputError: the model is patched and the folder has no undo of it; the folder has other files.
    """
    original = target.original(*coming) if coming is not None else target.original()
    patched = target.record is not None or original is None
    if not _is_taken(folder):
        if patched:
            problem = "cannot be written, because the model is already patched"
            fix = "leave it out, or give the undo from before the patch"
            raise InputError(field, str(folder), problem, fix)
        _write(target, folder, field)
        return []
    try:
        undo, gates = target.read(field, folder)
    except InputError as error:
        reason = str(error).removeprefix(f"{error.field}={error.value!r}: ")
        problem = f"exists and is not the undo of this model ({reason})"
        raise InputError(field, str(folder), problem, "choose another folder") from error
    digest = target.digest(gates, undo.k)
    if original is None and coming is not None and target.has(coming[1]) and not target.has(gates):
        return ["the model is already patched; the undo was kept, but there is no record to compare it with"]
    if digest != original:
        problem = "exists and does not have the original routers of this model"
        raise InputError(field, str(folder), problem, "leave it out" if patched else "choose another folder")
    return ["the model is already patched; the undo was kept"] if patched else []


def _is_taken(folder: Path) -> bool:
    """Whether a path exists and is not an empty folder."""
    if folder.is_dir():
        return any(folder.iterdir())
    return folder.exists() or folder.is_symlink()


def _write(target: PatchTarget, folder: Path, field: str) -> None:
    k = target.host.k
    if not 1 <= k <= target.host.experts:
        problem = f"config.json has num_experts_per_tok={k}, but layers have {target.host.experts} experts"
        raise InputError("model", str(target.folder), problem, "correct it")
    for name, tensor in target.gates.items():
        if not bool(torch.isfinite(tensor).all()):
            problem = f"has values in {name} that are not finite numbers"
            raise InputError("model", str(target.folder), problem, "copy the model again")
    write_undo_files(field, folder, target.gates, target.fields(k, restores=True))
