"""Parity in llama.cpp: a model with routers in its gates, compared with the same model routed by torch.

Both run in llama.cpp. The first has the routers' weights in its gates. The second has its own gates, and each
gate's choice is replaced at run time by that of the trained `Router` in torch. So the comparison covers the
folding, the file, and llama.cpp's scoring, selection and weighting.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...routing import Router
from ..runtime_parity import RuntimeParity
from .gguf_model import GgufModel, copy_with_gates, read_gguf_model
from .gguf_patch import patch_gguf
from .llama_runtime import GateTap, LlamaCpp, llama_cpp_version

__all__ = ["verify_gguf"]

# Prompts are random tokens, since llama.cpp can end the process on text that it cannot tokenise.
_PROMPTS, _LENGTH = 5, 16
_TOKENS = 48
_TOLERANCE = 1e-4  # of the logits, relative to the largest
# Rounding to half precision or 8 bits turns the last digit of a weight into a step of 1/2,048 or 1/254.
_ROUNDED_TOLERANCE = 1e-2


def verify_gguf(routers: Sequence[Router], model: Path | str) -> RuntimeParity:
    """Write routers into a temporary copy of a model, and compare its output in llama.cpp.

    Args:
        routers: one for each block that has a gate, in order.
        model: GGUF file of the mixture that they were trained on; it is not changed.

    Returns:
        the comparison; check `passed`.

    Raises:
        InputError: the model cannot be read, or llama.cpp is not installed or cannot load it.
        RouterError: a router does not fold into this model's gates.
    """
    target = read_gguf_model(Path(model), "verify")
    route = _routed_by(target, routers)
    with tempfile.TemporaryDirectory() as folder:
        patched = Path(folder) / "patched.gguf"
        k = patch_gguf(routers, model, patched).experts_per_token
        tap = GateTap(target.host.experts, k)
        patched_answers = _answers(patched, tap)
        original = target.path
        if k != target.host.k:
            original = Path(folder) / "original.gguf"
            copy_with_gates(target, original, {}, k)
        routed_answers = _answers(original, GateTap(target.host.experts, k, route))
    same_tokens = [
        x == y
        for (a, _), (b, _) in zip(patched_answers, routed_answers, strict=True)
        for x, y in zip(a, b, strict=True)
    ]
    logits = [torch.cat([rows for _, rows in answers]) for answers in (patched_answers, routed_answers)]
    same_experts: list[bool] = []
    errors = [torch.zeros(1)]
    for layer in target.layers:
        inputs, ids, weights = (torch.cat(each[layer]) for each in (tap.inputs, tap.ids, tap.weights))
        ids, weights = _by_id(ids, weights)
        router_ids, router_weights = _by_id(*route(layer, inputs))
        same = (ids == router_ids).all(dim=1)
        same_experts += same.tolist()
        errors.append((weights - router_weights)[same].abs().flatten())
    return RuntimeParity(
        name="llama.cpp",
        version=llama_cpp_version(),
        model=Path(model).name,
        prompts=len(patched_answers),
        tokens=len(same_tokens),
        tokens_equal=sum(same_tokens),
        decisions=len(same_experts),
        decisions_equal=sum(same_experts),
        weights_max_error=float(torch.cat(errors).max()),  # NaN if a weight is NaN
        logits_max_error=float((logits[0] - logits[1]).abs().max() / logits[1].abs().max()),
        tolerance=_ROUNDED_TOLERANCE if target.rounds else _TOLERANCE,
    )


def _answers(path: Path, tap: GateTap) -> list[tuple[list[int], Tensor]]:
    """The greedy tokens of each prompt, and their logits."""
    with LlamaCpp(path, tap=tap) as model:
        prompts = torch.randint(model.tokens, (_PROMPTS, _LENGTH), generator=torch.Generator().manual_seed(0))
        return [model.greedy(prompt, _TOKENS) for prompt in prompts.tolist()]


def _routed_by(model: GgufModel, routers: Sequence[Router]) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
    """A function from a block and its gate's inputs to the router's choice, in the model's own experts."""
    by_layer = dict(zip(model.layers, routers, strict=False))  # `patch_gguf` checks their number

    @torch.no_grad()
    def route(layer: int, inputs: Tensor) -> tuple[Tensor, Tensor]:
        router = by_layer[layer]
        segments = model.host.segments(len(router.experts))
        routing = router(inputs)
        ids = routing.experts[:, :, None] * segments + torch.arange(segments)
        weights = routing.weights[:, :, None].expand(ids.shape) / segments
        return ids.flatten(1), weights.flatten(1)

    return route


def _by_id(ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    order = ids.argsort(dim=1)
    return ids.gather(1, order), weights.gather(1, order)
