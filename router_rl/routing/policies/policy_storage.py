"""Read an exported policy of live state: `policy.json` says what it is, `policy.safetensors` its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import nn

from ..router_error import RouterError
from ..storage import digest_of, read_safetensors
from .caching_policy import CachingPolicy
from .cascade_policy import CascadePolicy

__all__ = ["POLICIES", "POLICY_SCHEMA", "load_policy"]

POLICY_SCHEMA = 1

# Each has `kind`, `experts`, `spec()` and `from_spec(spec)`.
POLICIES: dict[str, Any] = {policy.kind: policy for policy in (CascadePolicy, CachingPolicy)}


def load_policy(folder: Path | str) -> nn.Module:
    """Load an exported policy, in evaluation mode, on the CPU.

    Raises:
        RouterError: the folder holds no policy, or one of another schema version or kind, or weights that
            its description was not written with.
    """
    folder = Path(folder)
    try:
        spec: dict[str, Any] = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        weights = (folder / "policy.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise RouterError(
            f"{folder} holds no readable policy ({error}); give the folder of an export"
        ) from error
    version, kind = spec.get("schema_version"), spec.get("kind")
    if version != POLICY_SCHEMA or kind not in POLICIES:
        known = ", ".join(POLICIES)
        raise RouterError(
            f"{folder / 'policy.json'} has schema_version {version!r} and kind {kind!r}; this release reads "
            f"{POLICY_SCHEMA} and {known}: export again"
        )
    if digest_of(weights, spec.get("experts", [])) != spec.get("digest"):
        raise RouterError(f"{folder}: its two files are not from one export; export the policy again")
    try:
        policy = cast(nn.Module, POLICIES[kind].from_spec(spec))
        policy.load_state_dict(read_safetensors(weights))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RouterError(f"{folder / 'policy.json'} lacks a usable field ({error}); export again") from error
    return policy.eval().requires_grad_(False)
