"""Read an exported router or policy from its folder.

A router is `router.json` (its description) and `router.safetensors` (its weights). A policy of live state
is `policy.json` and `policy.safetensors`. Either also has `text.json` and `text.safetensors` if it was
trained on prompts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from .embedding import Embedding
from .policies.policy import Policy
from .policies.registry import POLICIES
from .router import Router, StateInput
from .router_error import RouterError
from .safetensors_file import digest_of, read_safetensors
from .scorers.registry import scorer_from_spec
from .selection import selection_from_spec
from .text import TextFeatures

__all__ = ["POLICY_SCHEMA", "SCHEMA_VERSION", "load", "load_router", "router_from_spec", "text_digest"]

SCHEMA_VERSION = 1  # of router.json
POLICY_SCHEMA = 1  # of policy.json


def load(folder: Path | str) -> Router | Policy:
    """Load an exported router or policy, in evaluation mode, on the CPU.

    Args:
        folder: of the export.

    Returns:
        a `Router` where the folder has `router.json`, else the policy that `policy.json` describes.

    Raises:
        RouterError: the folder holds neither, is of another schema version, or its weights are not the ones
            that its description was written with.
    """
    folder = Path(folder)
    is_policy = (folder / "policy.json").exists() and not (folder / "router.json").exists()
    return _load_policy(folder) if is_policy else _load_router(folder)


def load_router(folder: Path | str) -> Router:
    """Load an exported router, as `load` does.

    Raises:
        RouterError: as for `load`, or the folder holds a policy.
    """
    loaded = load(folder)
    if not isinstance(loaded, Router):
        kind = getattr(loaded, "kind", type(loaded).__name__)
        raise RouterError(
            f"{folder} holds a {kind} policy, not a router; load it with router_rl.routing.load"
        )
    return loaded


def router_from_spec(spec: dict[str, Any]) -> Router:
    """Build an untrained router from its JSON form (`Router.spec`).

    Raises:
        RouterError: a part is unknown or does not fit the others.
    """
    return Router(
        scorer_from_spec(spec["scorer"]),
        selection_from_spec(spec["select"]),
        spec["experts"],
        state=[StateInput(**part) for part in spec["state"]],
        fallback=spec["fallback"],
        stochastic=spec["stochastic"],
        allowed=spec.get("allowed"),
    )


def text_digest(spec: bytes, tensors: bytes) -> str:
    """Digest of the two files of a text pipeline, `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(spec + b"\0" + tensors).hexdigest()


def _load_router(folder: Path) -> Router:
    description = _read_description(folder / "router.json", "router", SCHEMA_VERSION)
    tensors = _read_weights(folder / "router.safetensors", description, "router")
    try:
        router = router_from_spec(description)
    except RouterError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RouterError(f"{folder / 'router.json'} lacks a usable field ({error}); export again") from error
    try:
        router.scorer.load_state_dict(tensors)
    except RuntimeError as error:
        raise RouterError(f"{folder / 'router.safetensors'} does not fit router.json: {error}") from error
    if "text" in description:
        router.text = _read_text(folder, description, "router", router.features)
    inputs = description.get("inputs", list(router.inputs))  # files of version 1 do not name them
    if inputs != list(router.inputs):
        raise RouterError(
            f"{folder / 'router.json'} says that the inputs are {inputs}, but the router reads "
            f"{list(router.inputs)}; export again"
        )
    return router.folded().eval()  # the file is folded already: this skips the standardisation


def _load_policy(folder: Path) -> Policy:
    description = _read_description(folder / "policy.json", "policy", POLICY_SCHEMA)
    kind = description.get("kind")
    if kind not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise RouterError(f"{folder / 'policy.json'} has kind {kind!r}; this release reads {known}")
    tensors = _read_weights(folder / "policy.safetensors", description, "policy")
    try:
        policy = POLICIES[kind].from_spec(description)
        policy.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RouterError(f"{folder / 'policy.json'} lacks a usable field ({error}); export again") from error
    if "text" in description:
        policy.text = _read_text(folder, description, "policy", policy.features)
    cast(nn.Module, policy).eval().requires_grad_(False)
    return cast(Policy, policy)


def _read_description(path: Path, what: str, schema: int) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RouterError(
            f"{path} cannot be read ({error.strerror}); give the folder of an export"
        ) from error
    except ValueError as error:
        raise RouterError(f"{path} is not JSON ({error}); export the {what} again") from error
    if not isinstance(description, dict):
        raise RouterError(f"{path} is not a {what} description; export the {what} again")
    version = cast("dict[str, Any]", description).get("schema_version")
    if version != schema:
        raise RouterError(
            f"{path} has schema_version {version!r}; this release reads {schema}: export again, or "
            "use the release that wrote it"
        )
    return cast("dict[str, Any]", description)


def _read_weights(path: Path, description: dict[str, Any], what: str) -> dict[str, Tensor]:
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise RouterError(f"{path} cannot be read ({error.strerror}); export the {what} again") from error
    try:
        digest = digest_of(weights, description["experts"])
    except (KeyError, TypeError) as error:
        raise RouterError(
            f"{path.with_suffix('.json')} lacks a list of experts ({error}); export again"
        ) from error
    if digest != description.get("digest"):
        raise RouterError(
            f"{path} has digest {digest} but {what}.json says {description.get('digest')}; "
            f"the two files are not from one export: export the {what} again"
        )
    try:
        return read_safetensors(weights)
    except RouterError as error:
        raise RouterError(f"{path} is {error}; export the {what} again") from error


def _read_text(folder: Path, description: dict[str, Any], what: str, features: int) -> TextFeatures:
    digest = description["text"]
    try:
        spec = (folder / "text.json").read_bytes()
        tensors = (folder / "text.safetensors").read_bytes()
    except OSError as error:
        raise RouterError(
            f"{error.filename} cannot be read ({error.strerror}); export the {what} again"
        ) from error
    actual = text_digest(spec, tensors)
    if actual != digest:
        raise RouterError(
            f"{folder}'s text.json and text.safetensors have digest {actual} but {what}.json says {digest}; "
            f"they are not from one export: export the {what} again"
        )
    text = TextFeatures.of(json.loads(spec), read_safetensors(tensors))
    for part in text.parts:
        if isinstance(part, Embedding):
            part.within(folder)
    if text.size != features:
        raise RouterError(
            f"{folder / 'text.json'} makes {text.size} features but the {what} takes {features}; export again"
        )
    return text
