"""Write a router as `router.json` and `router.safetensors`, the files that `router_rl.routing.load` reads.

The text pipeline of a prompt router is written as `text.json` and `text.safetensors`.
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
    """Write a router, with its standardisation folded into the first layer.

    The weights are written first. If the process is killed in between, the digest does not match and loading
    raises an error.

    Args:
        router: any router.
        folder: the output folder; created if it does not exist.
        text: also write the text pipeline, if the router has one.
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
    """Return Python that loads and calls the export."""
    needs_state = len(router.defaults) < len(router.state)
    call = "router(features, state)" if needs_state else "router(features)"
    if router.text is not None:
        group_only = [part.name for part in router.state] == ["group"]
        keyword = "" if "prompt" in router.inputs else "groups="
        arguments = [
            *(['"a prompt"'] if "prompt" in router.inputs else []),
            *([f'{keyword}"its group"'] if "group" in router.inputs else []),
            *(["state=state"] if needs_state and not group_only else []),
        ]
        call = f"router.route({', '.join(arguments)})  # or {call}"
    return f"""from router_rl.routing import load  # imports torch alone
router = load(".")
experts, weights, logits, fallback = {call}
# router(..., action_mask=alive), [{len(router.experts)}] bool, says which experts may be chosen.
{_at_default(router)}""".rstrip()


def _at_default(router: Router) -> str:
    """A comment line on the default state; empty if a call needs state, or the router has none."""
    if not router.defaults or len(router.defaults) < len(router.state):
        return ""
    values = ", ".join(f"{name} {value:g}" for name, value in router.defaults.items())
    others = ", ".join(f"{name}=..." for name in router.defaults)
    return f"# Without state it routes for {values}; router.at({others}) sets another default."


def write_text(text: TextFeatures, folder: Path) -> str:
    """Write a text pipeline, including its sentence-embedding models, and return its digest.

    Args:
        text: the pipeline.
        folder: an existing folder.

    Returns:
        the digest, `sha256:<hex>`.
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
    """Copy a model into the export, unless it is already there; returns its path within the export."""
    if folder.resolve() not in path.resolve().parents:
        shutil.copytree(path if path.is_dir() else path.parent, folder / name, dirs_exist_ok=True)
    return Path(name) if path.is_dir() else Path(name, path.name)


FORMAT = Format(write=write, load=load_router, usage=usage, keeps_text=True)
