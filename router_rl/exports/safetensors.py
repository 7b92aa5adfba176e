"""A router as `router.json` and `router.safetensors`, what `router_rl.routing.load` reads."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from experts.atomic import replacing, write_json

from ..routing import Router
from ..routing.storage import SCHEMA_VERSION, digest_of, load

__all__ = ["load", "usage", "write"]


def write(router: Router, folder: Path) -> None:
    """Write a router, its standardisation folded into the first layer.

    The weights go first: a kill in between leaves a digest that does not match, which loading reports.
    """
    folded = router.folded()
    tensors = {name: value.detach().cpu().contiguous() for name, value in folded.scorer.state_dict().items()}
    weights = save(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "router.safetensors") as temporary:
        temporary.write_bytes(weights)
    description = {
        "schema_version": SCHEMA_VERSION,
        **folded.spec(),
        "digest": digest_of(weights, router.experts),
    }
    write_json(folder / "router.json", description)


def usage(router: Router) -> str:
    """How to load it, as Python."""
    inputs = "features, state" if router.state else "features"
    return f"""from router_rl.routing import load  # imports torch alone
router = load(".")
experts, weights, logits, fallback = router({inputs})
# router(..., action_mask=alive), [{len(router.experts)}] bool, says which experts may be chosen."""
