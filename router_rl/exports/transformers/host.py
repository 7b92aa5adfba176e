"""The host of a router: a mixture-of-experts model, its number of experts, and what its gates compute."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts import InputError
from experts.moe import Checkpoint, Layout, layout_of
from experts.moe.huggingface import read_configuration

from ...routing import RouterError
from .patch_journal import is_interrupted, recover_patch
from .stock_gate import Gate

__all__ = ["Host", "host_of_folder", "host_of_model"]


@dataclass(frozen=True, kw_only=True)
class Host:
    """A mixture-of-experts model.

    Attributes:
        config: the model's transformers configuration.
        layout: names of its gates' tensors, and what the gates compute.
        layers: layers that have a gate.
        experts: E, number of routed experts of a layer.
        k: experts per token.
        hidden: H, size of the hidden state.
    """

    config: Any
    layout: Layout
    layers: tuple[int, ...]
    experts: int
    k: int
    hidden: int

    @property
    def architecture(self) -> str:
        """The class of stock transformers that loads the model, such as `Glm4MoeForCausalLM`."""
        architectures = getattr(self.config, "architectures", None)
        if architectures:
            return str(architectures[0])
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[self.config.model_type])

    def warnings(self, k: int) -> tuple[str, ...]:
        """Return warnings to read before running the model with k experts per token.

        Args:
            k: routed experts per token, in the model's own experts.
        """
        if k < self.experts:
            return ()
        return (
            f"every token runs all {self.experts} routed experts of each layer: the router only weights them "
            "and saves no compute; train it with fewer experts per token, or assemble more experts",
        )

    @property
    def renormalises(self) -> bool:
        """Whether the weights of the chosen experts sum to 1 (times a scale that the experts expect)."""
        return bool(getattr(self.config, "norm_topk_prob", True))

    def segments(self, rows: int) -> int:
        """Return the number of the model's experts per expert of a router: a donor's segments, or 1.

        Args:
            rows: number of experts of the router.

        Raises:
            RouterError: the number fits neither the model's experts nor the donors that they were cut from.
        """
        if rows == self.experts:
            return 1
        segments, rest = divmod(self.experts, max(rows, 1))
        scale = getattr(self.config, "routed_scaling_factor", None)
        if rest == 0 and scale == segments:  # in an assembly, weights sum to the number of segments
            return segments
        raise RouterError(f"the router has {rows} experts but the model's layers have {self.experts}")

    def take(self, gate: Gate) -> Gate:
        """Convert a router's gate to the form that this host stores, with k in the host's own experts.

        Args:
            gate: gate of a router; one row for each of the host's experts, or for each donor.

        Raises:
            RouterError: sizes do not fit, or the host's gate computes another function.
        """
        rows, hidden = gate.weight.shape
        if hidden != self.hidden:
            raise RouterError(f"the router takes {hidden} features but the hidden state has {self.hidden}")
        segments = self.segments(rows)
        k = self.k if gate.k is None else gate.k * segments
        kind = self.config.model_type
        if self.renormalises and not gate.normalised:
            raise RouterError(
                f"the gates of this {kind} renormalise the weights of a token's experts, but the router does "
                "not (unnormalised_topk); train it on this model"
            )
        if gate.normalised and not self.renormalises:
            raise RouterError(
                f"the gates of this {kind} do not renormalise weights (norm_topk_prob is false), but the "
                "router does; the experts expect smaller weights"
            )
        if gate.score != self.layout.score and k > segments:
            raise RouterError(
                f"the router weights experts by {gate.score} but {self.architecture} by {self.layout.score}, "
                f"which agree only for one expert per token; train it with ScoredTopK(score="
                f"{self.layout.score!r}) (problem.score {self.layout.score} of token_moe), or assemble the "
                "mixture in the other form"
            )
        groups = (
            int(getattr(self.config, "n_group", None) or 1),
            int(getattr(self.config, "topk_group", None) or 1),
        )
        if (gate.groups, gate.kept) != groups and (gate.groups > 1 or groups[0] > 1):
            raise RouterError(
                f"the router keeps {gate.kept} of {gate.groups} groups, the model {groups[1]} of {groups[0]}"
            )
        selection = gate.selection_bias
        if selection is not None and not self.layout.selection_bias:
            raise RouterError(f"the gates of {kind} have no selection bias; train without it, or distil")
        if self.layout.selection_bias and selection is None:
            selection = torch.zeros(rows)
        if gate.score != self.layout.score:
            gate = _scaled_down(gate)
        return replace(
            gate,
            weight=gate.weight.repeat_interleave(segments, dim=0),
            bias=_repeated(self._logit_bias(gate), segments),
            selection_bias=_repeated(selection, segments),
            k=k,
        )

    def _logit_bias(self, gate: Gate) -> Tensor | None:
        """The bias in the host's form; an error if the host has none and the bias changes the routing."""
        if self.layout.bias:
            return torch.zeros(len(gate.weight)) if gate.bias is None else gate.bias
        if gate.bias is None or not gate.bias.any():
            return None
        if self.layout.score == "softmax" and bool((gate.bias == gate.bias[0]).all()):
            return None  # adding a constant to all logits does not change the softmax
        raise RouterError(
            f"the gates of {self.config.model_type} have no bias on their logits; train the router without, "
            "or distil it"
        )


