"""`router_rl::route`, the gate as one node: for torch.compile, torch.export and CUDA graphs.

On a GPU it runs the Triton kernels, elsewhere the torch path; `router_rl::route_backward` is the backward
kernel. `decompositions()` expands it into torch operators for a runtime that does not have it:
`program.run_decompositions(decompositions())`.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..router_error import RouterError
from . import eager, gradient, torch_path
from .kernel_rule import Dispatch, GateRule, Routed

__all__ = ["Path", "decompositions", "route"]

Path = Literal["auto", "torch", "triton"]


def route(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    correction: Tensor | None = None,
    alive: Tensor | None = None,
    *,
    rule: GateRule,
    ids: torch.dtype = torch.int64,
    dispatch: bool = False,
    logits: bool = True,
    path: Path = "auto",
) -> Routed:
    """Route T rows: linear layer, score, choose, weight, and sort the slots by expert on request.

    On a CPU without gradients, and while exporting, the torch path runs inline; otherwise it is one node.
    Nothing synchronises with a GPU, and equal calls return equal bits.

    Args:
        hidden: [T, H] float32, bfloat16 or float16, any strides.
        weight: [E, H] float, E up to 512.
        bias: [E] float or None, of the linear layer.
        correction: [E] float or None, added to scores to choose by; it gets no gradient.
        alive: [E] bool or None, False where an expert may not be chosen.
        rule: how logits are scored, chosen and weighted.
        ids: int64 or int32, of every index returned.
        dispatch: whether to sort the slots.
        logits: whether to return the logits; False saves writing them on a GPU.
        path: `torch` or `triton`; `auto` uses Triton's kernels for tensors on a GPU.

    Returns:
        weights and experts [T, k], logits, fallback and, on request, the dispatch.

    Raises:
        RouterError: `ids` or `path` is unknown, or shapes or dtypes do not fit. To save time, the inline path
            checks no shapes and dtypes: there, torch raises an error of its own.
    """
    special = dispatch or alive is not None or ids is not torch.int64 or path not in ("auto", "torch")
    if not (special or torch.is_grad_enabled() or torch.compiler.is_compiling()) and hidden.is_cpu:
        return eager.gate(hidden, weight, bias, correction, rule)  # a small gate has no time for what follows
    if ids not in (torch.int64, torch.int32):
        raise RouterError(f"ids={ids} is neither torch.int64 nor torch.int32")
    if path not in ("auto", "torch", "triton"):
        raise RouterError(f"path={path!r} is unknown; use auto, torch or triton")
    learns = torch.is_grad_enabled() and (
        hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    if path != "triton" and (_exporting() or not (learns or hidden.is_cuda)):
        if alive is None and hidden.is_cpu and not torch.compiler.is_compiling():
            routed = eager.gate(hidden, weight, bias, correction, rule)
        else:
            routed = torch_path.gate(hidden, weight, bias, correction, alive, rule)
        experts = routed.experts if ids == torch.int64 else routed.experts.to(ids)
        if not dispatch:
            return routed if experts is routed.experts else routed._replace(experts=experts)
        return routed._replace(experts=experts, dispatch=torch_path.dispatch(experts, len(weight)))
    _check(hidden, weight, bias, correction, alive)
    rule.check(len(weight))
    call = _Call.of(rule, int32=ids == torch.int32, dispatch=dispatch, logits=logits or learns, path=path)
    weights, experts, z, fallback, *slots = _operator(hidden, weight, bias, correction, alive, *call)
    return Routed(weights, experts, z, fallback, Dispatch(*slots) if dispatch else None)


def _exporting() -> bool:
    """Return whether torch.export traces.

    Before torch 2.12 `torch.compiler.is_exporting` was True in torch.compile too, so a compiled gate that
    learns took the path without the operator, and rows that are not finite made its gradient NaN.
    """
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The operator as plain torch operators, for `ExportedProgram.run_decompositions`."""
    return {torch.ops.router_rl.route.default: _in_torch}


class _Call(NamedTuple):
    """The arguments of a call that are not tensors, in the order of the operator's schema."""

    k: int
    score: Literal["softmax", "sigmoid"]
    groups: int
    kept: int
    judged_by: int
    renormalise: bool
    scale: float
    fallback: int
    int32: bool
    dispatch: bool
    logits: bool
    path: Path

    @classmethod
    def of(cls, rule: GateRule, **rest: Any) -> _Call:
        names = cls._fields[:8]
        return cls(**{name: getattr(rule, name) for name in names}, **rest)

    @property
    def rule(self) -> GateRule:
        settings: dict[str, Any] = {name: getattr(self, name) for name in self._fields[:8]}
        return GateRule(**settings)

    @property
    def ids(self) -> torch.dtype:
        return torch.int32 if self.int32 else torch.int64

    def by_triton(self, hidden: Tensor) -> bool:
        return self.path == "triton" or (self.path == "auto" and hidden.is_cuda and _has_triton())


