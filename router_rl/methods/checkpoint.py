"""Checkpoints of a fit: safetensors files, written atomically, without pickle."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from experts import InputError
from experts.io.atomic import replacing
from experts.io.json_types import check_type

__all__ = ["Checkpoint"]

_SEPARATOR = "/"


class Checkpoint:
    """The latest checkpoint of one fit, in one file.

    Args:
        path: the file; None disables checkpoints.
        identity: identifies the run (method, seed, hyperparameters, table); `load` rejects a file of another
            run.
        seconds: minimum time between two saves.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any], seconds: float = 2.0) -> None:
        self._path = path
        self._identity = json.dumps(identity, sort_keys=True, default=str)
        self._seconds = seconds
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether enough time has passed to save again."""
        return self._path is not None and time.monotonic() - self._saved >= self._seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by a nested dict of tensors, numbers, strings and None."""
        if self._path is None:
            return
        tensors: dict[str, torch.Tensor] = {}
        plain = _split(state, "", tensors)
        text = json.dumps(plain)
        metadata = {"state": text, "identity": self._identity, "digest": _digest(text, tensors)}
        with replacing(self._path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None if there is none.

        Raises:
            InputError: the file is unreadable, was changed after it was written, or belongs to another run.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            if not self._path.is_file():  # a pipe would be read for ever
                raise ValueError("it is not a file")
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            text = metadata["state"]
            if metadata.get("digest", _digest(text, tensors)) != _digest(text, tensors):
                raise ValueError("it was changed after it was written")
            plain = json.loads(text)  # may hold infinities, and whole numbers of a generator's 128 bits
            check_type(plain, dict[str, Any], "state")
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                "checkpoint", str(self._path), f"cannot be read ({reason})", "delete it to start over"
            ) from error
        if metadata.get("identity") != self._identity:
            raise InputError(
                "checkpoint",
                str(self._path),
                "belongs to a run with other hyperparameters, table or seed",
                "use another --out, or the same hyperparameters as before",
            )
        return _join(plain, "", tensors)

    def clear(self) -> None:
        """Delete the file, after the run is finished."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _split(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Move tensors out of a nested dict; the rest is JSON with null in place of tensors."""
    if isinstance(value, dict):
        return {str(key): _split(item, f"{name}{_SEPARATOR}{key}", tensors) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return None
    return value


def _join(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if name in tensors:
        return tensors[name]
    if isinstance(value, dict):
        return {key: _join(item, f"{name}{_SEPARATOR}{key}", tensors) for key, item in value.items()}
    return value


def _digest(text: str, tensors: dict[str, torch.Tensor]) -> str:
    """Digest of a state: its plain values and its tensors by name."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
