"""Put routers into a loaded transformers model, verify that they take effect, and restore the model.

A router that folds becomes the stock gate's own parameters. For any other router (a network, adaptive k), the
gate's class becomes a subclass that calls the router. The gate stays the same module object: transformers
records router logits from the original module objects, so a replacement would not be recorded.
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
        folded: layers whose router became the stock gate's parameters.
        auxiliary_loss: the model's load balancing loss on the checked tokens; None if it has none.
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

    One forward pass verifies that every gate's recorded logits are those of its router, that the auxiliary
    loss is finite, and that the model's parameters are the routers' own. If not, the model is restored.

    Args:
        model: a causal language model of transformers.
        routers: one for each layer that has a gate, in order, all with the same k. Routers that do not fold
            stay modules of the model: they run and train, but `save_pretrained` raises an error, since a
            stock model cannot load them. Export or distil them first.
        tokens: [B, L] int64 for the check; a few low ids if None.

    Returns:
        the swap, which can restore the model.

    Raises:
        RouterError: a router does not fit the model, or the check failed.
        InputError: the model is not a mixture of experts of a supported architecture.
    """
    host = host_of_model(model)
    if len(routers) != len(host.layers):
        raise RouterError(f"there are {len(routers)} routers but {len(host.layers)} layers have gates")
    planned = [_plan(host, router) for router in routers]
    ks = {_experts_per_token(host, plan) for plan in planned}
    if len(ks) > 1:
        raise RouterError(f"layers run {', '.join(sorted(map(str, ks)))} experts per token; use one number")
    gates = [cast(nn.Module, model.get_submodule(host.layout.gate_module(layer))) for layer in host.layers]
    before = [_snapshot(host, gate) for gate in gates]
    try:
        expected: dict[str, nn.Parameter] = {}
        for layer, gate, plan in zip(host.layers, gates, planned, strict=True):
            name = host.layout.gate_module(layer)
            expected |= {f"{name}.{key}": value for key, value in _put(host, gate, plan).items()}
        _set_k(model, ks.pop())
        if any(isinstance(plan, Router) for plan in planned):
            model.save_pretrained = _refuse_to_save
        loss = _check(model, host, gates, planned, tokens)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        wrong = [name for name, value in expected.items() if parameters.get(name) is not value]
        if wrong:
            raise RouterError(f"{wrong[0]} is not the router's parameter: the swap did not take effect")
    except BaseException:
        _restore(model, before)
        raise
    folded = tuple(layer for layer, plan in zip(host.layers, planned, strict=True) if isinstance(plan, Gate))
    return Swap(layers=host.layers, folded=folded, auxiliary_loss=loss, _before=before, _model=model)


class _RoutedGate(nn.Module):
    """Mixin before the class of a stock gate: the gate calls a router that does not fold."""

    router: Router
    segments: int

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [T, E], weights [T, k] and experts [T, k] for hidden states [..., H].

        An empty slot gets the token's first expert with weight 0, which saves no time. The id E would save
        it, but outside expert parallelism grouped matrix products leave such rows uninitialised, and 0 times
        an uninitialised value can be NaN.
        """
        routing = self.router(hidden_states.reshape(-1, hidden_states.shape[-1]))
        segments, rows = self.segments, len(self.router.experts)
        within = torch.arange(segments, device=routing.experts.device)
        filled = torch.where(routing.experts < rows, routing.experts, routing.experts[:, :1])
        experts = (filled.unsqueeze(-1) * segments + within).flatten(1)
        # The experts of an assembly expect weights that sum to the number of segments.
        weights = routing.weights.repeat_interleave(segments, dim=-1)
        return routing.logits[:, :rows].repeat_interleave(segments, dim=-1), weights, experts


def _plan(host: Host, router: LayerRouter) -> Gate | Router:
    """The gate's own parameters if the router folds into this host, else the router."""
    try:
        return host.take(fold(router))
    except RouterError:
        if not isinstance(router, Router):
            raise
    if router.state or router.features != host.hidden:
        raise RouterError(
            f"the router takes {router.features} features and {router.state_size} numbers of state, but a "
            f"gate receives only the hidden state of size {host.hidden}"
        )
    if not router.rule.causal:
        raise RouterError(
            f"{router.rule.name} selection reads later tokens, which do not exist yet during generation"
        )
    if not host.renormalises or getattr(host.config, "routed_scaling_factor", 1.0) not in (
        1.0,
        host.segments(len(router.experts)),
    ):
        raise RouterError("the model scales its experts' weights, but a router's weights sum to 1")
    if not router.rule.normalised:
        raise RouterError(f"the weights of {router.rule.name} selection do not sum to 1, the model's do")
    return router


