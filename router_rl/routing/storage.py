"""Read an exported router or policy from its folder.

A router is `router.json` (its description) and `router.safetensors` (its weights). A policy that reads state
is `policy.json` and `policy.safetensors`. Either also has `text.json` and `text.safetensors` if it was
trained on prompts. The description's digest covers the description, the weights and, by their own digest, the
files of the text. Descriptions of schema 1, whose digest covers the weights and the names of the experts
only, are still read.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from torch import Tensor, nn

from .digests import digest_of, digest_of_schema_1, text_digest
from .embedding import Embedding
from .policies.policy import Policy
from .policies.registry import POLICIES
from .router import Router, StateInput
from .router_error import RouterError
from .safetensors_file import read_safetensors
from .scorers.registry import scorer_from_spec
from .selection import selection_from_spec
from .stored_weights import check_finite, check_sizes
from .strict_json import check_type, parse_json
from .text import TextFeatures

__all__ = ["SCHEMA_VERSION", "load", "load_router", "router_from_spec", "stored_text_digest"]

SCHEMA_VERSION = 2  # of router.json and policy.json


class _State(TypedDict):
    """Fields of every part of the state."""

    name: str
    size: int
    meaning: str


class _StateInput(_State, total=False):
    """A part of the state."""

    labels: list[str]
    default: float | None


class _Stored(TypedDict):
    """Fields of every description."""

    experts: list[str]
    digest: str


class _StoredOptions(_Stored, total=False):
    """Fields that a description may have."""

    text: str
    inputs: list[str]


class _StoredRouter(_StoredOptions):
    """Fields of `router.json`."""

    features: int
    scorer: dict[str, Any]
    select: dict[str, Any]
    state: list[_StateInput]
    fallback: int
    stochastic: bool


class _RouterDescription(_StoredRouter, total=False):
    """Fields of `router.json`, with those that it may have."""

    allowed: list[bool] | None


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

    Args:
        folder: of the export.

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


def stored_text_digest(folder: Path | str) -> str:
    """Return the digest of an export's text pipeline, `sha256:<hex>`; where it is equal, features are equal.

    Args:
        folder: of the export.

    Raises:
        OSError: the export has no text pipeline, or cannot be read.
    """
    return text_digest(*((Path(folder) / f"text.{kind}").read_bytes() for kind in ("json", "safetensors")))


def router_from_spec(spec: Mapping[str, Any]) -> Router:
    """Build an untrained router from its JSON form.

    Args:
        spec: what `Router.spec` returned.

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


def _load_router(folder: Path) -> Router:
    path = folder / "router.json"
    description, tensors = _read(path, "router", _RouterDescription)
    try:
        check_sizes(lambda: scorer_from_spec(description["scorer"]), description["scorer"], tensors, path)
        router = router_from_spec(description)
    except RouterError as error:
        raise RouterError(f"{path}: {error}; export the router again") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unusable(path, error) from error
    router.scorer.load_state_dict(tensors)
    check_finite(router.scorer, path.with_suffix(".safetensors"))
    if description["features"] != router.features:
        raise RouterError(
            f"{path} says that there are {description['features']} features, but the scorer reads "
            f"{router.features}; export again"
        )
    if "text" in description:
        router.text = _read_text(folder, description["text"], "router", router.features)
    inputs = description.get("inputs", list(router.inputs))  # files of version 1 do not name them
    # Earlier files of routers that read the group alone name the prompt too.
    if inputs not in (list(router.inputs), ["prompt", *router.inputs]):
        raise RouterError(
            f"{path} says that the inputs are {inputs}, but the router reads "
            f"{list(router.inputs)}; export again"
        )
    return router.folded().eval()  # the file is folded already: this skips the standardisation


def _load_policy(folder: Path) -> Policy:
    path = folder / "policy.json"
    description, tensors = _read(path, "policy", _StoredOptions)
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise RouterError(f"{path} has kind {kind!r}; this release reads {known}")
    try:
        check_type(description, POLICIES[kind].Spec, "")
        check_sizes(lambda: POLICIES[kind].from_spec(description), description, tensors, path)
        policy = POLICIES[kind].from_spec(description)
    except RouterError as error:
        raise RouterError(f"{path}: {error}; export the policy again") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unusable(path, error) from error
    policy.load_state_dict(tensors)
    check_finite(policy, path.with_suffix(".safetensors"))
    if "text" in description:
        policy.text = _read_text(folder, description["text"], "policy", policy.features)
    cast(nn.Module, policy).eval().requires_grad_(False)
    return cast(Policy, policy)


def _read(path: Path, what: str, fields: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A description whose digest and fields are right, and the tensors beside it."""
    description = _json_of(path, _bytes_of(path, "give the folder of an export"), what)
    if not isinstance(description, dict):
        raise RouterError(f"{path} is not a {what} description; export the {what} again")
    version = description.get("schema_version")
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        raise RouterError(
            f"{path} has schema_version {version!r}; this release reads 1 and {SCHEMA_VERSION}: export "
            "again, or use the release that wrote it"
        )
    try:
        check_type(description, fields, "")
    except ValueError as error:
        raise _unusable(path, error) from error
    experts = description["experts"]
    if not experts or len(set(experts)) < len(experts):
        raise RouterError(f"{path}: experts must be distinct names, one or more; export the {what} again")
    stored = path.with_suffix(".safetensors")
    weights = _bytes_of(stored, f"export the {what} again")
    digest = digest_of_schema_1(weights, experts) if version == 1 else digest_of(description, weights)
    if digest != description["digest"]:
        raise RouterError(
            f"{stored} has digest {digest} but {what}.json says {description['digest']}; one "
            f"was changed, or they are not from one export: export the {what} again"
        )
    try:
        return description, read_safetensors(weights)
    except RouterError as error:
        raise RouterError(f"{stored} is {error}; export the {what} again") from error


def _read_text(folder: Path, digest: str, what: str, features: int) -> TextFeatures:
    again = f"export the {what} again"
    path, stored = folder / "text.json", folder / "text.safetensors"
    spec, tensors = _bytes_of(path, again), _bytes_of(stored, again)
    actual = text_digest(spec, tensors)
    if actual != digest:
        raise RouterError(
            f"{folder}'s text.json and text.safetensors have digest {actual} but {what}.json says {digest}; "
            f"they are not from one export: {again}"
        )
    try:
        text = TextFeatures.of(_json_of(path, spec, what), read_safetensors(tensors), actual)
        for part in text.parts:
            if isinstance(part, Embedding):
                part.within(folder)
    except RouterError as error:
        raise RouterError(f"{path}: {error}; {again}") from error
    if text.size != features:
        raise RouterError(f"{path} makes {text.size} features but the {what} takes {features}; export again")
    return text


def _bytes_of(path: Path, fix: str) -> bytes:
    """The content of a regular file: a pipe or a device would be read for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RouterError(f"{path} cannot be read (it is not a file); {fix}")
        return path.read_bytes()
    except OSError as error:
        raise RouterError(f"{path} cannot be read ({error.strerror}); {fix}") from error


def _json_of(path: Path, content: bytes, what: str) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise RouterError(
            f"{path} is not JSON that can be read ({error}); export the {what} again"
        ) from error


def _unusable(path: Path, error: Exception) -> RouterError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).partition("\n")[0]
    return RouterError(f"{path} lacks a usable field ({reason}); export again")
