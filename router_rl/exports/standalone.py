"""A trained router for one mixture-of-experts layer of vLLM, SGLang or transformers; needs torch alone.

This file reads `router.json` and `router.safetensors` from its own folder. It provides

    load(folder, device).custom_routing_function(hidden_states, gating_output, topk, renormalize)
        -> (topk_weights float32 [T, k], topk_ids int32 [T, k])
    load(folder).put_into(model, layer)
        -> a layer of a loaded transformers model routes by this router

The router scores the hidden states itself and does not read the layer's own gate (`gating_output`). The
weights of a row sum to 1. Ties go to the lowest id, except in a sigmoid gate of transformers, where the
model's own top-k decides. A non-finite row goes to the fallback expert and is counted in `fallbacks`. `alive`
[N] bool says which experts may be chosen and can be changed between calls (`router.alive[3] = False`).

On a GPU, if router-rl and Triton are installed, a linear router calls the operator `router_rl::route`, whose
kernels route in one launch. All other routers run in torch. No operation synchronises with the GPU, so calls
can be captured in a CUDA graph.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["StandaloneRouter", "load"]


class StandaloneRouter(nn.Module):
    """Routes hidden states [T, D] to experts.

    Args:
        settings: the content of `router.json`.
        tensors: the content of `router.safetensors`.

    Attributes:
        kernels: calls the operator `router_rl::route`, set by `load`; None: the router runs in torch.
    """

    kernels: Any = None
    alive: Tensor
    allowed: Tensor | None
    fallbacks: Tensor
    only: Tensor
    paths: Tensor
    bias: Tensor

    def __init__(self, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.names: list[str] = settings["experts"]
        self.rule: dict[str, Any] = settings["select"]
        self.kind: str = settings["scorer"]["kind"]
        count, rule = len(self.names), self.rule["rule"]
        self.k: int = self.rule.get("k", 1)
        names = ["logits"] if self.kind == "constant" else ["weight", "bias"]
        if self.kind == "mlp":
            numbers = range(len(settings["scorer"]["hidden"]) + 1)
            names = [f"layers.{n}.{part}" for n in numbers for part in names]
        self.layers = nn.ParameterList([tensors[name] for name in names]).requires_grad_(False)
        allowed = settings.get("allowed")
        self.register_buffer("allowed", None if allowed is None else torch.tensor(allowed))
        self.register_buffer("alive", torch.ones(count, dtype=torch.bool))
        self.register_buffer("fallbacks", torch.zeros((), dtype=torch.int64))
        self.register_buffer("bias", torch.tensor(self.rule.get("bias") or [0.0] * count))
        self.families, paths = _branches(self.rule["tree"], count) if rule == "hierarchical" else ([], None)
        self.register_buffer("paths", torch.zeros(0) if paths is None else paths)
        only = torch.full((count + (rule == "adaptive_k"),), -1e4)
        only[settings["fallback"]] = 1.0 if rule == "scored_topk" else 0.0
        if rule == "adaptive_k":
            only[-1] = -5e3
        self.register_buffer(
            "only", only if paths is None else torch.where(paths[settings["fallback"]] > 0, 0.0, -1e4)
        )
        self.fallback: int = settings["fallback"]

    @property
    def parts(self) -> list[Any]:
        """The scorer's parameters in order; faster than iterating over `layers`."""
        return list(self.layers._parameters.values())  # pyright: ignore[reportPrivateUsage]

    def custom_routing_function(
        self, hidden_states: Tensor, gating_output: Tensor | None, topk: int, renormalize: bool
    ) -> tuple[Tensor, Tensor]:
        """Route hidden states, with the signature that the layers of vLLM and SGLang expect.

        Args:
            hidden_states: [T, D] float.
            gating_output: output of the layer's own gate; not read.
            topk: must be the router's k.
            renormalize: has no effect, since the weights already sum to 1.

        Returns:
            weights [T, k] float32 and ids [T, k] int32.

        Raises:
            ValueError: topk is not the router's k.
        """
        if topk != self.k:
            raise ValueError(f"topk={topk} but the router was trained to choose {self.k}; set top_k to that")
        weights, ids, _ = self.choose(hidden_states)
        return weights, ids

    def put_into(self, model: Any, layer: int) -> Literal["folded", "attached"]:
        """Make a layer of a loaded mixture-of-experts model of transformers route by this router.

        A linear router becomes the stock gate's own parameters, which `save_pretrained` saves (`folded`). Any
        other router stays a module that the gate calls; it is not saved (`attached`). The model's own scale
        of the weights is kept. All layers run the same number of experts: use routers with the same k.

        Args:
            model: as AutoModelForCausalLM loads it.
            layer: layer number; the layer must have a gate for N experts.

        Returns:
            "folded" or "attached".

        Raises:
            ValueError: the layer has no such gate, or its gate does not renormalise weights.
        """
        gate = _gate_of(model, layer)
        width = gate.weight.shape[1] if self.kind == "constant" else self.layers[0].shape[1]
        shape = [len(self.names), width]
        if list(gate.weight.shape) != shape:
            raise ValueError(f"the gate of layer {layer} is {list(gate.weight.shape)}, the router {shape}")
        if not getattr(gate, "norm_topk_prob", True):
            raise ValueError("norm_topk_prob is false: the experts expect weights that do not sum to 1")
        folds = self._folds_into(gate)
        if folds:
            with torch.no_grad():
                gate.weight.copy_(self.layers[0])
                if getattr(gate, "bias", None) is not None:
                    gate.bias.copy_(self.layers[1])
                if hasattr(gate, "e_score_correction_bias"):
                    gate.e_score_correction_bias.copy_(self.bias)
        mixin = (
            _RoutedGate if not folds else None if hasattr(gate, "e_score_correction_bias") else _FoldedGate
        )
        if mixin:  # the module object stays: transformers records router logits from it
            gate.__class__ = type(f"Routed{type(gate).__name__}", (mixin, type(gate)), {})
        if not folds:
            gate.router = self.to(gate.weight.device)
            gate.register_parameter("weight", None)  # it would be saved, and mislead
            model.save_pretrained = _refuse_to_save
        gate.top_k = model.config.num_experts_per_tok = self.k
        if hasattr(model, "num_experts_per_tok"):
            model.num_experts_per_tok = self.k
        return "folded" if folds else "attached"

    def _folds_into(self, gate: Any) -> bool:
        """Whether the stock gate's parameters can be this router."""
        rule, sigmoid = self.rule, hasattr(gate, "e_score_correction_bias")
        groups, kept = rule.get("groups", 1), rule.get("kept", 1)
        stock = (getattr(gate, "num_group", None) or 1, getattr(gate, "topk_group", None) or 1)
        return (
            self.kind == "linear"
            and self.allowed is None
            and rule["rule"] in ("hard", "topk", "scored_topk")
            and rule.get("score", "softmax") == ("sigmoid" if sigmoid else "softmax")
            and (sigmoid or not self.bias.any())
            and (getattr(gate, "bias", None) is not None or not self.layers[1].any())
            and (stock[0] == 1 if groups == 1 else (*stock, 2) == (groups, kept, rule["judged_by"]))
        )

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Route hidden states [T, D] float.

        Returns:
            experts [T, k] int64 (N: no expert), weights [T, k] float32, logits [T, outputs] float32 and
            fallback [T] bool.
        """
        experts, weights, logits, fallback = self._route(hidden_states)
        none = torch.zeros(len(hidden_states), dtype=torch.bool, device=hidden_states.device)
        return experts, weights, logits, none if fallback is None else fallback

    def choose(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights [T, k], ids [T, k] int32, logits; an empty slot: the next best expert, weight 0."""
        experts, weights, logits, fallback = self._route(hidden_states)
        if fallback is not None:
            self.fallbacks += fallback.sum()
        if self.rule["rule"] == "adaptive_k":
            experts = _largest(logits[:, :-1], self.k)
        return weights, experts.int(), logits

    def _route(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """As `forward`; the fallbacks are None if a check of the values shows that there are none."""
        if self.kernels is not None:
            return self.kernels(self, hidden_states)
        x = hidden_states.float()
        logits = self._score(x)
        if x.is_cpu and not torch.compiler.is_compiling() and self._is_plain(x, logits):
            return *self._select(logits), logits, None
        # Ten times faster than isfinite().all(); comparisons with NaN are False.
        finite = (x.abs().amax(dim=-1) < float("inf")) & (logits.abs().amax(dim=-1) < float("inf"))
        logits = torch.where(finite.unsqueeze(-1), logits, self.only)
        available = self.alive
        if self.allowed is not None:
            disallowed = ~self._selectable(self.allowed)
            logits = logits.masked_fill(disallowed, -2e4)  # below the -1e4 of `only`
            available = available & self.allowed
        available = available.any()
        masked = logits.masked_fill(~self._selectable(self.alive), float("-inf"))
        logits = torch.where(available, masked, self.only)
        experts, weights = self._select(logits)
        return experts, weights, logits, ~(finite & available)

    def _is_plain(self, x: Tensor, logits: Tensor) -> bool:
        """Whether no expert is masked and all values are finite (a cheap check on a CPU, by sums)."""
        if self.allowed is not None or not math.isfinite(logits.sum().item()):
            return False
        # A non-finite input of a linear layer makes its outputs non-finite.
        return (self.kind == "linear" or math.isfinite(x.sum().item())) and bool(self.alive.all())

    def _score(self, x: Tensor) -> Tensor:
        parts = self.parts
        if self.kind == "constant":
            return parts[0].expand(x.shape[0], -1)
        for number in range(0, len(parts), 2):
            x = F.linear(x.relu() if number else x, parts[number], parts[number + 1])
        return x

    def _selectable(self, experts: Tensor) -> Tensor:
        """Outputs that may be chosen, [outputs] bool: branches to these experts, and always "no expert"."""
        if self.rule["rule"] == "adaptive_k":
            return torch.cat([experts, torch.ones_like(experts[:1])])
        if self.families:
            return (experts.float() @ self.paths) > 0
        return experts

    def _select(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        rule = self.rule["rule"]
        if rule == "hierarchical":
            best = [F.one_hot(logits[:, a:b].argmax(dim=-1), b - a) for a, b in self.families]
            steps = torch.cat(best, dim=-1).float() @ self.paths.T
            experts = (steps == self.paths.sum(dim=-1)).float().argmax(dim=-1, keepdim=True)
            return experts, torch.ones_like(experts, dtype=torch.float32)
        if rule == "adaptive_k":
            no_expert = len(self.names)
            experts = _largest(logits[:, :-1], self.k)
            used = logits.gather(-1, experts) > logits[:, -1:]
            used[:, 0] = True
            weights = logits.gather(-1, experts).masked_fill(~used, float("-inf")).softmax(dim=-1)
            return torch.where(used, experts, no_expert), weights
        if rule == "scored_topk":
            experts = _largest(self._ranking(logits), self.k)
            return experts, self._scored_weights(logits.gather(-1, experts))
        experts = _largest(logits, self.k)  # hard, topk, soft
        return experts, logits.gather(-1, experts).softmax(dim=-1)

    def _ranking(self, logits: Tensor) -> Tensor:
        score = self.rule["score"]
        if score == "relu":
            merit = logits.relu()
            rank = logits + self.bias
        else:
            merit = logits.softmax(dim=-1) if score == "softmax" else logits.sigmoid()
            rank = logits
        merit = torch.where(merit > 0, merit, merit - 1e3) + self.bias  # a score of 0 ranks after all others
        if score == "sigmoid" or (score == "softmax" and self.rule["bias"]):
            rank = merit
        groups = self.rule["groups"]
        if groups > 1:
            grouped = merit.unflatten(-1, (groups, -1))
            best = grouped.topk(min(self.rule["judged_by"], grouped.shape[-1])).values.sum(dim=-1)
            kept = torch.zeros_like(best, dtype=torch.bool)
            kept = kept.scatter(-1, _largest(best, self.rule["kept"]), True)
            rank = torch.where(kept.unsqueeze(-1).expand_as(grouped).flatten(-2), rank, rank - 1e6)
        return rank.masked_fill(logits == float("-inf"), float("-inf"))

    def _scored_weights(self, logits: Tensor) -> Tensor:
        if self.rule["score"] == "relu":
            active = logits.relu()
            total = active.sum(dim=-1, keepdim=True)
            first = torch.zeros_like(logits)
            first[:, 0] = 1.0
            return torch.where(total > 0, active / total.clamp(min=torch.finfo(torch.float32).tiny), first)
        return (F.logsigmoid(logits) if self.rule["score"] == "sigmoid" else logits).softmax(dim=-1)


class _RoutedGate(nn.Module):
    """Mixin before the class of a stock gate of transformers: the gate calls a router that does not fold."""

    router: StandaloneRouter

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [T, N], weights [T, k] and experts [T, k] int64 for hidden states [..., D]."""
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        weights, ids, logits = self.router.choose(rows)
        if self.router.families:  # an expert's logit: the sum over the branches on its path
            logits = logits.clamp(min=-2e4) @ self.router.paths.T
        scale = getattr(self, "routed_scaling_factor", 1.0)
        return logits[:, : len(self.router.names)], weights * scale, ids.long()


class _FoldedGate(nn.Module):
    """Mixin before the class of a stock gate, whose order of ties is undefined: they go to the lowest id."""

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the stock gate's output; equal logits have equal weights, so only ids can change."""
        logits, weights, _ = super().forward(hidden_states)
        return logits, weights, _largest(logits, weights.shape[-1])


def load(folder: Path | str = Path(__file__).parent, device: torch.device | str = "cpu") -> StandaloneRouter:
    """Load the router on a device; `folder` has `router.json` and `router.safetensors`.

    Raises:
        ValueError: the two files are not from one export.
    """
    settings = json.loads((Path(folder) / "router.json").read_text(encoding="utf-8"))
    content = (Path(folder) / "router.safetensors").read_bytes()
    described = {name: value for name, value in settings.items() if name != "digest"}
    described = json.dumps(described, sort_keys=True, separators=(",", ":")).encode()
    if settings.get("schema_version") == 1:  # its digest covers the weights and the names only
        described = json.dumps(settings["experts"]).encode()
    if settings["digest"] != "sha256:" + hashlib.sha256(described + b"\0" + content).hexdigest():
        raise ValueError(
            f"{folder}: router.json and router.safetensors are not from one export; export again"
        )
    router = StandaloneRouter(settings, _tensors(content)).to(device).eval()
    router.kernels = _kernels_for(router) if router.alive.is_cuda else None
    return router


def _refuse_to_save(*_: Any, **__: Any) -> None:
    raise ValueError("save_pretrained would lose the attached routers: save the model before put_into")


def _gate_of(model: Any, layer: int) -> Any:
    for module in model.model.layers[layer].modules():
        if hasattr(module, "top_k") and getattr(getattr(module, "weight", None), "ndim", 0) == 2:
            return module
    raise ValueError(f"layer {layer} of {type(model).__name__} has no gate of a mixture of experts")


def _tensors(content: bytes) -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = torch.frombuffer(bytearray(content[begin:end]), dtype=torch.float32).view(
            entry["shape"]
        )
    return tensors


def _largest(scores: Tensor, k: int) -> Tensor:
    """Ids [T, k] of the largest scores, best first; ties go to the lowest id, unlike in torch.topk."""
    if k == 1:
        return scores.argmax(dim=-1, keepdim=True)  # the first maximum
    count = scores.shape[-1]
    if scores.is_cpu and not torch.compiler.is_compiling():
        values, ids = scores.topk(min(k + 1, count))
        if (values[:, :-1] > values[:, 1:]).all():
            return ids[:, :k]
    elif count <= 2**15:
        # A float32 leaves 29 bits of a double's mantissa unused, room for the id: keys have no ties.
        value = (scores.double() * 2.0**-10).nan_to_num(2.0**120, 2.0**119, -(2.0**119))
        step = torch.arange(count, device=scores.device, dtype=torch.float64) * 2.0**-40
        return (value - (value.abs() + 2.0**-200) * step).topk(k).indices
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def _kernels_for(router: StandaloneRouter) -> Any:
    """The kernels for a router; None if they do not support its rule, or are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("router_rl", "triton")):
        return None
    return importlib.import_module("router_rl.routing.kernels.exported").kernels_for(router)


def _branches(tree: list[Any], experts: int) -> tuple[list[tuple[int, int]], Tensor]:
    """The index range of each family of sibling branches, and the path [N, branches] to each expert."""
    families: list[tuple[int, int]] = []
    below: list[list[int]] = []
    queue: list[Any] = [tree]
    while queue:
        node = queue.pop(0)
        if not isinstance(node, int):
            families.append((len(below), len(below) + len(node[1])))
            below.extend(_leaves(child) for child in node[1])
            queue.extend(node[1])
    paths = [[float(expert in branch) for branch in below] for expert in range(experts)]
    return families, torch.tensor(paths)


def _leaves(node: Any) -> list[int]:
    return [node] if isinstance(node, int) else [leaf for child in node[1] for leaf in _leaves(child)]