def host_of_folder(folder: Path | str) -> tuple[Host, Checkpoint]:
    """Read the host in a model's folder.

    If a patch of the model was interrupted, it is finished or undone first, with a warning.

    Args:
        folder: folder of a mixture-of-experts model, as transformers saves it.

    Returns:
        the host, and the model's tensors.

    Raises:
        InputError: the folder has no mixture of experts of a supported architecture.
    """
    if is_interrupted(Path(folder)):
        warnings.warn(f"{folder}: {recover_patch(folder)}", stacklevel=2)
    config = read_configuration(folder)
    weights = Checkpoint("model", folder)
    layout = layout_of(config)
    layers = [layer for layer in range(config.num_hidden_layers) if layout.gate_weight(layer) in weights]
    return _host(config, layout, layers, str(folder)), weights


def host_of_model(model: Any) -> Host:
    """Return the host of a loaded causal language model.

    Args:
        model: a model as AutoModelForCausalLM loads it.

    Raises:
        InputError: the architecture is not supported, or the model was loaded from a folder whose patch was
            interrupted.
    """
    source = str(getattr(model.config, "name_or_path", None) or "")
    if source and is_interrupted(Path(source)):
        problem = "was loaded while its folder was being patched"
        raise InputError("model", source, problem, "run train-router patch --recover, and load it again")
    layout = layout_of(model.config)
    modules = {name for name, _ in model.named_modules()}
    layers = [
        layer for layer in range(model.config.num_hidden_layers) if layout.gate_module(layer) in modules
    ]
    return _host(model.config, layout, layers, type(model).__name__)


def _host(config: Any, layout: Layout, layers: list[int], source: str) -> Host:
    if not layers:
        raise InputError("model", source, "has no gates", "give a mixture of experts")
    return Host(
        config=config,
        layout=layout,
        layers=tuple(layers),
        experts=int(getattr(config, "num_local_experts", None) or config.num_experts),
        k=int(config.num_experts_per_tok),
        hidden=int(config.hidden_size),
    )


def _scaled_down(gate: Gate) -> Gate:
    """The gate with smaller logits: float32 sigmoids of logits above 17 are all 1, and would tie.

    Used for top-1 routers, whose weight is 1 for any logits. The norm of a normalised hidden state is about
    the square root of H, so logits stay below 4 times the norm's gain.
    """
    largest = float(gate.weight.norm(dim=1).max()) * gate.weight.shape[1] ** 0.5
    scale = min(1.0, 4.0 / max(largest, 1e-30))
    bias = None if gate.bias is None else gate.bias * scale
    return replace(gate, weight=gate.weight * scale, bias=bias)


def _repeated(values: Tensor | None, segments: int) -> Tensor | None:
    return None if values is None else values.repeat_interleave(segments)
