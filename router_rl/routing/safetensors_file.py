"""Read safetensors files with torch and the standard library.

The format is eight bytes of header length, a JSON header and raw little-endian tensors
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from .router_error import RouterError
from .strict_json import check_type, parse_json

__all__ = ["read_safetensors"]

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
_LARGEST_HEADER = 100_000_000  # bytes, as in the safetensors library


class _Entry(TypedDict):
    """A tensor in the header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_safetensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; they take as much memory as the file has bytes.

    Args:
        content: of the whole file.

    Raises:
        RouterError: the content is truncated, malformed or of a dtype that routers do not use; one line.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        if not 8 + length <= len(content):
            raise ValueError(f"its header should have {length} bytes, more than the file")
        if length > _LARGEST_HEADER:
            raise ValueError(f"its header has {length} bytes, more than {_LARGEST_HEADER}")
        header = parse_json(content[8 : 8 + length])
        if isinstance(header, dict):
            header.pop("__metadata__", None)
        check_type(header, dict[str, _Entry], "")
        body = memoryview(content)[8 + length :]
        _check_offsets(header, len(body))
        return {name: _tensor(entry, body) for name, entry in header.items()}
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RouterError(f"not a readable safetensors file ({reason})") from error


def _check_offsets(header: dict[str, _Entry], size: int) -> None:
    """Check that the tensors fill the body without gaps and overlaps, which could ask for any memory."""
    end = 0
    for entry in sorted(header.values(), key=lambda entry: tuple(entry["data_offsets"])):
        first, last = entry["data_offsets"]
        if first != end or last < first:
            raise ValueError(f"offsets {first}..{last} do not follow {end}")
        end = last
    if end != size:
        raise ValueError(f"its tensors take {end} bytes and the file has {size}")


def _tensor(entry: _Entry, body: memoryview) -> Tensor:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {entry['dtype']!r} is none of {', '.join(_DTYPES)}")
    dtype = _DTYPES[entry["dtype"]]
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    size = dtype.itemsize
    for extent in shape:
        if extent < 0:
            raise ValueError(f"shape {shape} is negative")
        size *= extent
    if end - begin != size:
        raise ValueError(f"offsets {begin}..{end} do not hold a tensor of shape {shape}")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(body[begin:end]), dtype=dtype).reshape(shape)
