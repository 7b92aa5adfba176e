"""Digest the bytes of safetensors files, and replace tensors without reading the rest.

The format is eight bytes of header length, a JSON header with each tensor's offsets, and the tensors
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts.moe import Checkpoint

from ...routing import RouterError

__all__ = ["digest_without", "names_in", "raw", "replace_tensors", "sha256_of", "stored_dtype"]

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_CHUNK = 1 << 24


def digest_without(weights: Checkpoint, left_out: Iterable[str]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of all tensors except some, sorted by name.

    Args:
        weights: the model's files.
        left_out: names of tensors to skip.
    """
    skipped = set(left_out)
    digest = hashlib.sha256()
    headers = {file: _header(weights.folder / file) for file in set(weights.files.values())}
    for name in sorted(set(weights.files) - skipped):
        file = weights.files[name]
        start, header = headers[file]
        entry = header[name]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        first, last = entry["data_offsets"]
        with (weights.folder / file).open("rb") as stream:
            stream.seek(start + first)
            remaining = last - first
            while remaining:
                part = stream.read(min(remaining, _CHUNK))
                assert part
                digest.update(part)
                remaining -= len(part)
    return digest.hexdigest()


def stored_dtype(weights: Checkpoint, name: str) -> torch.dtype:
    """Return the dtype of a tensor in its file.

    Args:
        weights: the model's files.
        name: name of the tensor.

    Raises:
        RouterError: gates cannot be written in this dtype.
    """
    kind = _header(weights.folder / weights.files[name])[1][name]["dtype"]
    if kind not in _DTYPES:
        raise RouterError(f"{name} is stored as {kind}; gates must be one of {', '.join(_DTYPES)}")
    return _DTYPES[kind]


def names_in(path: Path) -> list[str]:
    """Return the names of the tensors in a file."""
    return [name for name in _header(path)[1] if name != "__metadata__"]


def replace_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace tensors of a file in place by others of the same dtype and shape; no other byte changes.

    Args:
        path: path of the safetensors file. Use a copy: a killed process leaves it half written.
        tensors: new tensors by name.
    """
    start, header = _header(path)
    with path.open("rb+") as stream:
        for name, tensor in tensors.items():
            first, last = header[name]["data_offsets"]
            data = raw(tensor)
            assert len(data) == last - first
            stream.seek(start + first)
            stream.write(data)


def raw(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, as safetensors stores them."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """The offset of the first tensor, and the header."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size - 8:
            raise RouterError(f"{path} is damaged: its header is longer than the file; copy it again")
        return 8 + length, json.loads(stream.read(length))
