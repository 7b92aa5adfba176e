"""A router as `router.json` and `router.safetensors`, as `router_rl.routing.load` reads it.

A prompt router's text pipeline stands beside it, as `text.json` and `text.safetensors`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save

from experts.io.atomic import replacing, write_json

from ..routing import Router, TextFeatures
from ..routing.digests import digest_of, text_digest
from ..routing.embedding import Embedding
from ..routing.storage import SCHEMA_VERSION, load_router
from .format import Format

__all__ = ["FORMAT", "usage", "write", "write_text"]


def write(router: Router, folder: Path, *, text: bool = True) -> None:
    """Write a router, its standardisation folded into the first layer.

    The weights are written first: a kill in between leaves a digest that does not match, which loading
    reports.

    Args:
        router: any router.
        folder: made if it does not exist.
        text: write the text pipeline too, where the router has one.
    """
    folded = router.folded()
    tensors = {name: value.detach().cpu().contiguous() for name, value in folded.scorer.state_dict().items()}
    weights = save(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "router.safetensors") as temporary:
        temporary.write_bytes(weights)
    description = {"schema_version": SCHEMA_VERSION, **folded.spec()}
    if text and router.text is not None:
        description["inputs"] = list(router.inputs)
        description["text"] = write_text(router.text, folder)
    description["digest"] = digest_of(description, weights)
    write_json(folder / "router.json", description)


def usage(router: Router) -> str:
    """Python that loads and calls the export."""
    needs_state = len(router.defaults) < len(router.state)
    call = "router(features, state)" if needs_state else "router(features)"
    if router.text is not None:
        of_group = [part.name for part in router.state] == ["group"]
        named = "" if "prompt" in router.inputs else "groups="
        arguments = [
            *(['"a prompt"'] if "prompt" in router.inputs else []),
            *([f'{named}"its group"'] if "group" in router.inputs else []),
            *(["state=state"] if needs_state and not of_group else []),
        ]
        call = f"router.route({', '.join(arguments)})  # or {call}"
    return f"""from router_rl.routing import load  # imports torch alone
router = load(".")
experts, weights, logits, fallback = {call}
# router(..., action_mask=alive), [{len(router.experts)}] bool, says which experts may be chosen.
{_at_default(router)}""".rstrip()


def _at_default(router: Router) -> str:
    """A comment line on the state of a call without state; empty where there is none."""
    if not router.defaults or len(router.defaults) < len(router.state):
        return ""
    values = ", ".join(f"{name} {value:g}" for name, value in router.defaults.items())
    others = ", ".join(f"{name}=..." for name in router.defaults)
    return f"# Without state it routes for {values}; router.at({others}) fixes another."


def write_text(text: TextFeatures, folder: Path) -> str:
    """Write a text pipeline, models of sentence embeddings included, and return its digest.

    Args:
        text: the pipeline.
        folder: an existing folder.
    """
    spec = text.spec()
    for index, part in enumerate(text.parts):
        if isinstance(part, Embedding):
            spec[index]["path"] = str(_copy_model(part.path, folder, f"embedding-{index}"))
    tensors = save({name: value.detach().cpu().contiguous() for name, value in text.tensors().items()})
    described = json.dumps(spec, ensure_ascii=False).encode()
    for name, content in (("text.safetensors", tensors), ("text.json", described)):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return text_digest(described, tensors)


def _copy_model(path: Path, folder: Path, name: str) -> Path:
    """Copy a model into the export, unless it is there already; returns its path within the export."""
    own = folder / name
    if folder.resolve() not in path.resolve().parents:
        shutil.copytree(path if path.is_dir() else path.parent, own, dirs_exist_ok=True)
    return Path(name) if path.is_dir() else Path(name, path.name)


FORMAT = Format(write=write, load=load_router, usage=usage, keeps_text=True)
