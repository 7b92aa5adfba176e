"""70,000 images of clothes, 28 x 28, read from local files; nothing is downloaded.

Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, https://arxiv.org/abs/1708.07747 (MIT licence).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ..io.errors import InputError
from ..training.specialists import Recipe
from .conditioned import ConditionedImages, ExpertPlan, Images
from .conditions import conditions
from .idx import read_idx

__all__ = ["FashionMnist"]

_NOISE, _PATCH = 0.5, 12
_NAMES = tuple(conditions(noise=_NOISE, patch=_PATCH))
_PRETRAINING, _QUERIES = 10_000, 2_000
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class FashionMnist(ConditionedImages):
    """Five small convolutional specialists, a cheap perceptron, an expensive convolutional generalist."""

    name = "fashion-mnist"
    version = 1
    noise = _NOISE
    patch = _PATCH
    plans = (
        ExpertPlan(
            name="cheap-generalist", widths=(32,), conditions=_NAMES, recipe=Recipe(epochs=8, batch_size=128)
        ),
        *(
            ExpertPlan(
                name=f"{name}-specialist",
                widths=(8, 16),
                conditions=(name,),
                recipe=Recipe(epochs=8, batch_size=128),
            )
            for name in _NAMES
        ),
        ExpertPlan(
            name="expensive-generalist",
            widths=(32, 64, 128),
            conditions=_NAMES,
            recipe=Recipe(epochs=8, batch_size=128, learning_rate=1e-3),
        ),
    )

    def __init__(self, argument: str | None = None) -> None:
        """Locate the files.

        Args:
            argument: the folder with the files, or torchvision's root above it; None:
                $ROUTER_RL_FASHION_MNIST, or else the folder of the Debian package dataset-fashion-mnist.

        Raises:
            InputError: the files do not exist; says how to get them.
        """
        root = argument or os.environ.get("ROUTER_RL_FASHION_MNIST")
        self.folder = _find(Path(root) if root else _DEBIAN)

    def describe(self) -> str:
        """Return one sentence that says what the outcomes are of."""
        return "Fashion-MNIST under five conditions, small networks pretrained on other images"

    def data_digest(self) -> str:
        """Return a digest of all labels and of the image files' sizes."""
        digest = hashlib.sha256()
        for part in ("train", "t10k"):
            digest.update(_file(self.folder, f"{part}-labels-idx1-ubyte").read_bytes())
            digest.update(str(_file(self.folder, f"{part}-images-idx3-ubyte").stat().st_size).encode())
        return digest.hexdigest()

    def images(self, seed: int) -> Images:
        """Return a seeded 10,000 training images for pretraining and 2,000 test images for queries."""
        generator = torch.Generator().manual_seed(seed)
        pixels, labels = self._read("train")
        own = torch.randperm(len(pixels), generator=generator)[:_PRETRAINING]
        others_pixels, others_labels = self._read("t10k")
        others = torch.randperm(len(others_pixels), generator=generator)[:_QUERIES].sort().values
        return Images(
            pretraining=pixels[own].float() / 255,
            pretraining_labels=labels[own],
            queries=others_pixels[others].float() / 255,
            query_labels=others_labels[others],
            base=others,
        )

    def build(self, widths: tuple[int, ...]) -> nn.Module:
        """Return a perceptron for one width, else two convolutions and a hidden layer per further width."""
        if len(widths) == 1:
            return nn.Sequential(nn.Flatten(), nn.Linear(784, widths[0]), nn.ReLU(), nn.Linear(widths[0], 10))
        first, second, *hidden = widths
        layers: list[nn.Module] = [
            nn.Unflatten(1, (1, 28)),
            nn.Conv2d(1, first, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        ]
        size = 49 * second
        for width in hidden:
            layers += [nn.Linear(size, width), nn.ReLU()]
            size = width
        return nn.Sequential(*layers, nn.Linear(size, 10))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features [T, 53] float32 of images [T, 28, 28].

        They are 7 x 7 mean pixels, the mean, the standard deviation, and the mean absolute vertical and
        horizontal differences.
        """
        pooled = functional.avg_pool2d(images[:, None], 4).flatten(1)
        flat = images.flatten(1)
        steps = [images.diff(dim=axis).abs().mean(dim=(1, 2)) for axis in (1, 2)]
        return torch.cat([pooled, torch.stack([flat.mean(1), flat.std(1), *steps], dim=1)], dim=1)

    def _read(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        images_file = _file(self.folder, f"{part}-images-idx3-ubyte")
        pixels = read_idx(images_file, 3)
        labels = read_idx(_file(self.folder, f"{part}-labels-idx1-ubyte"), 1)
        if pixels.shape[1:] != (28, 28) or len(pixels) != len(labels):
            problem = f"holds {pixels.shape} pixels for {len(labels)} labels"
            raise InputError("file", str(images_file), problem, "get both files again from one source")
        needed = _PRETRAINING if part == "train" else _QUERIES
        if len(pixels) < needed:
            raise InputError(
                "file", str(images_file), f"holds {len(pixels)} images", f"give {needed} or more"
            )
        return torch.from_numpy(pixels.copy()), torch.from_numpy(labels.astype("int64"))


def _find(root: Path) -> Path:
    for folder in (root, root / "raw", root / "FashionMNIST" / "raw"):
        if _candidates(folder, "train-images-idx3-ubyte"):
            return folder
    raise InputError(
        "fashion-mnist",
        str(root),
        "the files do not exist",
        "apt install dataset-fashion-mnist, or download with torchvision.datasets.FashionMNIST(root, "
        'download=True) and use "fashion-mnist:ROOT" or set ROUTER_RL_FASHION_MNIST to ROOT',
    )


def _file(folder: Path, name: str) -> Path:
    files = _candidates(folder, name)
    if not files:
        raise InputError("fashion-mnist", str(folder), f"{name}(.gz) is missing", "get all four files")
    return files[0]


def _candidates(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
