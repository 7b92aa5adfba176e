"""`patch`: trained routers into a mixture-of-experts model that is already there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .command import Command

__all__ = ["COMMAND", "patch"]


def patch(patch: Path, *, model: Path, out: Path | None = None, undo: Path | None = None) -> dict[str, Any]:
    """Write a patch's routers into a mixture-of-experts model of transformers; nothing else changes in it.

    Args:
        patch: the patch's folder, as handover writes it.
        model: the model's folder; its weights must be those that the routers were trained on.
        out: a folder for the patched copy; without it the model is patched in place.
        undo: a folder for the routers that the model has now, as a patch.
    """
    from ..exports.transformers import apply_patch, extract_patch

    if undo is not None:
        extract_patch(model, undo)
    found = apply_patch(patch, model, out).to_json()
    return {**found, "layers": list(found["layers"])}


COMMAND = Command(run=patch, positional=(("patch", Path, "a patch's folder, as `handover` writes it"),))
