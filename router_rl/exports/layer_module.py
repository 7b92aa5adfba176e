"""What the formats for a model's layer share: `standalone.py` beside the weights of the layer's router."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..routing import Router, RouterError, Routing, Scorer
from . import safetensors

__all__ = ["load", "load_with", "require_layer", "write"]

_SCORERS = ("linear", "mlp", "constant")


def require_layer(router: Router, runtime: str) -> None:
    """Raise RouterError unless hidden states alone decide, which is all that a layer gives its router."""
    if router.stochastic:
        raise RouterError(f"a stochastic router has no {runtime} form; export it as safetensors")
    kind = cast(Scorer, router.scorer).spec()["kind"]
    if kind == "conditioned":
        raise RouterError(
            f"{runtime} gives a router hidden states alone, and this one takes the compute weight too: fold "
            "it at a value (export --at 0.1), or export it as onnx, pt2 or aoti"
        )
    if router.state:
        names = ", ".join(part.name for part in router.state)
        raise RouterError(
            f"{runtime} gives a router hidden states alone, and this one takes {names} too: train it "
            "without, or export it as onnx, pt2 or aoti"
        )
    if kind not in _SCORERS:
        raise RouterError(
            f"a {kind} router has no {runtime} form: export it as pt2 or safetensors, or distil it into a "
            "linear one (export --distil)"
        )


def write(router: Router, folder: Path) -> None:
    """Write the weights, their description and the module that reads both, `routing.py`."""
    safetensors.write(router, folder)
    shutil.copyfile(Path(__file__).with_name("standalone.py"), folder / "routing.py")


def load(folder: Path) -> Any:
    """The router of an export, by its own `routing.py`, which is imported from where it stands."""
    spec = importlib.util.spec_from_file_location("exported_routing", folder / "routing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def load_with(folder: Path, call: Callable[[Any, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., Routing]:
    """Load the module as a runtime would, from its own file, and route through a runtime's contract.

    Args:
        folder: of the export.
        call: of the loaded router and hidden states: weights and ids, as the runtime gets them.
    """
    router = load(folder)

    def route(features: Tensor, *, action_mask: Tensor | None = None) -> Routing:
        router.alive.fill_(True) if action_mask is None else router.alive.copy_(action_mask)
        counted = int(router.fallbacks)
        weights, ids = call(router, features)
        experts, inner, logits, fallback = router(features)
        if weights.dtype != torch.float32 or ids.dtype != torch.int32 or not weights.equal(inner):
            raise RouterError(f"{folder / 'routing.py'} does not keep the runtime's contract")
        if int(router.fallbacks) - counted != int(fallback.sum()):
            raise RouterError(f"{folder / 'routing.py'} does not count its fallbacks")
        nobody = experts == len(router.names)
        return Routing(torch.where(nobody, experts, ids.long()), weights, logits, fallback)

    return route