_SETTINGS = (  # the fields of `_Call`
    "int k, str score, int groups, int kept, int judged_by, bool renormalise, float scale, int fallback, "
    "bool int32, bool dispatch, bool logits, str path"
)
_SCHEMA = (
    f"(Tensor hidden, Tensor weight, Tensor? bias, Tensor? correction, Tensor? alive, {_SETTINGS}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _in_torch(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    call = _Call(*rest[3:])
    bias, correction, alive = rest[:3]
    routed = torch_path.gate(hidden, weight, bias, correction, alive, call.rule)
    experts = routed.experts.to(call.ids)
    slots = torch_path.dispatch(experts, weight.shape[0]) if call.dispatch else [experts.new_empty(0)] * 3
    # The fake kernel promises contiguous tensors, each its own.
    outputs = (routed.weights, experts, routed.logits, routed.fallback)
    return (*(value.contiguous() for value in outputs), *(value.clone() for value in slots))


def _run(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    call = _Call(*rest[3:])
    if not call.by_triton(hidden):
        return _in_torch(hidden, weight, *rest)
    # Not before it is used: triton is optional.
    from . import triton_path

    bias, correction, alive = rest[:3]
    return triton_path.route(
        hidden,
        weight,
        bias,
        correction,
        alive,
        call.rule,
        ids=call.ids,
        dispatch=call.dispatch,
        logits=call.logits,
    )


def _fake(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    call = _Call(*rest[3:])
    T, E = hidden.shape[0], weight.shape[0]
    real = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return (
        hidden.new_empty((T, call.k), dtype=real),
        hidden.new_empty((T, call.k), dtype=call.ids),
        hidden.new_empty((T if call.logits else 0, E), dtype=real),
        hidden.new_empty((T,), dtype=torch.bool),
        hidden.new_empty((E if call.dispatch else 0,), dtype=call.ids),
        hidden.new_empty((T * call.k if call.dispatch else 0,), dtype=call.ids),
        hidden.new_empty((T, call.k) if call.dispatch else (0,), dtype=call.ids),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, _, _, alive, *settings = inputs
    weights, experts, logits, fallback = output[:4]
    ctx.call = _Call(*settings)
    ctx.save_for_backward(hidden, weight, alive, weights, experts, logits, fallback)
    ctx.mark_non_differentiable(experts, fallback, *output[4:])


def _backward(ctx: Any, grad_weights: Tensor, _: Any, grad_logits: Tensor, *rest: Any) -> tuple[Any, ...]:
    hidden, weight, alive, weights, experts, logits, fallback = ctx.saved_tensors
    routed, call = Routed(weights, experts, logits, fallback), ctx.call
    if call.by_triton(hidden):
        dz = _backward_operator(grad_weights, grad_logits, *routed[:4], alive, *call)
    else:
        dz = gradient.logits_gradient(grad_weights, grad_logits, routed, alive, call.rule)
    gradients = gradient.gradients(dz, hidden, weight, fallback, ctx.needs_input_grad[:3])
    return (*gradients, None, None, *[None] * len(call))


def _run_backward(
    grad_weights: Tensor, grad_logits: Tensor | None, weights: Tensor, experts: Tensor, *rest: Any
) -> Tensor:
    from . import triton_path

    logits, fallback, alive, *settings = rest
    routed = Routed(weights, experts, logits, fallback)
    return triton_path.logits_gradient(grad_weights, grad_logits, routed, alive, _Call(*settings).rule)


def _fake_backward(
    grad_weights: Tensor, grad_logits: Tensor | None, weights: Tensor, experts: Tensor, *rest: Any
) -> Tensor:
    return torch.empty_like(rest[0])


# The backward kernel is a separate node: a graph with gradients is traced through `_backward`.
_backward_operator = torch.library.custom_op(
    "router_rl::route_backward",
    _run_backward,
    mutates_args=(),
    schema="(Tensor grad_weights, Tensor? grad_logits, Tensor weights, Tensor experts, Tensor z, "
    f"Tensor fell, Tensor? alive, {_SETTINGS}) -> Tensor",
)
_backward_operator.register_fake(_fake_backward)
_operator = torch.library.custom_op("router_rl::route", _run, mutates_args=(), schema=_SCHEMA)
_operator.register_fake(_fake)
_operator.register_autograd(_backward, setup_context=_setup)


@cache
def _has_triton() -> bool:
    installed = importlib.util.find_spec("triton") is not None
    if not installed:
        warnings.warn("triton is not installed, so gates on a GPU run in plain torch", stacklevel=3)
    return installed


def _check(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    correction: Tensor | None,
    alive: Tensor | None,
) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise RouterError(
            f"hidden {list(hidden.shape)} must be [T, H] and weight {list(weight.shape)} [E, H]"
        )
    for name, value in (("bias", bias), ("correction", correction), ("alive", alive)):
        if value is not None and value.shape != weight.shape[:1]:
            raise RouterError(f"{name} must be [{weight.shape[0]}], not {list(value.shape)}")
    if alive is not None and alive.dtype != torch.bool:
        raise RouterError(f"alive must be bool, not {alive.dtype}")
