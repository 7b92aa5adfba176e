"""Tiny mixture-of-experts models in several files, with a patch for each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from router_rl.exports.transformers import apply_patch, patch_journal
from router_rl.routing import Hard, LinearScorer, Router

__all__ = ["FORMS", "gates_of", "interrupt", "routers_like", "write_mixture", "write_sharded"]

_MIXTURES = Path(__file__).parent / "fixtures" / "version1" / "mixtures"
FORMS = {"single": "mixtral", "sharded": "deepseek"}
"""Models with all gates in one file, and with each gate in a file of its own, by the name of the fixture."""


def write_mixture(form: str, folder: Path) -> Path:
    """Write `model`, a `patch` for it and its `routers`.

    Args:
        form: one of `FORMS`.
        folder: is created.
    """
    source = _MIXTURES / FORMS[form]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("patch", "routers"):
        shutil.copytree(source / name, folder / name)
    (write_sharded if form == "sharded" else shutil.copytree)(source / "model", folder / "model")
    return folder


def write_sharded(source: Path, target: Path) -> None:
    """Write a copy of a model with each gate in a file of its own.

    Args:
        source: the model.
        target: the copy.
    """
    shutil.copytree(source, target)
    tensors: dict[str, Any] = {}
    for path in target.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    gates = sorted(name for name in tensors if ".gate." in name)
    assert len(gates) >= 3
    parts = [[name for name in tensors if name not in gates], *([name] for name in gates)]
    files = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    for file, names in zip(files, parts, strict=True):
        save_file({name: tensors[name] for name in names}, target / file, metadata={"format": "pt"})
    weight_map = {name: file for file, names in zip(files, parts, strict=True) for name in names}
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def routers_like(*weights: torch.Tensor) -> list[Router]:
    """Return top-1 routers for the layers of these models.

    Args:
        weights: [2, 8] of each of the two layers; random if there are none.
    """
    routers: list[Router] = []
    for weight in weights or (torch.randn(2, 8), torch.randn(2, 8)):
        scorer = LinearScorer(8, 2)
        with torch.no_grad():
            scorer.weight.copy_(weight)
        routers.append(Router(scorer, Hard(), ["a", "b"]).eval())
    return routers


class _Stopped(BaseException):
    """The process ends here."""


def interrupt(patch: Path, model: Path) -> None:
    """Apply a patch to a sharded model, and stop when two of its files are new.

    Args:
        patch: the patch.
        model: the model.
    """
    move, moved = patch_journal._move, []

    def stop(source: Path, target: Path) -> None:
        if len(moved) == 3:  # the placeholder and two of the files
            raise _Stopped
        moved.append(target.name)
        move(source, target)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(patch_journal, "_move", stop)
        with pytest.raises(_Stopped):
            apply_patch(patch, model)


def gates_of(model: Path) -> dict[str, bytes]:
    """Return the bytes of a model's gates by name."""
    return {
        name: tensor.numpy().tobytes()
        for path in sorted(model.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
        if ".gate." in name
    }
