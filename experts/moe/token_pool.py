"""A pool for token-level routing: experts with a common ancestor, the tree of their domains, and text.

The experts' FFNs are stored in one safetensors file, see `write_ffns`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..io.atomic import replacing
from ..io.errors import InputError
from .expert_ffn import PARTS
from .frozen_base import Base
from .sequences import Sequences
from .tail import Tail

__all__ = ["GENERAL", "Ffns", "OwnGates", "Problems", "TokenPool", "read_ffns", "write_ffns"]

GENERAL = "general"  # the name of the expert that is the base's own FFN

Ffns = dict[str, list[dict[str, Tensor]]]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class OwnGates:
    """The gates that an existing mixture has: linear, without bias on their logits.

    Attributes:
        weights: [L, N, H] float32.
        k: experts per token.
        score: from logits to weights.
        groups: the experts form this many groups of equal size.
        kept: number of groups whose experts may be chosen.
        normalised: whether the weights of the chosen experts are renormalised to a sum of 1.
        bias: [L, N] float32, added to the scores to choose experts, not to weight them; None: none.
    """

    weights: Tensor
    k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    groups: int = 1
    kept: int = 1
    normalised: bool = True
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Problems:
    """Text whose sequences are prompts with an answer, and what verifies other answers.

    Attributes:
        answer: A, tokens of an answer, at most if there is an end token. A sequence is a prompt of its own
            length (`Sequences.prompt`) and what follows it, or all but its last A tokens are the prompt. The
            text's answers may be wrong.
        verify: maps prompts [B, P] int64 and answers [B, A] int64 to 1 where the answer is right, else 0, or
            to a fraction, [B] float32. It reads neither the padding in front of a prompt, nor an answer's
            tokens after the end token.
        end: the token that ends an answer; None: answers have A tokens.
        pad: the token in front of prompts that are shorter than others of their batch.
    """

    answer: int
    verify: Callable[[Tensor, Tensor], Tensor]
    end: int | None = None
    pad: int = 0


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class TokenPool:
    """Frozen experts and the text to route.

    Args:
        name: of the pool.
        base: the ancestor, or the existing mixture.
        tail: the last layers with one expert per domain, followed by experts without a domain, such as the
            base's own FFN (a general expert, as in Branch-Train-MiX).
        average: the same layers with the uniform mean of the experts' weights as both experts; None for an
            existing mixture.
        domains: names; expert e is of domain e.
        tree: of the experts: (name, children), where a child is an expert's id or another (name, children).
        parts: `train`, `validation` and `test` sequences.
        gates: those of an existing mixture; its `dense_loss` is the loss with them.
        problems: how the prompts of the sequences are answered; None for plain text.

    Raises:
        InputError: a part is missing, or the first experts are not the domains.
    """

    name: str
    base: Base
    tail: Tail
    average: Tail | None
    domains: tuple[str, ...]
    tree: Any
    parts: Mapping[str, Sequences]
    gates: OwnGates | None = None
    problems: Problems | None = None

    def __post_init__(self) -> None:
        missing = {"train", "validation", "test"} - set(self.parts)
        if missing:
            raise InputError(
                "parts", sorted(self.parts), f"lacks {sorted(missing)}", "measure these parts too"
            )
        if self.tail.names[: len(self.domains)] != self.domains:
            raise InputError(
                "domains", self.domains, f"the experts are {self.tail.names}", "use the same names"
            )


def write_ffns(path: Path | str, experts: Mapping[str, Sequence[Mapping[str, Tensor]]], **notes: Any) -> None:
    """Write FFNs to one safetensors file, atomically.

    Args:
        path: the file.
        experts: name -> one FFN state per layer.
        notes: values for the file's metadata, as JSON.
    """
    state = {
        f"{name}.{layer}.{part}": weight.detach().contiguous().clone()
        for name, layers in experts.items()
        for layer, weights in enumerate(layers)
        for part, weight in weights.items()
    }
    metadata = json.dumps({"schema_version": 1, "experts": list(experts), **notes})
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={"router_rl": metadata})


def read_ffns(path: Path | str, names: Sequence[str] | None = None) -> Ffns:
    """Read FFNs as float32.

    Args:
        path: a file of `write_ffns`.
        names: the experts to read, in this order; None: all, sorted.

    Returns:
        Name -> one FFN state per layer.

    Raises:
        InputError: the file or an expert does not exist, or the file is damaged.
    """
    if not Path(path).is_file():
        raise InputError("experts", str(path), "no such file", "train the experts first")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        problem = f"cannot be read ({error})"
        raise InputError("experts", str(path), problem, "train the experts again") from error
    stored = sorted({key.rsplit(".", 2)[0] for key in state})
    wanted = stored if names is None else list(names)
    unknown = [name for name in wanted if name not in stored]
    if unknown:
        raise InputError("experts", unknown, f"{path} holds {', '.join(stored)}", "train them first")
    ffns: Ffns = {}
    for name in wanted:
        depth = sum(key.rsplit(".", 2)[0] == name for key in state) // len(PARTS)
        needed = [f"{name}.{layer}.{part}" for layer in range(depth) for part in PARTS]
        missing = [key for key in needed if key not in state]
        if missing or not all(bool(state[key].isfinite().all()) for key in needed):
            problem = f"{path} lacks {missing[0]}" if missing else f"{path} holds weights that are not finite"
            raise InputError("experts", name, problem, "train the experts again")
        ffns[name] = [
            {part: state[f"{name}.{layer}.{part}"].to(torch.float32) for part in PARTS}
            for layer in range(depth)
        ]
    return ffns
