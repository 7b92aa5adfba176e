"""1,797 scans of handwritten digits, 8 x 8, which come with scikit-learn: nothing is downloaded.

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
    """Five specialists, a cheap and a dear generalist, all multilayer perceptrons; seconds to make."""

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
            name="dear-generalist",
            widths=(256, 128),
            conditions=_NAMES,
            recipe=Recipe(epochs=60, learning_rate=1e-3),
        ),
    )

    def __init__(self, argument: str | None = None) -> None:
        """Make the source; "digits" takes no argument.

        Raises:
            InputError: an argument was given.
        """
        if argument is not None:
            raise InputError("digits", argument, "takes no argument", 'say "digits"')

    def describe(self) -> str:
        """Return one sentence on where the outcomes come from."""
        return (
            "scikit-learn's handwritten digits under five conditions, perceptrons pretrained on other digits"
        )

    def images(self, seed: int) -> Images:
        """Return the scans, divided by the seed: 40 % for pretraining, the others for queries."""
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
        """Return a perceptron 64 - widths - 10."""
        layers: list[nn.Module] = [nn.Flatten()]
        size = 64
        for width in widths:
            layers += [nn.Linear(size, width), nn.ReLU()]
            size = width
        return nn.Sequential(*layers, nn.Linear(size, 10))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the 64 pixels as they are, [T, 64]."""
        return images.flatten(1).contiguous()
