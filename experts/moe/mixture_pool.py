"""A token-level pool made of an existing mixture of experts, whose own gates are trained in place.

The layers with gates must be the last ones. What the model predicts on the text with its own gates is
measured once, by transformers' forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..io.errors import InputError
from ..io.progress import track
from .expert_ffn import PARTS
from .frozen_base import Base, load_base, load_tokenizer
from .huggingface import read_configuration
from .layout import Layout, layout_of
from .model_files import Checkpoint
from .prompt_parts import PromptTexts, routed_text
from .sequences import Sequences
from .text_parts import TextSizes
from .token_pool import Ffns, OwnGates, TokenPool

__all__ = ["mixture_pool"]

_FIELD = "problem.model"
_BATCH = 16


def mixture_pool(
    model: Path | str, texts: Path | str | PromptTexts, sizes: TextSizes, *, keep: Path | None = None
) -> tuple[TokenPool, tuple[str, ...]]:
    """Open a mixture of experts and measure the text with its own gates; weights are held in float32.

    Args:
        model: folder of the mixture with its tokenizer, in the form of Mixtral, OLMoE, Qwen2-MoE,
            Qwen3-MoE, DeepSeek-V3, GLM-4-MoE or dots1.
        texts: a folder of `*.jsonl` files with a document a line, a JSON string or an object with `text`; or
            prompts whose answers are scored.
        sizes: how much text is used.
        keep: folder for the measurements; a later call with the same model and texts reads them.

    Returns:
        The pool, and the texts' names in the order of the ids in `Sequences.domain`.

    Raises:
        InputError: the model or texts do not fit; names the option, the value and the fix.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise InputError(_FIELD, str(model), "is not a folder", "give a model as save_pretrained writes it")
    config = read_configuration(folder)
    layout, files = layout_of(config), Checkpoint(_FIELD, folder)
    layers = _routed(config, layout, files)
    gates = _gates(config, layout, files, layers)
    base = load_base(folder, len(layers))
    tail = base.tail(_experts(config, layout, files, layers, gates.weights.shape[1]))

    def measured(tokens: np.ndarray, domain: np.ndarray, part: str) -> Sequences:
        return _measured(base, tokens, domain, f"{part} text under the model")

    text = routed_text(texts, (), load_tokenizer(folder), sizes, tail, measured, keep=keep)
    pool = TokenPool(
        name=base.name,
        base=base,
        tail=tail,
        average=None,
        domains=(),
        tree=("experts", tuple(range(tail.experts))),
        parts=text.parts,
        gates=gates,
        problems=text.problems,
    )
    return pool, text.names


def _routed(config: Any, layout: Layout, files: Checkpoint) -> Sequence[int]:
    """The layers that have gates."""
    folder, total = str(files.folder), config.num_hidden_layers
    if not layout.parts or layout.bias:
        problem = f"is {config.model_type}, whose experts or gates have biases"
        raise InputError(_FIELD, folder, problem, "use a mixture without biases, such as Mixtral")
    layers = [layer for layer in range(total) if layout.gate_weight(layer) in files]
    if not layers or layers != list(range(layers[0], total)):
        problem = f"has gates in the layers {layers} of {total}"
        raise InputError(_FIELD, folder, problem, "give a mixture whose last layers all have gates")
    return layers


def _gates(config: Any, layout: Layout, files: Checkpoint, layers: Sequence[int]) -> OwnGates:
    """The model's gates."""
    biases = [layout.gate_selection_bias(layer) for layer in layers]
    bias = torch.stack([files.tensor(name).float() for name in biases]) if biases[0] in files else None
    return OwnGates(
        weights=torch.stack([files.tensor(layout.gate_weight(layer)).float() for layer in layers]),
        k=int(config.num_experts_per_tok),
        score=layout.score,
        groups=int(getattr(config, "n_group", None) or 1),
        kept=int(getattr(config, "topk_group", None) or 1),
        normalised=bool(getattr(config, "norm_topk_prob", True)),
        bias=bias if bias is not None and bool(bias.any()) else None,
    )


def _experts(config: Any, layout: Layout, files: Checkpoint, layers: Sequence[int], count: int) -> Ffns:
    """The experts of each layer, times the factor by which the model scales their sum."""
    scale = float(getattr(config, "routed_scaling_factor", None) or 1.0)

    def ffn(layer: int, expert: int) -> dict[str, Tensor]:
        names = layout.expert(layer, expert)
        missing = [name for name in names if name not in files]
        if missing:
            raise InputError(_FIELD, str(files.folder), f"has no tensor {missing[0]}", "copy the whole model")
        parts = {part: files.tensor(name).float() for part, name in zip(PARTS, names, strict=True)}
        return {**parts, "down_proj": parts["down_proj"] * scale}

    return {f"expert_{expert}": [ffn(layer, expert) for layer in layers] for expert in range(count)}


def _measured(base: Base, tokens: np.ndarray, domain: np.ndarray, doing: str) -> Sequences:
    """Trunk states, and the loss of the model as transformers runs it."""
    outputs: dict[str, list[np.ndarray]] = {"hidden": [], "dense_loss": []}
    parts = torch.arange(len(tokens)).split(_BATCH)
    with torch.no_grad():
        for rows in track(parts, doing, len(parts)):
            text = torch.from_numpy(tokens[rows.numpy()])
            logits = base.model(text[:, :-1], use_cache=False).logits.transpose(1, 2).float()
            loss = torch.nn.functional.cross_entropy(logits, text[:, 1:], reduction="none")
            outputs["hidden"].append(base.trunk(text[:, :-1]).numpy())
            outputs["dense_loss"].append(loss.numpy())
    arrays = {name: np.concatenate(rows) for name, rows in outputs.items()}
    paths = np.empty((len(tokens), 0, tokens.shape[1] - 1), dtype=np.float32)
    return Sequences(tokens=tokens, domain=domain[:, :-1].copy(), path_loss=paths, **arrays)
