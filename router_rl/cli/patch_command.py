"""`patch`: write trained routers into an existing mixture-of-experts model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .command import Command

__all__ = ["COMMAND", "patch"]


def patch(patch: Path, *, model: Path, out: Path | None = None, undo: Path | None = None) -> dict[str, Any]:
    """Write a patch's routers into a mixture-of-experts model of transformers; nothing else in it changes.

    Args:
        patch: folder of the patch, written by handover.
        model: folder of the model; its weights must be those that the routers were trained on.
        out: folder for a patched copy; without it the model is patched in place.
        undo: folder for a patch with the model's current routers.
    """
    from ..exports.transformers import apply_patch, extract_patch

    if undo is not None:
        extract_patch(model, undo)
    applied = apply_patch(patch, model, out).to_json()
    return {**applied, "layers": list(applied["layers"])}


COMMAND = Command(run=patch, positional=(("patch", Path, "folder of a patch, written by `handover`"),))
