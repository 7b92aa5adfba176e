"""Digest the bytes of safetensors files, and replace tensors without reading the rest.

The format is eight bytes of header length, a JSON header with each tensor's place, and the tensors
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts.io.atomic import replacing
from experts.moe import Checkpoint

from ...routing import RouterError

__all__ = ["digest_without", "replace_tensors", "stored_dtype"]

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_CHUNK = 1 << 24


def digest_without(weights: Checkpoint, left_out: Iterable[str]) -> str:
    """SHA-256 of the name, dtype, shape and bytes of all tensors but some, in the order of the names.

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
            left = last - first
            while left:
                part = stream.read(min(left, _CHUNK))
                assert part
                digest.update(part)
                left -= len(part)
    return digest.hexdigest()


def stored_dtype(weights: Checkpoint, name: str) -> torch.dtype:
    """The dtype of a tensor in its file.

    Raises:
        RouterError: it is not a floating-point dtype that gates are written in.
    """
    kind = _header(weights.folder / weights.files[name])[1][name]["dtype"]
    if kind not in _DTYPES:
        raise RouterError(f"{name} is stored as {kind}; gates are written as {', '.join(_DTYPES)}")
    return _DTYPES[kind]


def replace_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Replace tensors of a file by others of the same dtype and shape, atomically; no other byte changes.

    Args:
        path: of the safetensors file.
        tensors: by name.
    """
    start, header = _header(path)
    with replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        with temporary.open("rb+") as stream:
            for name, tensor in tensors.items():
                first, last = header[name]["data_offsets"]
                data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
                assert len(data) == last - first
                stream.seek(start + first)
                stream.write(data)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """The offset of the first tensor, and the header."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return 8 + length, json.loads(stream.read(length))
