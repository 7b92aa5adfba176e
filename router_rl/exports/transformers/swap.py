"""Put routers into a loaded transformers model, verify that they took effect, and restore the model.

A router that folds becomes the stock gate's own parameters. For any other (a network, adaptive k), the gate
becomes a subclass of its class that calls the router. The gate stays the same module object: transformers
records router logits from the module objects it saw first, so a replacement would not be recorded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...routing import Router, RouterError
from .host import Host, host_of_model
from .stock_gate import Gate, LayerRouter, fold

__all__ = ["Swap", "swap_routers"]


@dataclass(frozen=True, kw_only=True)
class Swap:
    """A swap that `restore` undoes.

    Attributes:
        layers: layers whose gates were changed.
        folded: those whose router became the stock gate's parameters.
        auxiliary_loss: the model's load balancing loss on the checked tokens; None where it has none.
    """

    layers: tuple[int, ...]
    folded: tuple[int, ...]
    auxiliary_loss: float | None
    _before: list[_Before] = field(repr=False)
    _model: Any = field(repr=False)

    def restore(self) -> None:
        """Restore the original gates."""
        _restore(self._model, self._before)


@dataclass(frozen=True)
class _Before:
    """A gate before the swap."""

    gate: nn.Module
    kind: type[nn.Module]
    tensors: dict[str, Tensor]
    top_k: int
    config_k: int


def swap_routers(model: Any, routers: Sequence[LayerRouter], *, tokens: Tensor | None = None) -> Swap:
    """Make a loaded mixture-of-experts model route with these routers.

    One forward pass verifies it: every gate's recorded logits are those of its router, the auxiliary loss is
    finite, and the model's parameters are the routers' own. If not, the model is restored.

    Args:
        model: a causal language model of transformers.
        routers: one for each layer that has a gate, in order. Those that do not fold stay modules of the
            model: they run and train, but `save_pretrained` refuses, since a stock model has no place for
            them. Export them, or distil them first.
        tokens: [B, L] int64 for the check; a few low ids if None.

    Returns:
        the swap, to restore the model.

    Raises:
        RouterError: a router does not fit the model, or the check failed.
        InputError: the model is not a mixture of experts of a known architecture.
    """
    host = host_of_model(model)
    if len(routers) != len(host.layers):
        raise RouterError(f"there are {len(routers)} routers but {len(host.layers)} layers have gates")
    planned = [_plan(host, router) for router in routers]
    ks = {gate.k for gate in planned if isinstance(gate, Gate)}
    if len(ks) > 1:
        raise RouterError(f"layers run {', '.join(sorted(map(str, ks)))} experts per token; use one number")
    gates = [cast(nn.Module, model.get_submodule(host.layout.gate_module(layer))) for layer in host.layers]
    before = [_snapshot(host, gate) for gate in gates]
    try:
        ours: dict[str, nn.Parameter] = {}
        for layer, gate, plan in zip(host.layers, gates, planned, strict=True):
            name = host.layout.gate_module(layer)
            ours |= {f"{name}.{key}": value for key, value in _put(host, gate, plan).items()}
        if ks:
            _set_k(model, ks.pop() or host.k)
        if any(isinstance(plan, Router) for plan in planned):
            model.save_pretrained = _refuse_to_save
        loss = _check(model, host, gates, planned, tokens)
        held = dict(model.named_parameters(remove_duplicate=False))
        lost = [name for name, value in ours.items() if held.get(name) is not value]
        if lost:
            raise RouterError(f"{lost[0]} is not the router's parameter: the swap did not take effect")
    except BaseException:
        _restore(model, before)
        raise
    folded = tuple(layer for layer, plan in zip(host.layers, planned, strict=True) if isinstance(plan, Gate))
    return Swap(layers=host.layers, folded=folded, auxiliary_loss=loss, _before=before, _model=model)


class _RoutedGate(nn.Module):
    """What a stock gate becomes when its router does not fold: mixed in before the host's class."""

    router: Router
    segments: int

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [T, E], weights [T, k] and experts [T, k] of hidden states [..., H].

        An empty slot gets the token's first expert with weight 0: the result is the same, but no time is
        saved. The id E would save it, but outside expert parallelism grouped matrix products leave such rows
        uninitialised, and 0 times an uninitialised value can be NaN.
        """
        routing = self.router(hidden_states.reshape(-1, hidden_states.shape[-1]))
        each, rows = self.segments, len(self.router.experts)
        within = torch.arange(each, device=routing.experts.device)
        chosen = torch.where(routing.experts < rows, routing.experts, routing.experts[:, :1])
        experts = (chosen.unsqueeze(-1) * each + within).flatten(1)
        # The experts of an assembly expect weights that sum to the number of segments.
        weights = routing.weights.repeat_interleave(each, dim=-1)
        return routing.logits[:, :rows].repeat_interleave(each, dim=-1), weights, experts


def _plan(host: Host, router: LayerRouter) -> Gate | Router:
    """The gate's own parameters where the router folds into this host, else the router."""
    try:
        return host.take(fold(router))
    except RouterError:
        if not isinstance(router, Router):
            raise
    if router.state or router.features != host.hidden:
        raise RouterError(
            f"the router takes {router.features} features and {router.state_size} numbers of state, but a "
            f"gate receives the hidden state of {host.hidden} alone"
        )
    if not router.rule.causal:
        raise RouterError(
            f"{router.rule.name} selection reads later tokens, which generation does not have yet"
        )
    if not host.renormalises or getattr(host.config, "routed_scaling_factor", 1.0) not in (
        1.0,
        host.segments(len(router.experts)),
    ):
        raise RouterError("the model scales its experts' weights, which sum to 1 in a router")
    return router


