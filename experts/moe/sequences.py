"""Token sequences with what the frozen parts make of them, computed once and kept on disk.

The trunk's states are as large as a text is long, so they stay memory-mapped; the losses along each expert's
path are the outcomes that every router is trained and judged with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..io.atomic import replacing, write_json
from ..io.errors import InputError
from ..io.progress import track
from .frozen_base import Base
from .tail import Tail

__all__ = ["Sequences", "measure_sequences"]

_FIELDS = ("hidden", "tokens", "domain", "dense_loss", "path_loss")


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Sequences:
    """S sequences of T tokens to predict.

    Args:
        hidden: [S, T, H] float32, what the trunk made of tokens 0 to T - 1; may be memory-mapped.
        tokens: [S, T + 1] int64.
        domain: [S, T] int64, the domain of tokens 0 to T - 1; it changes within mixed sequences. A router
            never sees it.
        dense_loss: [S, T] float32, nats, of the next token under the dense base.
        path_loss: [S, N, T] float32, nats, with expert e for every token at every layer.

    Raises:
        InputError: shapes do not fit each other.
    """

    hidden: np.ndarray
    tokens: np.ndarray
    domain: np.ndarray
    dense_loss: np.ndarray
    path_loss: np.ndarray

    def __post_init__(self) -> None:
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

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """T."""
        return self.domain.shape[1]

    @property
    def mixed(self) -> np.ndarray:
        """[S] bool, which sequences change their domain."""
        return (self.domain != self.domain[:, :1]).any(axis=1)

    def states(self, rows: Tensor) -> Tensor:
        """Trunk states of some sequences, [B, T, H] float32, read from disk where they are there."""
        return torch.from_numpy(np.ascontiguousarray(self.hidden[rows.numpy()], dtype=np.float32))

    def targets(self, rows: Tensor) -> Tensor:
        """The next tokens of some sequences, [B, T] int64."""
        return torch.from_numpy(self.tokens[rows.numpy(), 1:].astype(np.int64))

    def take(self, rows: np.ndarray) -> Sequences:
        """Some of the sequences, in this order."""
        return Sequences(**{name: getattr(self, name)[rows] for name in _FIELDS})

    def save(self, folder: Path | str) -> None:
        """Write one `.npy` a field, each atomically, and last the file that says that all are there."""
        folder = Path(folder)
        for name in _FIELDS:
            with replacing(folder / f"{name}.npy") as temporary, temporary.open("wb") as stream:
                np.save(stream, getattr(self, name), allow_pickle=False)
        shapes = {name: list(getattr(self, name).shape) for name in _FIELDS}
        write_json(folder / "sequences.json", {"schema_version": 1, "shapes": shapes})

    @classmethod
    def load(cls, folder: Path | str) -> Sequences:
        """Read what `save` wrote; trunk states stay on disk.

        Raises:
            InputError: the folder is not complete.
        """
        folder = Path(folder)
        try:
            shapes = json.loads((folder / "sequences.json").read_text(encoding="utf-8"))["shapes"]
            found = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r" if name == "hidden" else None)
                for name in _FIELDS
            }
        except (OSError, ValueError, KeyError) as error:
            problem = f"is not complete ({type(error).__name__})"
            raise InputError("sequences", str(folder), problem, "measure them again") from error
        if any(list(found[name].shape) != shapes[name] for name in _FIELDS):
            raise InputError("sequences", str(folder), "sizes differ", "measure them again")
        return cls(**found)


def measure_sequences(
    base: Base,
    tail: Tail,
    tokens: np.ndarray,
    domain: np.ndarray,
    *,
    dtype: torch.dtype = torch.float32,
    batch: int = 16,
    doing: str = "trunk states",
    shown: bool = True,
) -> Sequences:
    """Run the trunk once and every expert's path once.

    Args:
        base: the dense model.
        tail: its last layers with the experts.
        tokens: [S, T + 1] int64.
        domain: [S, T + 1] int64, of each token.
        dtype: of the trunk's matrix products.
        batch: sequences run together.
        doing, shown: of the progress bar.
    """
    dense = base.tail({"dense": base.dense(), "same": base.dense()}, tail.dtype)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("hidden", "dense_loss", "path_loss")}
    parts = torch.arange(len(tokens)).split(batch)
    with torch.no_grad():
        for rows in track(parts, doing, len(parts), shown=shown):
            text = torch.from_numpy(tokens[rows.numpy()])
            hidden, targets = base.trunk(text[:, :-1], dtype), text[:, 1:]
            paths = [tail.loss(tail.along(hidden, e), targets) for e in range(tail.experts)]
            found["hidden"].append(hidden.numpy())
            found["dense_loss"].append(dense.loss(dense.along(hidden, 0), targets).numpy())
            found["path_loss"].append(torch.stack(paths, dim=1).numpy())
    arrays = {name: np.concatenate(rows) for name, rows in found.items()}
    return Sequences(tokens=tokens, domain=domain[:, :-1].copy(), **arrays)
