"""Donors of a mixture: dense models with the same architecture, tokenizer and ancestor."""

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
from ..io.json_file import read_small_file
from ..io.progress import track
from .huggingface import read_configuration
from .lora_adapter import CONFIGURATION, AdaptedWeights
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
# The cosine of a fine-tuned model with its base is above 0.9; that of unrelated models is near 0.
_SAME_ANCESTOR = 0.5
_ROWS = 4096


@dataclass(frozen=True)
class Donor:
    """A dense model in a folder.

    Attributes:
        name: the folder's name, which becomes the expert's.
        config: its transformers configuration.
        weights: its tensors; a donor can hold the trained ones only, and an adapter changes some.
        base: provides the tensors that the donor does not hold; None for the base itself.
    """

    name: str
    config: Any
    weights: Checkpoint | AdaptedWeights
    base: Checkpoint | None = None

    def tensor(self, name: str) -> Tensor:
        """Return one of its tensors, or the base's if it does not hold it.

        Args:
            name: of the tensor.
        """
        held = name in self.weights or self.base is None
        return self.weights.tensor(name) if held else _not_none(self.base).tensor(name)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The differences of donors from their base and from each other.

    Attributes:
        differing: layers in which two donors have different FFNs.
        trunk_distance: by donor, `|donor - base| / |base|` over attention and embeddings, which a mixture
            with the base's trunk loses.
    """

    differing: tuple[int, ...]
    trunk_distance: tuple[float, ...]


def open_base(folder: Path | str) -> Donor:
    """Open the base of a mixture, which provides its architecture and by default attention and embeddings.

    Args:
        folder: of the model.

    Raises:
        InputError: it is not a dense model of a supported architecture.
    """
    config = read_configuration(_folder("base", folder))
    if config.model_type not in DENSE:
        raise InputError(
            "base", str(folder), f"has the architecture {config.model_type}", f"use one of {', '.join(DENSE)}"
        )
    weights = Checkpoint("base", folder)
    for layer in range(config.num_hidden_layers):
        for name in feed_forward(layer):
            if name not in weights:
                raise InputError("base", str(folder), f"has no tensor {name}", "copy the whole model")
    return Donor(Path(folder).name, config, weights)


def open_donor(base: Donor, folder: Path | str) -> Donor:
    """Open a model that becomes an expert.

    Args:
        base: the opened base.
        folder: of the model, or of a LoRA adapter of the base in PEFT's format.

    Raises:
        InputError: its architecture, tokenizer or a tensor's shape is not the base's; names the differences.
    """
    path = _folder("experts", folder)
    if (path / CONFIGURATION).is_file() and not (path / "config.json").is_file():
        assert isinstance(base.weights, Checkpoint)
        return Donor(path.name, base.config, AdaptedWeights(path, base.weights), base.weights)
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
    assert isinstance(base.weights, Checkpoint)
    return Donor(path.name, config, weights, base.weights)


def survey(base: Donor, donors: Sequence[Donor], *, progress: bool = True) -> Survey:
    """Compare donors with the base and with each other, one tensor at a time.

    Args:
        base: the opened base.
        donors: the opened donors.
        progress: show progress on stderr.

    Raises:
        InputError: a donor's attention and embeddings are unrelated to the base's.
    """
    differing: set[int] = set()
    sums = [[0.0, 0.0, 0.0] for _ in donors]  # base . donor, |donor|^2, |donor - base|^2
    norm = 0.0
    for name in track(base.weights.shapes, "comparing", len(base.weights.shapes), shown=progress):
        layer = _layer_of_ffn(name)
        if layer is not None:
            first = donors[0].tensor(name)
            if layer not in differing and any(not first.equal(donor.tensor(name)) for donor in donors[1:]):
                differing.add(layer)
            continue
        if len(base.weights.shapes[name]) < 2:  # norms are near 1 in every model
            continue
        ours = base.weights.tensor(name)
        _, own, _ = _products(ours, ours)
        norm += own
        for donor, sum_of in zip(donors, sums, strict=True):
            held = name in donor.weights
            parts = _products(ours, donor.weights.tensor(name)) if held else (own, own, 0.0)
            sum_of[:] = [total + part for total, part in zip(sum_of, parts, strict=True)]
    distance: list[float] = []
    for donor, (product, theirs, apart_by) in zip(donors, sums, strict=True):
        cosine = product / math.sqrt(norm * theirs) if norm * theirs > 0 else 0.0
        if cosine < _SAME_ANCESTOR:
            raise InputError(
                "experts",
                str(donor.weights.folder),
                f"has no common ancestor with the base (cosine {cosine:.2f} of attention and embeddings)",
                "use models fine-tuned from the base",
            )
        distance.append(math.sqrt(apart_by / norm))
    return Survey(differing=tuple(sorted(differing)), trunk_distance=tuple(distance))


def feed_forward(layer: int) -> list[str]:
    """Return the names of a dense layer's gate, up and down projections.

    Args:
        layer: its number.
    """
    return [f"model.layers.{layer}.mlp.{part}_proj.weight" for part in FFN._fields]


def _layer_of_ffn(name: str) -> int | None:
    match = re.fullmatch(r"model\.layers\.(\d+)\.mlp\..*", name)
    return int(match.group(1)) if match else None


def _products(ours: Tensor, theirs: Tensor) -> tuple[float, float, float]:
    """`a . b`, `|b|^2` and `|a - b|^2` in float32, in blocks of rows: embeddings are as large as layers."""
    sums = torch.zeros(3, dtype=torch.float64)
    for a, b in zip(ours.split(_ROWS), theirs.split(_ROWS), strict=True):
        a, b = a.float(), b.float()
        sums += torch.stack([(a * b).sum(), b.square().sum(), (a - b).square().sum()]).double()
    product, square, apart = sums.tolist()
    return product, square, apart


def _folder(field: str, folder: Path | str) -> Path:
    path = Path(folder).resolve()
    if not path.is_dir():
        raise InputError(
            field, str(folder), "is not a folder", "give a model's folder, as save_pretrained writes"
        )
    return path


def _tokenizer_differences(base: Path, donor: Path) -> list[str]:
    """Differences of two tokenizers; a donor without tokenizer files is assumed to have the base's."""
    differences: list[str] = []
    for name in _TOKENIZERS:
        if (donor / name).is_file() and (base / name).is_file():
            ours, theirs = (_ids(folder / name) for folder in (base, donor))
            differences += [f"{name} ({key})" for key in ours if ours[key] != theirs.get(key)]
    return differences


def _ids(path: Path) -> dict[str, Any]:
    if path.suffix != ".json":
        return {"content": path.read_bytes()}
    fix = "copy the model's files again"
    try:
        content = json.loads(read_small_file("tokenizer", path, fix=fix))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("tokenizer", str(path), f"is not JSON ({error})", fix) from error
    if not isinstance(content, dict):
        raise InputError("tokenizer", str(path), "is not a JSON object", fix)
    if path.name != "tokenizer.json":
        return {"content": content}
    # Padding and truncation do not change the ids of a text.
    return {key: content.get(key) for key in ("model", "added_tokens", "normalizer", "pre_tokenizer")}


def _not_none(base: Checkpoint | None) -> Checkpoint:
    assert base is not None
    return base
