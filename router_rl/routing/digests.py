"""Digests of stored routers and policies, by which a file that was changed afterwards is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["digest_of", "digest_of_schema_1", "text_digest"]


def digest_of(description: Mapping[str, Any], weights: bytes) -> str:
    """Digest of a description and its weights, `sha256:<hex>`.

    Args:
        description: what is written as JSON; its own field `digest` is left out.
        weights: content of the weights file.
    """
    fields = {name: value for name, value in description.items() if name != "digest"}
    return _sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode(), weights)


def digest_of_schema_1(weights: bytes, experts: Sequence[str]) -> str:
    """Digest of a description of schema 1, `sha256:<hex>`: it covers the weights and the experts' names only.

    Args:
        weights: content of the weights file.
        experts: the N names, in order.
    """
    return _sha256(json.dumps(list(experts)).encode(), weights)


def text_digest(spec: bytes, tensors: bytes) -> str:
    """Digest of the two files of a text pipeline, `sha256:<hex>`.

    Args:
        spec: content of `text.json`.
        tensors: content of `text.safetensors`.
    """
    return _sha256(spec, tensors)


def _sha256(described: bytes, weights: bytes) -> str:
    return "sha256:" + hashlib.sha256(described + b"\0" + weights).hexdigest()
