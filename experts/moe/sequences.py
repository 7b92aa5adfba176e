"""Token sequences with the outputs of the frozen parts, computed once and kept on disk.

Trunk states are large and stay memory-mapped. The losses along each expert's path are the outcomes that
routers are trained and evaluated with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from ..io.atomic import replacing, write_json
from ..io.errors import InputError
from ..io.json_file import read_json
from ..io.progress import track
from .frozen_base import Base
from .tail import Tail

__all__ = ["Sequences", "measure_sequences"]

_FIELDS = ("hidden", "tokens", "domain", "dense_loss", "path_loss")


class _SequencesFile(TypedDict):
    """`sequences.json`."""

    schema_version: Literal[1]
    shapes: dict[str, list[int]]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Sequences:
    """S sequences of T tokens to predict.

    Args:
        hidden: [S, T, H] float32, trunk states of tokens 0 to T - 1, possibly memory-mapped.
        tokens: [S, T + 1] int64.
        domain: [S, T] int64, the domain of tokens 0 to T - 1, which changes within mixed sequences. It is not
            an input of routers.
        dense_loss: [S, T] float32, nats, of the next token under the dense base; under an existing mixture,
            with its own gates.
        path_loss: [S, N, T] float32, nats, with expert e for every token at every layer; [S, 0, T] for an
            existing mixture, whose paths are not measured.
        prompt: [S] int64, the tokens of the prompt that each sequence begins with; None if all have as many.

    Raises:
        InputError: the shapes do not match.
    """

    hidden: np.ndarray
    tokens: np.ndarray
    domain: np.ndarray
    dense_loss: np.ndarray
    path_loss: np.ndarray
    prompt: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, dimensions in zip(_FIELDS, (3, 2, 2, 2, 3), strict=True):
            if getattr(self, name).ndim != dimensions:
                problem = f"must have {dimensions} dimensions"
                raise InputError(name, getattr(self, name).shape, problem, "measure them together")
        rows, length = self.domain.shape
        wanted = {
            "hidden": (rows, length, self.hidden.shape[-1]),
            "tokens": (rows, length + 1),
            "dense_loss": (rows, length),
            "path_loss": (rows, self.path_loss.shape[1], length),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise InputError(name, getattr(self, name).shape, f"must be {shape}", "measure them together")
        if self.prompt is not None and self.prompt.shape != (rows,):
            raise InputError("prompt", self.prompt.shape, f"must be {(rows,)}", "give one number a sequence")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """T, the number of predicted tokens of a sequence."""
        return self.domain.shape[1]

    @property
    def mixed(self) -> np.ndarray:
        """[S] bool, whether a sequence changes its domain."""
        return (self.domain != self.domain[:, :1]).any(axis=1)

    def states(self, rows: Tensor) -> Tensor:
        """Return trunk states [B, T, H] float32 of some sequences.

        Args:
            rows: [B] int64, sequence ids.
        """
        return torch.from_numpy(np.ascontiguousarray(self.hidden[rows.numpy()], dtype=np.float32))

    def targets(self, rows: Tensor) -> Tensor:
        """Return the next tokens [B, T] int64 of some sequences.

        Args:
            rows: [B] int64, sequence ids.
        """
        return torch.from_numpy(self.tokens[rows.numpy(), 1:].astype(np.int64))

    def take(self, rows: np.ndarray | slice) -> Sequences:
        """Return some sequences in the given order.

        Args:
            rows: [B] int64, sequence ids; or a slice, which copies nothing.
        """
        prompt = None if self.prompt is None else self.prompt[rows]
        return Sequences(**{name: getattr(self, name)[rows] for name in _FIELDS}, prompt=prompt)

    def save(self, folder: Path | str) -> None:
        """Write one `.npy` file per field, each atomically, and last `sequences.json`, which marks the end.

        The lengths of prompts are not written: they are known before anything is measured.

        Args:
            folder: of the files.
        """
        folder = Path(folder)
        for name in _FIELDS:
            with replacing(folder / f"{name}.npy") as temporary, temporary.open("wb") as stream:
                np.save(stream, getattr(self, name), allow_pickle=False)
        shapes = {name: list(getattr(self, name).shape) for name in _FIELDS}
        write_json(folder / "sequences.json", {"schema_version": 1, "shapes": shapes})

    @classmethod
    def load(cls, folder: Path | str) -> Sequences:
        """Read what `save` wrote; trunk states stay on disk.

        Args:
            folder: of the files.

        Raises:
            InputError: the folder is not complete, or a file of it is damaged.
        """
        folder = Path(folder)
        again = "measure them again"
        shapes = read_json("sequences", folder / "sequences.json", _SequencesFile, fix=again)["shapes"]
        arrays: dict[str, np.ndarray] = {}
        for name in _FIELDS:
            path = folder / f"{name}.npy"
            try:
                stored: Any = np.load(path, mmap_mode="r")  # checks the size before memory is taken
            except (OSError, ValueError, EOFError) as error:
                problem = f"cannot be read ({error})"
                raise InputError("sequences", str(path), problem, again) from error
            if not isinstance(stored, np.ndarray) or list(stored.shape) != shapes.get(name):
                problem = "is not of the shape that sequences.json says"
                raise InputError("sequences", str(path), problem, again)
            arrays[name] = stored if name == "hidden" else np.array(stored)
            if stored.dtype.kind not in ("iu" if name in ("tokens", "domain") else "f"):
                raise InputError("sequences", str(path), f"is of {stored.dtype}", again)
            if name.endswith("loss") and not np.isfinite(arrays[name]).all():
                raise InputError("sequences", str(path), "holds losses that are not finite", again)
        return cls(**arrays)


def measure_sequences(
    base: Base,
    tail: Tail,
    tokens: np.ndarray,
    domain: np.ndarray,
    *,
    dtype: torch.dtype = torch.float32,
    batch: int = 16,
    doing: str | None = "trunk states",
) -> Sequences:
    """Return sequences with trunk states and losses, from one run of the trunk and of every expert's path.

    Args:
        base: the dense model.
        tail: its last layers with the experts.
        tokens: [S, T + 1] int64.
        domain: [S, T + 1] int64, of each token.
        dtype: of the trunk's matrix products.
        batch: sequences per forward pass.
        doing: the progress bar's label; None: no bar.
    """
    dense = base.tail({"dense": base.dense(), "same": base.dense()}, tail.dtype)
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in ("hidden", "dense_loss", "path_loss")}
    parts = torch.arange(len(tokens)).split(batch)
    with torch.no_grad():
        for rows in track(parts, doing or "", len(parts), shown=doing is not None):
            text = torch.from_numpy(tokens[rows.numpy()])
            hidden, targets = base.trunk(text[:, :-1], dtype), text[:, 1:]
            paths = [tail.loss(tail.along(hidden, e), targets) for e in range(tail.experts)]
            outputs["hidden"].append(hidden.numpy())
            outputs["dense_loss"].append(dense.loss(dense.along(hidden, 0), targets).numpy())
            outputs["path_loss"].append(torch.stack(paths, dim=1).numpy())
    arrays = {name: np.concatenate(rows) for name, rows in outputs.items()}
    return Sequences(tokens=tokens, domain=domain[:, :-1].copy(), **arrays)
