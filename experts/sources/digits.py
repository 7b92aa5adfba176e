"""1,797 scans of handwritten digits, 8 x 8, from scikit-learn; nothing is downloaded.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..io.errors import InputError
from ..training.specialists import Recipe
from .conditioned import ConditionedImages, ExpertPlan, Images
from .conditions import conditions

__all__ = ["Digits"]

_NOISE, _PATCH = 0.3, 3
_NAMES = tuple(conditions(noise=_NOISE, patch=_PATCH))
_PRETRAINING_SHARE = 0.4


class Digits(ConditionedImages):
    """Five specialists, a cheap and an expensive generalist, all perceptrons; pretraining takes seconds."""

    name = "digits"
    version = 1
    noise = _NOISE
    patch = _PATCH
    plans = (
        ExpertPlan(name="cheap-generalist", widths=(24,), conditions=_NAMES, recipe=Recipe(epochs=60)),
        *(
            ExpertPlan(name=f"{name}-specialist", widths=(128,), conditions=(name,), recipe=Recipe(epochs=60))
            for name in _NAMES
        ),
        ExpertPlan(
            name="expensive-generalist",
            widths=(256, 128),
            conditions=_NAMES,
            recipe=Recipe(epochs=60, learning_rate=1e-3),
        ),
    )

    def __init__(self, argument: str | None = None) -> None:
        """Create the source.

        Args:
            argument: None; this source takes no argument.

        Raises:
            InputError: there is an argument.
        """
        if argument is not None:
            raise InputError("digits", argument, "takes no argument", 'use "digits"')

    def describe(self) -> str:
        """Return one sentence that says what the outcomes are of."""
        return (
            "scikit-learn's handwritten digits under five conditions, perceptrons pretrained on other digits"
        )

    def images(self, seed: int) -> Images:
        """Return the scans: a seeded 40 % for pretraining, the others for queries."""
        from sklearn.datasets import load_digits  # scikit-learn takes a second to import

        data: Any = load_digits()
        pixels = torch.as_tensor(data.images, dtype=torch.float32) / 16
        labels = torch.as_tensor(data.target, dtype=torch.int64)
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
        pretraining = int(_PRETRAINING_SHARE * len(order))
        own, others = order[:pretraining], order[pretraining:].sort().values
        return Images(
            pretraining=pixels[own],
            pretraining_labels=labels[own],
            queries=pixels[others],
            query_labels=labels[others],
            base=others,
        )

    def build(self, widths: tuple[int, ...]) -> nn.Module:
        """Return a perceptron with 64 inputs, hidden layers of the given widths, and 10 outputs."""
        layers: list[nn.Module] = [nn.Flatten()]
        size = 64
        for width in widths:
            layers += [nn.Linear(size, width), nn.ReLU()]
            size = width
        return nn.Sequential(*layers, nn.Linear(size, 10))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the pixels [T, 64] float32 of images [T, 8, 8]."""
        return images.flatten(1).contiguous()
