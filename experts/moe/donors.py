"""Donors of a mixture: dense models of one form, one tokenizer and one ancestor; what differs is named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..io.errors import InputError
from ..io.progress import track
from .huggingface import read_configuration
from .model_files import Checkpoint
from .segments import FFN

__all__ = ["Donor", "Survey", "feed_forward", "open_base", "open_donor", "survey"]

DENSE = ("llama", "mistral", "qwen2", "qwen3")
_FORM = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "hidden_act", "rms_norm_eps", "rope_parameters"),
    *("tie_word_embeddings", "attention_bias", "mlp_bias", "sliding_window"),
)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
# Fine-tuned models stay above .9; models trained apart are near 0.
_SAME_ANCESTOR = 0.5
_ROWS = 4096


@dataclass(frozen=True)
class Donor:
    """A dense model in a folder.

    Attributes:
        name: of the expert it becomes: the folder's.
        config: its transformers configuration.
        weights: its tensors; a donor may hold those that were trained alone.
        base: whose tensors stand for those it does not hold; None for the base itself.
    """

    name: str
    config: Any
    weights: Checkpoint
    base: Checkpoint | None = None

    def tensor(self, name: str) -> Tensor:
        """One of its tensors, or the base's where it does not hold it."""
        held = name in self.weights or self.base is None
        return self.weights.tensor(name) if held else _not_none(self.base).tensor(name)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """How donors differ from their base and from each other.

    Attributes:
        differing: layers in which two donors have different feed-forward networks.
        trunk_distance: by donor, `|donor - base| / |base|` over attention and embeddings: what is lost
            where the mixture takes the base's.
    """

    differing: tuple[int, ...]
    trunk_distance: tuple[float, ...]


def open_base(folder: Path | str) -> Donor:
    """The model that gives the mixture its form, and by default attention and embeddings.

    Raises:
        InputError: it is not a dense model of a form that can be assembled.
    """
    config = read_configuration(_folder("base", folder))
    if config.model_type not in DENSE:
        raise InputError(
            "base", str(folder), f"is of the form {config.model_type}", f"use one of {', '.join(DENSE)}"
        )
    weights = Checkpoint("base", folder)
    for layer in range(config.num_hidden_layers):
        for name in feed_forward(layer):
            if name not in weights:
                raise InputError("base", str(folder), f"has no tensor {name}", "copy the whole model")
    return Donor(Path(folder).name, config, weights)


def open_donor(base: Donor, folder: Path | str) -> Donor:
    """A model that becomes an expert.

    Raises:
        InputError: its form, its tokenizer or a tensor's shape is not the base's; names what differs.
    """
    path = _folder("experts", folder)
    config = read_configuration(path)
    weights = Checkpoint("experts", path)
    differing = [
        f"{field} ({getattr(config, field, None)}, the base has {getattr(base.config, field, None)})"
        for field in _FORM
        if getattr(config, field, None) != getattr(base.config, field, None)
    ]
    for name, shape in weights.shapes.items():
        wanted = base.weights.shapes.get(name)
        if wanted != shape and not (name == "lm_head.weight" and config.tie_word_embeddings):
            differing.append(f"tensor {name} ({list(shape)}, the base has {wanted and list(wanted)})")
    differing += _tokenizer_differences(base.weights.folder, path)
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise InputError(
            "experts",
            str(folder),
            f"differs from the base in {', '.join(differing[:3])}{more}",
            "use models fine-tuned from the base, with its tokenizer",
        )
    return Donor(path.name, config, weights, base.weights)


def survey(base: Donor, donors: Sequence[Donor], *, progress: bool = True) -> Survey:
    """Compare donors with the base and with each other, reading a tensor at a time.

    Raises:
        InputError: a donor's attention and embeddings are no relatives of the base's.
    """
    apart: set[int] = set()
    sums = [[0.0, 0.0, 0.0] for _ in donors]  # base . donor, |donor|^2, |donor - base|^2
    norm = 0.0
    for name in track(base.weights.shapes, "comparing", len(base.weights.shapes), shown=progress):
        layer = _layer_of_ffn(name)
        if layer is not None:
            first = donors[0].tensor(name)
            if layer not in apart and any(not first.equal(donor.tensor(name)) for donor in donors[1:]):
                apart.add(layer)
            continue
        if len(base.weights.shapes[name]) < 2:  # norms are near 1 in any model
            continue
        ours = base.weights.tensor(name)
        _, own, _ = _products(ours, ours)
        norm += own
        for donor, found in zip(donors, sums, strict=True):
            held = name in donor.weights
            parts = _products(ours, donor.weights.tensor(name)) if held else (own, own, 0.0)
            found[:] = [total + part for total, part in zip(found, parts, strict=True)]
    distance: list[float] = []
    for donor, (product, theirs, apart_by) in zip(donors, sums, strict=True):
        cosine = product / math.sqrt(norm * theirs) if norm * theirs > 0 else 0.0
        if cosine < _SAME_ANCESTOR:
            raise InputError(
                "experts",
                str(donor.weights.folder),
                f"has no ancestor in common with the base (cosine {cosine:.2f} of attention and embeddings)",
                "use models fine-tuned from the base",
            )
        distance.append(math.sqrt(apart_by / norm))
    return Survey(differing=tuple(sorted(apart)), trunk_distance=tuple(distance))


def feed_forward(layer: int) -> list[str]:
    """The names of a dense layer's gate, up and down projections."""
    return [f"model.layers.{layer}.mlp.{part}_proj.weight" for part in FFN._fields]


def _layer_of_ffn(name: str) -> int | None:
    found = re.fullmatch(r"model\.layers\.(\d+)\.mlp\..*", name)
    return int(found.group(1)) if found else None


def _products(ours: Tensor, theirs: Tensor) -> tuple[float, float, float]:
    """`a . b`, `|b|^2` and `|a - b|^2` in float32, some rows at a time: embeddings are as large as layers."""
    found = torch.zeros(3, dtype=torch.float64)
    for a, b in zip(ours.split(_ROWS), theirs.split(_ROWS), strict=True):
        a, b = a.float(), b.float()
        found += torch.stack([(a * b).sum(), b.square().sum(), (a - b).square().sum()]).double()
    product, square, apart = found.tolist()
    return product, square, apart


def _folder(field: str, folder: Path | str) -> Path:
    path = Path(folder).resolve()
    if not path.is_dir():
        raise InputError(
            field, str(folder), "is not a folder", "give a model's folder, as save_pretrained writes"
        )
    return path


def _tokenizer_differences(base: Path, donor: Path) -> list[str]:
    """What differs in how text becomes ids; a donor without a tokenizer is taken to have the base's."""
    found: list[str] = []
    for name in _TOKENIZERS:
        if (donor / name).is_file() and (base / name).is_file():
            ours, theirs = (_ids(folder / name) for folder in (base, donor))
            found += [f"{name} ({key})" for key in ours if ours[key] != theirs.get(key)]
    return found


def _ids(path: Path) -> dict[str, Any]:
    if path.suffix != ".json":
        return {"content": path.read_bytes()}
    content = json.loads(path.read_text(encoding="utf-8"))
    if path.name != "tokenizer.json":
        return {"content": content}
    # Padding and truncation change nothing that a token means.
    return {key: content.get(key) for key in ("model", "added_tokens", "normalizer", "pre_tokenizer")}


def _not_none(base: Checkpoint | None) -> Checkpoint:
    assert base is not None
    return base
