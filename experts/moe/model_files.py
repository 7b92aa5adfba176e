"""Checkpoints of safetensors files, read one tensor at a time and written one file at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..io.atomic import write_json
from ..io.errors import InputError
from ..io.json_file import read_json

__all__ = ["Checkpoint", "CheckpointWriter"]

_INDEX = "model.safetensors.index.json"


class _Index(TypedDict):
    """The index of a sharded checkpoint."""

    weight_map: dict[str, str]


class Checkpoint:
    """A model's tensors on disk; each read opens its file and returns one tensor.

    Args:
        field: the option's name, for errors.
        folder: with `model.safetensors`, or `model.safetensors.index.json` and the files in it.

    Attributes:
        shapes: of every tensor by name.
        files: the file of every tensor by name.

    Raises:
        InputError: there are no safetensors, a file of the index does not exist, or a file is damaged.
    """

    def __init__(self, field: str, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.files: dict[str, str] = {}
        for name in _files(field, self.folder):
            try:
                with safe_open(self.folder / name, framework="pt") as stream:
                    for key in stream.keys():  # noqa: SIM118 (it is not a mapping)
                        self.files[key] = name
                        self.shapes[key] = tuple(stream.get_slice(key).get_shape())
            except (OSError, SafetensorError) as error:
                raise InputError(
                    field, str(self.folder), f"{name} cannot be read ({error})", "copy it again"
                ) from error

    def tensor(self, name: str) -> Tensor:
        """Return one tensor by name, read from its file."""
        with safe_open(self.folder / self.files[name], framework="pt") as stream:
            return stream.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        """Return whether there is a tensor of this name."""
        return name in self.files


class CheckpointWriter:
    """Writer of a sharded checkpoint: its files in turn, then their index.

    Args:
        folder: an existing folder.
        files: number of files.
    """

    def __init__(self, folder: Path, files: int) -> None:
        self.folder = folder
        self.total = files
        self.written = 0
        self.bytes = 0
        self.index: dict[str, str] = {}

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Write the next file.

        Args:
            tensors: by name.
        """
        self.written += 1
        name = f"model-{self.written:05d}-of-{self.total:05d}.safetensors"
        save_file(tensors, self.folder / name, metadata={"format": "pt"})
        self.index |= dict.fromkeys(tensors, name)
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def finish(self) -> None:
        """Write the index, after all files."""
        assert self.written == self.total
        write_json(self.folder / _INDEX, {"metadata": {"total_size": self.bytes}, "weight_map": self.index})


def _files(field: str, folder: Path) -> list[str]:
    if (folder / _INDEX).is_file():
        index = read_json(field, folder / _INDEX, _Index, fix="copy it again")
        names = sorted(set(index["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise InputError(field, str(folder), f"{_INDEX} names {outside[0]!r}", "copy it again")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(field, str(folder), f"{missing[0]} is missing", "copy all files of the model")
        return names
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    problem = "has no model.safetensors" if folder.is_dir() else "is not a folder"
    raise InputError(
        field, str(folder), problem, "give a model's folder, saved with save_pretrained, in safetensors"
    )
