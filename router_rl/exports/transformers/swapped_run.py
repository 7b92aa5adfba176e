"""Run a model in transformers with routers in its gates: the reference for other runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .host import Host, host_of_model
from .stock_gate import LayerRouter
from .swap import swap_routers

__all__ = ["SwappedRun", "random_prompts", "run_model", "run_swapped"]

PROMPTS, LENGTH = 5, 16


@dataclass(frozen=True, kw_only=True)
class SwappedRun:
    """A model's greedy tokens and its routing decisions.

    Attributes:
        host: the model.
        prompts: token ids [P, L] int64.
        tokens: generated tokens [P, G] int64.
        logprobs: log-probabilities [P, L + G - 1, V] float32 of each next token of prompts and answers.
        inputs: the gate's inputs [P * (L + G), H], by layer.
        experts: the chosen experts [P * (L + G), k] int64 in the model's own experts, by layer.
        weights: the weights [P * (L + G), k] of the experts, 0 for an empty slot, by layer.
    """

    host: Host
    prompts: Tensor
    tokens: Tensor
    logprobs: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    experts: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def chosen(self, layer: int) -> list[set[int]]:
        """Return the experts with a positive weight, for each token of a layer.

        Args:
            layer: index among the layers that have experts.
        """
        rows = zip(self.experts[layer], self.weights[layer] > 0, strict=True)
        return [set(ids[positive].tolist()) for ids, positive in rows]


def random_prompts(vocabulary: int) -> Tensor:
    """Return prompts [5, 16] int64 of random tokens, the same on each call.

    Args:
        vocabulary: number of tokens.
    """
    return torch.randint(vocabulary, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0))


def run_swapped(
    folder: Path, routers: Sequence[LayerRouter] | None, *, prompts: Tensor | None = None, count: int = 48
) -> SwappedRun:
    """Run a model in float32 with routers in its gates.

    Args:
        folder: folder of the model, as transformers saves it.
        routers: one for each layer that has a gate, in order; None: the model's own gates.
        prompts: token ids [P, L] int64; random tokens if None.
        count: G, number of tokens to generate.

    Raises:
        RouterError: the routers do not fit the model.
    """
    return run_model(
        folder, lambda model: None if routers is None else swap_routers(model, routers), prompts, count
    )


@torch.inference_mode()
def run_model(
    folder: Path, change: Callable[[Any], object], prompts: Tensor | None = None, count: int = 48
) -> SwappedRun:
    """Run a model in float32 after a function has changed it.

    Args:
        folder: folder of the model.
        change: changes the loaded model.
        prompts: token ids [P, L] int64; random tokens if None.
        count: G, number of tokens to generate.
    """
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    model: Any = loader.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    change(model)
    host = host_of_model(model)
    prompts = random_prompts(model.config.vocab_size) if prompts is None else prompts
    sequences = prompts
    for _ in range(count):
        best = model(sequences, use_cache=False).logits[:, -1].argmax(dim=-1, keepdim=True)
        sequences = torch.cat([sequences, best], dim=1)
    inputs: list[Tensor] = []
    experts: list[Tensor] = []
    weights: list[Tensor] = []

    def hook(_gate: Any, arguments: Any, outputs: Any) -> None:
        inputs.append(arguments[0].reshape(-1, host.hidden))
        weights.append(outputs[1])
        experts.append(outputs[2])

    gates = [model.get_submodule(host.layout.gate_module(layer)) for layer in host.layers]
    hooks = [gate.register_forward_hook(hook) for gate in gates]
    try:
        logits = model(sequences, use_cache=False).logits
    finally:
        for handle in hooks:
            handle.remove()
    return SwappedRun(
        host=host,
        prompts=prompts,
        tokens=sequences[:, prompts.shape[1] :],
        logprobs=logits.float().log_softmax(dim=-1)[:, :-1],
        inputs=inputs,
        experts=experts,
        weights=weights,
    )
