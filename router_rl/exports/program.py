"""Trace a router to a `torch.export` program, which the formats pt2, aoti and onnx are made of.

The program takes features [T, D], then state [T, S] if the router has state. The masked program also takes
alive [N] bool (False: the expert is never chosen). Both return the tuple (experts [T, k] int64, weights
[T, k] float32, logits [T, N] float32, fallback [T] bool). T is dynamic and can be 0.
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
    """Trace a router on the CPU, with its standardisation folded in.

    Args:
        router: any deterministic router.
        masked: the program takes alive [N] bool as its last input.

    Raises:
        RouterError: the router is stochastic.
    """
    if router.stochastic:
        raise RouterError("a stochastic router cannot be traced; export it as safetensors")
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
    """Return the names of the program's inputs, in order."""
    return ["features", *(["state"] if router.state else []), *(["alive"] if masked else [])]


def unmasked_or_masked(plain: Callable[..., Any], masked: Callable[..., Any]) -> Callable[..., Routing]:
    """Combine both programs into a function of features, state and the keyword `action_mask`."""

    def route(*inputs: Tensor, action_mask: Tensor | None = None) -> Routing:
        return Routing(*(plain(*inputs) if action_mask is None else masked(*inputs, action_mask)))

    return route


class _AsTuple(nn.Module):
    """Returns a plain tuple, so that the program loads without this package."""

    def __init__(self, router: Router, masked: bool) -> None:
        super().__init__()
        self.router = router
        self.masked = masked

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        if not self.masked:
            return tuple(self.router(*inputs))
        return tuple(self.router(*inputs[:-1], action_mask=inputs[-1]))
