"""A router as `torch.export` programs with a dynamic number of rows: `torch.export.load(path).module()`.

`router.pt2` takes features [T, D] (and state [T, S] if the router has state); `masked.pt2` also takes alive
[N] bool. `program` documents their outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from experts.io.atomic import replacing, write_json

from ..routing import Router, Routing
from .format import Format
from .program import export_program, input_names, unmasked_or_masked

__all__ = ["FORMAT", "load", "usage", "write"]


def write(router: Router, folder: Path) -> None:
    """Export and save both programs and the router's description.

    Args:
        router: any deterministic router.
        folder: the output folder; created if it does not exist.

    Raises:
        RouterError: the router is stochastic.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, masked in (("router", False), ("masked", True)):
        program = export_program(router, masked=masked)
        with replacing(folder / f"{name}.pt2") as temporary:
            # torch.export requires the suffix .pt2: save under such a name, then move.
            named = temporary.with_suffix(".pt2")
            try:
                torch.export.save(program, named)
                named.replace(temporary)
            finally:
                named.unlink(missing_ok=True)
    inputs = input_names(router, masked=False)
    described = {"schema_version": 1, "format": "pt2", **router.spec(), "inputs": inputs}
    write_json(folder / "router.json", described)


def load(folder: Path) -> Callable[..., Routing]:
    """Load the programs as one function of features (and state, and a mask) that returns a `Routing`."""
    return unmasked_or_masked(
        *(torch.export.load(folder / f"{name}.pt2").module() for name in ("router", "masked"))
    )


def usage(router: Router) -> str:
    """Return Python that loads and calls the export."""
    inputs = ", ".join(input_names(router, masked=False))
    return f"""import torch
program = torch.export.load("router.pt2").module()  # masked.pt2 takes alive [{len(router.experts)}] bool last
experts, weights, logits, fallback = program({inputs})"""


FORMAT = Format(write=write, load=load, usage=usage)
