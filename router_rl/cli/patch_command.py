"""`patch`: write trained routers into an existing mixture-of-experts model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experts import InputError

from .command import Command

__all__ = ["COMMAND", "patch"]


def patch(
    patch: Path | None = None,
    *,
    model: Path,
    out: Path | None = None,
    undo: Path | None = None,
    recover: bool = False,
) -> dict[str, Any]:
    """Write a patch's routers into a mixture-of-experts model of transformers; nothing else in it changes.

    If the process is killed, the same command finishes the work.

    Args:
        patch: folder of the patch, written by handover.
        model: folder of the model; its weights must be those that the routers were trained on.
        out: folder for a patched copy; without it the model is patched in place.
        undo: folder for a patch with the model's original routers; an undo that is there is kept.
        recover: finish a patch of the model that was interrupted, or undo it; no patch is applied.
    """
    from ..exports.transformers import apply_patch, recover_patch

    if recover:
        for name, value in (("patch", patch), ("out", out), ("undo", undo)):
            if value is not None:
                raise InputError(name, str(value), "is not used with --recover", "leave it out")
        if not model.is_dir():
            raise InputError("model", str(model), "is not a folder", "give the folder of a model")
        return {"model": str(model), "recovered": recover_patch(model) or "no patch was interrupted"}
    if patch is None:
        raise InputError("patch", None, "is missing", "give the folder of a patch, or --recover")
    applied = apply_patch(patch, model, out, undo=undo).to_json()
    return {**applied, "layers": list(applied["layers"]), "warnings": list(applied["warnings"])}


COMMAND = Command(
    run=patch,
    positional=(("patch", Path, "folder of a patch, written by `handover`"),),
    writes=("out", "undo"),
    changes=("model",),
)
