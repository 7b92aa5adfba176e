"""`patch`: write trained routers into an existing mixture-of-experts model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts import InputError

from .command import Command

__all__ = ["COMMAND", "patch"]


def patch(
    patch: Path | None = None,
    *,
    model: Path | None = None,
    out: Path | None = None,
    undo: Path | None = None,
    recover: bool = False,
    gguf: Path | None = None,
    router: Path | None = None,
) -> dict[str, Any]:
    """Write trained routers into a mixture-of-experts model; nothing else in it changes.

    A model of transformers takes a patch of `handover`. If the process is killed, the same command finishes
    the work. A GGUF file is copied with the routers in its gates: give --gguf, --router and --out.

    Args:
        patch: folder of the patch, written by handover.
        model: folder of the model; its weights must be those that the routers were trained on.
        out: folder for a patched copy; without it the model is patched in place. With --gguf: the file to
            write; another file that exists there is an error.
        undo: folder for a patch with the model's original routers; an undo of this model in it is kept,
            anything else in it is an error.
        recover: finish a patch of the model that was interrupted, or undo it; no patch is applied.
        gguf: GGUF file of the model that the routers were trained on; it is not changed.
        router: the routers for --gguf: the folder of an export, a folder of exports named layer-0, layer-1,
            ..., or a routers.safetensors.
    """
    from ..exports.transformers import apply_patch, recover_patch

    if gguf is not None:
        _only("gguf", {"patch": patch, "model": model, "undo": undo, "recover": recover or None})
        return _patch_gguf(gguf, router, out)
    if router is not None:
        raise InputError("router", str(router), "is written into a GGUF file", "give the model as --gguf")
    if model is None:
        fix = "give the folder of the model, or a GGUF file as --gguf"
        raise InputError("model", None, "is missing", fix)
    if recover:
        _only("recover", {"patch": patch, "out": out, "undo": undo})
        if not model.is_dir():
            raise InputError("model", str(model), "is not a folder", "give the folder of a model")
        return {"model": str(model), "recovered": recover_patch(model) or "no patch was interrupted"}
    if patch is None:
        raise InputError("patch", None, "is missing", "give the folder of a patch, or --recover")
    applied = apply_patch(patch, model, out, undo=undo).to_json()
    return {**applied, "layers": list(applied["layers"]), "warnings": list(applied["warnings"])}


def _only(option: str, others: Mapping[str, object]) -> None:
    """Raise InputError if another option is given beside one that does not use it."""
    for name, value in others.items():
        if value is not None:
            raise InputError(name, str(value), f"is not used with --{option}", "leave it out")


def _patch_gguf(gguf: Path, router: Path | None, out: Path | None) -> dict[str, Any]:
    from ..exports.llama_cpp import patch_gguf

    if router is None:
        raise InputError("router", None, "is missing", "give the folder of an export")
    if out is None:
        raise InputError("out", None, "is missing", "give the GGUF file to write")
    done = patch_gguf(_routers(router), gguf, out).to_json()
    return {**done, "layers": list(done["layers"]), "warnings": list(done["warnings"])}


def _routers(path: Path) -> list[Any]:  # their types import torch, and the parser executes imports for types
    """Return the routers of the layers, in order, from one export, one export per layer, or one file."""
    from ..exports.gguf import read_gates
    from ..routing import load_router
    from .handover_files import read_routers

    if (path / "router.gguf").is_file():
        return list(read_gates(path).values())
    if (path / "router.json").is_file():
        return [load_router(path)]
    return list(read_routers(path, "router"))


COMMAND = Command(
    run=patch,
    positional=(("patch", Path, "folder of a patch, written by `handover`"),),
    writes=("out", "undo"),
    changes=("model",),
)
