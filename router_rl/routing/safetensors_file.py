"""Read safetensors files with torch and the standard library.

The format is eight bytes of header length, a JSON header and raw little-endian tensors
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .router_error import RouterError

__all__ = ["digest_of", "read_safetensors"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def digest_of(weights: bytes, experts: Sequence[str]) -> str:
    """Digest of a weights file and the names of its experts, `sha256:<hex>`."""
    names = json.dumps(list(experts)).encode()
    return "sha256:" + hashlib.sha256(names + b"\0" + weights).hexdigest()


def read_safetensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Args:
        content: of the whole file.

    Raises:
        RouterError: the content is truncated, malformed or of a dtype that routers do not use.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        header: dict[str, dict[str, Any]] = json.loads(content[8 : 8 + length])
        body = memoryview(content)[8 + length :]
        header.pop("__metadata__", None)
        return {name: _tensor(entry, body) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise RouterError(f"not a readable safetensors file ({error})") from error


def _tensor(entry: dict[str, Any], body: memoryview) -> Tensor:
    dtype = _DTYPES[entry["dtype"]]
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    if not 0 <= begin <= end <= len(body) or end - begin != size:
        raise ValueError(f"offsets {begin}..{end} do not hold a tensor of shape {shape}")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(body[begin:end]), dtype=dtype).reshape(shape)