def _snapshot(host: Host, gate: nn.Module) -> _Before:
    names = ("weight", "bias", "e_score_correction_bias")
    tensors = {name: value for name in names if isinstance(value := getattr(gate, name, None), Tensor)}
    return _Before(gate, type(gate), tensors, int(cast(Any, gate).top_k), host.k)


def _put(host: Host, gate: nn.Module, plan: Gate | Router) -> dict[str, nn.Parameter]:
    """Change one gate; returns the parameters that it must have after the swap, by their names in it."""
    weight = cast(Tensor, gate.weight)
    if isinstance(plan, Router):
        kind = type(gate)
        gate.__class__ = type(f"Routed{kind.__name__}", (_RoutedGate, kind), {})
        routed = cast(_RoutedGate, gate)
        routed.segments = host.segments(len(plan.experts))
        routed.router = plan.to(weight.device)
        gate.register_parameter("weight", None)  # it would be saved, and mislead
        return {f"router.{name}": parameter for name, parameter in plan.named_parameters()}
    learned = {"weight": plan.weight} if plan.bias is None else {"weight": plan.weight, "bias": plan.bias}
    ours = {name: nn.Parameter(value.to(weight), weight.requires_grad) for name, value in learned.items()}
    for name, parameter in ours.items():
        gate.register_parameter(name, parameter)
    if plan.selection_bias is not None:
        cast(Any, gate).e_score_correction_bias = plan.selection_bias.to(weight.device)
    cast(Any, gate).top_k = plan.k
    return ours


def _set_k(model: Any, k: int) -> None:
    """Set the number of experts per token wherever the model reads it, its auxiliary loss included."""
    model.config.num_experts_per_tok = k
    if hasattr(model, "num_experts_per_tok"):
        model.num_experts_per_tok = k


def _refuse_to_save(*_: Any, **__: Any) -> None:
    raise RouterError(
        "save_pretrained would leave the gates without weights, since not all routers fold: save the model "
        "before the swap, and swap_routers after loading it; or distil the routers first"
    )


def _restore(model: Any, before: list[_Before]) -> None:
    model.__dict__.pop("save_pretrained", None)
    for was in before:
        if hasattr(was.gate, "router"):
            del was.gate.router, was.gate.segments
        was.gate.__class__ = was.kind
        for name, tensor in was.tensors.items():
            setattr(was.gate, name, tensor)
        cast(Any, was.gate).top_k = was.top_k
        _set_k(model, was.config_k)


@torch.no_grad()
def _check(
    model: Any, host: Host, gates: list[nn.Module], planned: list[Gate | Router], tokens: Tensor | None
) -> float | None:
    """Run one forward pass and compare the recorded logits with the routers'; returns the auxiliary loss."""
    if tokens is None:
        tokens = torch.arange(8).remainder(model.config.vocab_size).unsqueeze(0)
    captured: list[Tensor] = []
    hooks = [gate.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0])) for gate in gates]
    try:
        outputs = model(tokens.to(model.device), use_cache=False, output_router_logits=True)
    except IndexError as error:  # the auxiliary loss of no logits
        raise RouterError(f"0 of {len(gates)} gates are recorded: the swap did not take effect") from error
    finally:
        for hook in hooks:
            hook.remove()
    recorded = outputs.router_logits
    if recorded is None or len(recorded) != len(gates) or len(captured) != len(gates):
        count = 0 if recorded is None else len(recorded)
        raise RouterError(f"{count} of {len(gates)} gates are recorded: the swap did not take effect")
    for at, plan in enumerate(planned):
        hidden = captured[at].reshape(-1, host.hidden)
        expected = _logits(host, plan, hidden)
        logits = recorded[at].reshape(len(hidden), -1).float()
        # bfloat16 products have three digits.
        allowed = 0.03 if logits.dtype != torch.float32 or hidden.dtype != torch.float32 else 1e-4
        if not torch.allclose(logits, expected, atol=allowed * float(expected.abs().max() + 1), rtol=0):
            raise RouterError(f"layer {host.layers[at]} routes by other logits than its router's")
    loss = getattr(outputs, "aux_loss", None)  # architectures that balance by a bias have none
    if loss is not None and not math.isfinite(float(loss)):
        raise RouterError(f"the auxiliary loss is {float(loss)} with these routers")
    return None if loss is None else float(loss)


def _logits(host: Host, plan: Gate | Router, hidden: Tensor) -> Tensor:
    if isinstance(plan, Router):
        rows = len(plan.experts)
        logits, _ = plan.logits(hidden)
        return logits[:, :rows].repeat_interleave(host.segments(rows), dim=-1)
    bias = None if plan.bias is None else plan.bias.to(hidden.device)
    return nn.functional.linear(hidden.float(), plan.weight.to(hidden.device), bias)
