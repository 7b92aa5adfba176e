"""Read a router from its folder: `router.json` says what it is, `router.safetensors` holds its weights.

Where it reads prompts, `text.json` and `text.safetensors` hold how (`router_rl/routing/text.py`).

The safetensors format is eight bytes of header length, a JSON header and raw little-endian tensors
(https://github.com/huggingface/safetensors#format), so reading it takes torch and the standard library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .embedding import Embedding
from .router import Router, StateInput
from .router_error import RouterError
from .scorers.dense import Scorer, scorer_from_spec
from .selection import selection_from_spec
from .text import TextFeatures

__all__ = ["SCHEMA_VERSION", "digest_of", "load", "read_safetensors", "router_from_spec", "text_digest"]

SCHEMA_VERSION = 1

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


def load(folder: Path | str) -> Router:
    """Load an exported router, in evaluation mode, on the CPU.

    Raises:
        RouterError: the folder is no router, is of another schema version, or its weights are not the
            ones its description was written with.
    """
    folder = Path(folder)
    description = _read_description(folder / "router.json")
    weights_path = folder / "router.safetensors"
    try:
        weights = weights_path.read_bytes()
    except OSError as error:
        raise RouterError(
            f"{weights_path} cannot be read ({error.strerror}); export the router again"
        ) from error
    try:
        found = digest_of(weights, description["experts"])
    except (KeyError, TypeError) as error:
        raise RouterError(
            f"{folder / 'router.json'} lacks a list of experts ({error}); export again"
        ) from error
    if found != description.get("digest"):
        raise RouterError(
            f"{weights_path} has digest {found} but router.json says {description.get('digest')}; "
            "the two files are not from one export: export the router again"
        )
    try:
        router = router_from_spec(description)
    except RouterError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RouterError(f"{folder / 'router.json'} lacks a usable field ({error}); export again") from error
    try:
        tensors = read_safetensors(weights)
    except RouterError as error:
        raise RouterError(f"{weights_path} is {error}; export the router again") from error
    try:
        router.scorer.load_state_dict(tensors)
    except RuntimeError as error:
        raise RouterError(f"{weights_path} does not fit router.json: {error}") from error
    if "text" in description:
        router.text = _read_text(folder, description["text"], router.features)
    return router.folded().eval()  # what was written is folded: this saves the standardisation


def router_from_spec(spec: dict[str, Any]) -> Router:
    """Build an untrained router from its JSON form (`Router.spec`)."""
    return Router(
        cast(Scorer, scorer_from_spec(spec["scorer"])),
        selection_from_spec(spec["select"]),
        spec["experts"],
        state=[StateInput(**part) for part in spec["state"]],
        fallback=spec["fallback"],
        stochastic=spec["stochastic"],
        allowed=spec.get("allowed"),
    )


def digest_of(weights: bytes, experts: Sequence[str]) -> str:
    """Digest of a weights file and the expert names it belongs to, `sha256:<hex>`."""
    names = json.dumps(list(experts)).encode()
    return "sha256:" + hashlib.sha256(names + b"\0" + weights).hexdigest()


def text_digest(spec: bytes, tensors: bytes) -> str:
    """Digest of the two files of a text pipeline, `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(spec + b"\0" + tensors).hexdigest()


def read_safetensors(content: bytes) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

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


def _read_text(folder: Path, digest: Any, features: int) -> TextFeatures:
    try:
        spec = (folder / "text.json").read_bytes()
        tensors = (folder / "text.safetensors").read_bytes()
    except OSError as error:
        raise RouterError(
            f"{error.filename} cannot be read ({error.strerror}); export the router again"
        ) from error
    found = text_digest(spec, tensors)
    if found != digest:
        raise RouterError(
            f"{folder}'s text.json and text.safetensors have digest {found} but router.json says {digest}; "
            "they are not from one export: export the router again"
        )
    text = TextFeatures.of(json.loads(spec), read_safetensors(tensors))
    for part in text.parts:
        if isinstance(part, Embedding):
            part.within(folder)
    if text.size != features:
        raise RouterError(
            f"{folder / 'text.json'} makes {text.size} features but the router takes {features}; export again"
        )
    return text


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RouterError(
            f"{path} cannot be read ({error.strerror}); give the folder of an export"
        ) from error
    except ValueError as error:
        raise RouterError(f"{path} is not JSON ({error}); export the router again") from error
    if not isinstance(description, dict):
        raise RouterError(f"{path} is not a router description; export the router again")
    version = cast("dict[str, Any]", description).get("schema_version")
    if version != SCHEMA_VERSION:
        raise RouterError(
            f"{path} has schema_version {version!r}; this release reads {SCHEMA_VERSION}: export again, or "
            "use the release that wrote it"
        )
    return cast("dict[str, Any]", description)
