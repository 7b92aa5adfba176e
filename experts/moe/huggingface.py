"""Hugging Face configurations from a folder, a file or by name, without weights, network or remote code."""

from __future__ import annotations

import difflib
import importlib
import json
import reprlib
from pathlib import Path
from typing import Any

from ..io.errors import InputError, unknown_name
from ..io.json_file import read_small_file

__all__ = ["KNOWN", "read_configuration", "transformers_library"]

_FOLDER = Path(__file__).parent / "configurations"
KNOWN = tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))
"""Names of published models whose configurations are packaged."""

_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "vocab_size", "max_position_embeddings"),
)
_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok")  # 0 in dense models
_LARGEST = 100_000_000


def transformers_library() -> Any:
    """Return the transformers library, imported on first use.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            "transformers", None, f"cannot be imported ({error})", "pip install 'router-rl[llm]'"
        ) from error


def read_configuration(where: Path | str) -> Any:
    """Return a transformers configuration.

    Args:
        where: a model's folder, its config.json, or a name in `KNOWN`.

    Raises:
        InputError: there is no such configuration, or transformers does not have its architecture.
    """
    path = Path(where)
    if path.is_dir():
        path = path / "config.json"
    if not path.exists() and str(where) in KNOWN:
        path = _FOLDER / f"{where}.json"
    if not path.is_file():
        if path.name == "config.json":
            raise InputError("model", str(where), "has no config.json", "give the folder of a model")
        raise unknown_name("model", str(where), KNOWN)
    try:
        # Configurations may hold infinities, as Python's json writes them.
        fields = json.loads(read_small_file("model", path, fix="give the folder of a model"))
        kind = fields.pop("model_type")
        if not isinstance(kind, str):
            raise ValueError("model_type is no text")
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            "model", str(path), "is not a model's configuration", "it is a JSON object with a model_type"
        ) from error
    library = transformers_library()
    named = kind
    if kind == "deepseek":
        kind, fields = "glm4_moe", _deepseek_moe(fields)
    if kind not in library.CONFIG_MAPPING:
        nearest = difflib.get_close_matches(kind, library.CONFIG_MAPPING.keys(), n=1)
        fix = f"did you mean {nearest[0]!r}?" if nearest else "use a model that transformers knows"
        raise InputError("model", str(path), f"has the model_type {kind!r}, which transformers lacks", fix)
    _check_sizes(path, fields)
    fields.pop("auto_map", None)  # remote code is never run
    try:
        config = library.CONFIG_MAPPING[kind].from_dict(fields)
    except Exception as error:  # architectures validate their fields with different errors
        reason = " ".join(str(error).split())
        raise InputError(
            "model", str(path), f"is not a {kind} model ({reason})", "correct the field"
        ) from error
    config.model_type = named
    return config


def _check_sizes(path: Path, fields: dict[str, Any]) -> None:
    """Raise InputError if a size is no whole number, or is too small or absurdly large."""
    for name in (*_SIZES, *_COUNTS):
        value, least = fields.get(name), int(name in _SIZES)
        each: list[Any] = value if isinstance(value, list) else [value]  # some models have one for each layer
        if not all(one is None or (type(one) is int and least <= one <= _LARGEST) for one in each):
            problem = (
                f"has {name} {reprlib.repr(value)}, which is no whole number from {least} to {_LARGEST:,}"
            )
            raise InputError("model", str(path), problem, "correct the field")


def _deepseek_moe(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of DeepSeekMoE-16B, which transformers does not have, for a class with the same parameters.

    Both have Llama's attention, leading dense layers, shared and routed experts (Dai et al. 2024, section 3,
    https://arxiv.org/abs/2401.06066). Their gates score differently, which does not change costs.
    """
    if fields.get("moe_layer_freq", 1) != 1:
        raise InputError(
            "moe_layer_freq",
            fields["moe_layer_freq"],
            "dense layers between sparse ones are not supported",
            "use 1",
        )
    return {**fields, "use_qk_norm": False, "num_nextn_predict_layers": 0}
