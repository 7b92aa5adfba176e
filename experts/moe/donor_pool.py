"""A token-level pool made of a user's own models, the donors of a mixture, and of the user's own text.

What the frozen experts predict on the text is measured once, and kept in a folder if one is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..io.errors import InputError
from .branch import average
from .donors import Donor, feed_forward, open_base, open_donor, survey
from .expert_ffn import PARTS
from .frozen_base import load_base, load_tokenizer
from .prompt_parts import PromptTexts, routed_text
from .sequences import Sequences, measure_sequences
from .text_parts import TextSizes
from .token_pool import TokenPool

__all__ = ["donor_pool"]


def donor_pool(
    base: Path | str,
    experts: Sequence[Path | str],
    texts: Path | str | PromptTexts,
    sizes: TextSizes,
    *,
    dtype: torch.dtype = torch.float32,
    keep: Path | None = None,
    offload: bool = False,
) -> tuple[TokenPool, tuple[str, ...]]:
    """Open the donors and measure the text under each.

    Args:
        base: the common ancestor's folder, a Llama, Mistral, Qwen2 or Qwen3 model with its tokenizer.
        experts: at least two folders of models fine-tuned from it, as `assemble` takes them.
        texts: a folder of `*.jsonl` files with a document a line, a JSON string or an object with `text`; or
            prompts whose answers are scored.
        sizes: how much text is used.
        dtype: of the matrix products with frozen weights.
        keep: folder for the measurements; a later call with the same experts and texts reads them.
        offload: keep the experts' weights in files in `keep`, from which they are read while an expert runs.

    Returns:
        The pool, and the texts' names in the order of the ids in `Sequences.domain`. The pool's domains are
        the experts up to the first that has no text of its own name, or all if every prompt's group is an
        expert; their texts come first.

    Raises:
        InputError: the models or texts do not fit; names the option, the value and the fix.
    """
    ancestor = open_base(base)
    donors = [open_donor(ancestor, folder) for folder in experts]
    layers = _routed(ancestor, donors)
    model = load_base(base, len(layers))
    ffns = {donor.name: _DonorFfns(donor, layers) for donor in donors}
    if len(ffns) < len(donors):
        names = [donor.name for donor in donors]
        raise InputError("problem.experts", names, "two folders have the same name", "rename one")
    assert keep is not None or not offload
    tail = model.tail(ffns, dtype, keep / "experts" if keep is not None and offload else None)

    def measured(tokens: np.ndarray, domain: np.ndarray, part: str) -> Sequences:
        doing = f"{part} text under every expert"
        return measure_sequences(model, tail, tokens, domain, dtype=dtype, doing=doing)

    text = routed_text(texts, tuple(ffns), load_tokenizer(base), sizes, tail, measured, keep=keep)
    mean = average(list(ffns.values()))
    pool = TokenPool(
        name=model.name,
        base=model,
        tail=tail,
        average=model.tail({"average": mean, "same": mean}, dtype),
        domains=text.domains,
        tree=("experts", tuple(range(len(ffns)))),
        parts=text.parts,
        problems=text.problems,
    )
    return pool, text.names


def _routed(base: Donor, donors: Sequence[Donor]) -> range:
    """The layers that get routers: the last ones, in which the donors differ."""
    names = [donor.name for donor in donors]
    if len(donors) < 2:
        raise InputError("problem.experts", names, "routing needs a choice", "give two or more folders")
    differing = survey(base, donors).differing
    if not differing:
        raise InputError("problem.experts", names, "have FFNs that are all the same", "give other folders")
    last = range(differing[0], base.config.num_hidden_layers)
    same = [layer for layer in last if layer not in differing]
    if same:
        problem = f"differ in layer {differing[0]} but not in layers {', '.join(map(str, same))} above it"
        raise InputError("problem.experts", names, problem, "use models that differ there too")
    return last


class _DonorFfns(Sequence[dict[str, Tensor]]):
    """A donor's feed-forward networks in the routed layers, each read when it is asked for."""

    def __init__(self, donor: Donor, layers: range) -> None:
        self._donor, self._layers = donor, layers

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: Any) -> Any:
        names = zip(PARTS, feed_forward(self._layers[layer]), strict=True)
        return {part: self._donor.tensor(name).float() for part, name in names}
