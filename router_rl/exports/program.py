"""A router as a `torch.export` program, from which the graph formats (pt2, aoti, onnx) are made.

The program takes features [T, D], then state [T, S] where the router has one, then, if it is the masked one,
alive [N] bool (False: the expert is down and never chosen). It returns the tuple (experts [T, k] int64,
weights [T, k] float32, logits [T, N] float32, fallback [T] bool). T may be any number, 0 too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..routing import Router, RouterError, Routing

__all__ = ["OUTPUTS", "export_program", "input_names", "unmasked_or_masked"]

OUTPUTS = ("experts", "weights", "logits", "fallback")


def export_program(router: Router, *, masked: bool) -> ExportedProgram:
    """Trace a router, its standardisation folded in, on the CPU.

    Args:
        router: any deterministic router.
        masked: the program takes alive [N] bool as its last input.

    Raises:
        RouterError: the router draws at random, which a frozen program cannot.
    """
    if router.stochastic:
        raise RouterError("a stochastic router has no program to freeze; export it as safetensors")
    rows = {0: torch.export.Dim("rows")}
    example = [torch.zeros(3, router.features)]
    shapes: list[dict[int, Any] | None] = [rows]
    if router.state:
        example.append(torch.zeros(3, router.state_size))
        shapes.append(rows)
    if masked:
        example.append(torch.ones(len(router.experts), dtype=torch.bool))
        shapes.append(None)
    module = _AsTuple(router.folded(), masked).eval()
    return torch.export.export(module, tuple(example), dynamic_shapes={"inputs": tuple(shapes)})


def input_names(router: Router, *, masked: bool) -> list[str]:
    """Names of the program's inputs, in order."""
    return ["features", *(["state"] if router.state else []), *(["alive"] if masked else [])]


def unmasked_or_masked(plain: Callable[..., Any], masked: Callable[..., Any]) -> Callable[..., Routing]:
    """One function of features, state and optionally a mask, from the two programs."""

    def route(*inputs: Tensor, action_mask: Tensor | None = None) -> Routing:
        return Routing(*(plain(*inputs) if action_mask is None else masked(*inputs, action_mask)))

    return route


class _AsTuple(nn.Module):
    """Returns a plain tuple: a program that returned `Routing` would need this package to load."""

    def __init__(self, router: Router, masked: bool) -> None:
        super().__init__()
        self.router = router
        self.masked = masked

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        if not self.masked:
            return tuple(self.router(*inputs))
        return tuple(self.router(*inputs[:-1], action_mask=inputs[-1]))