def _experts_per_token(host: Host, plan: Gate | Router) -> int:
    if isinstance(plan, Gate):
        return plan.k or host.k
    return plan.rule.k * host.segments(len(plan.experts))


def _snapshot(host: Host, gate: nn.Module) -> _Before:
    names = ("weight", "bias", "e_score_correction_bias")
    tensors = {name: value for name in names if isinstance(value := getattr(gate, name, None), Tensor)}
    return _Before(gate, type(gate), tensors, int(cast(Any, gate).top_k), host.k)


def _put(host: Host, gate: nn.Module, plan: Gate | Router) -> dict[str, nn.Parameter]:
    """Change one gate; returns the parameters that it must have after the swap, by name."""
    weight = cast(Tensor, gate.weight)
    if isinstance(plan, Router):
        kind = type(gate)
        gate.__class__ = type(f"Routed{kind.__name__}", (_RoutedGate, kind), {})
        routed = cast(_RoutedGate, gate)
        routed.segments = host.segments(len(plan.experts))
        routed.router = plan.to(weight.device)
        gate.register_parameter("weight", None)  # unused, but save_pretrained would save it
        return {f"router.{name}": parameter for name, parameter in plan.named_parameters()}
    learned = {"weight": plan.weight} if plan.bias is None else {"weight": plan.weight, "bias": plan.bias}
    parameters = {
        name: nn.Parameter(value.to(weight), weight.requires_grad) for name, value in learned.items()
    }
    for name, parameter in parameters.items():
        gate.register_parameter(name, parameter)
    if plan.selection_bias is not None:
        cast(Any, gate).e_score_correction_bias = plan.selection_bias.to(weight.device)
    cast(Any, gate).top_k = plan.k
    return parameters


def _set_k(model: Any, k: int) -> None:
    """Set the number of experts per token in the config and for the auxiliary loss."""
    model.config.num_experts_per_tok = k
    if hasattr(model, "num_experts_per_tok"):
        model.num_experts_per_tok = k


def _refuse_to_save(*_: Any, **__: Any) -> None:
    raise RouterError(
        "save_pretrained would save gates without weights, since not all routers fold: save the model before "
        "the swap and call swap_routers after loading it, or distil the routers first"
    )


def _restore(model: Any, before: list[_Before]) -> None:
    model.__dict__.pop("save_pretrained", None)
    for old in before:
        if hasattr(old.gate, "router"):
            del old.gate.router, old.gate.segments
        old.gate.__class__ = old.kind
        for name, tensor in old.tensors.items():
            setattr(old.gate, name, tensor)
        cast(Any, old.gate).top_k = old.top_k
        _set_k(model, old.config_k)


@torch.no_grad()
def _check(
    model: Any, host: Host, gates: list[nn.Module], planned: list[Gate | Router], tokens: Tensor | None
) -> float | None:
    """Run one forward pass, compare the recorded logits with the routers', and return the auxiliary loss."""
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
            raise RouterError(f"the logits of layer {host.layers[at]} are not those of its router")
    loss = getattr(outputs, "aux_loss", None)  # None in architectures that balance the load by a bias
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
