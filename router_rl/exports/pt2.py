"""A router as a `torch.export` program with a dynamic number of rows: `torch.export.load(path).module()`.

The program takes features [T, D] (and state [T, S] where the router has one) and returns the tuple
(experts [T, k] int64, weights [T, k] float32, logits [T, N] float32, fallback [T] bool).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experts.atomic import replacing, write_json

from ..routing import Router, RouterError, Routing

__all__ = ["load", "write"]


def write(router: Router, folder: Path) -> None:
    """Export and save the program, with the router's description beside it.

    Raises:
        RouterError: the router draws at random; a frozen program has no use for that.
    """
    if router.stochastic:
        raise RouterError("a stochastic router has no .pt2 form; export it as safetensors")
    program = _AsTuple(router.folded()).eval()
    rows = torch.export.Dim("rows")
    example = [torch.zeros(3, router.features)]
    if router.state:
        example.append(torch.zeros(3, router.state_size))
    exported = torch.export.export(
        program, tuple(example), dynamic_shapes={"inputs": tuple({0: rows} for _ in example)}
    )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "router.pt2") as temporary:
        # torch.export insists on the suffix, so the program is saved beside and moved over.
        named = temporary.with_suffix(".pt2")
        try:
            torch.export.save(exported, named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
    write_json(folder / "router.json", {"schema_version": 1, "format": "pt2", **router.spec()})


def load(folder: Path) -> Callable[..., Routing]:
    """Load the program as a function of features (and state) that returns a `Routing`."""
    module = torch.export.load(folder / "router.pt2").module()
    return lambda *inputs: Routing(*module(*inputs))


class _AsTuple(nn.Module):
    """A plain tuple: a program that returned our record could only be loaded where our record exists."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.router = router

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        return tuple(self.router(*inputs))
