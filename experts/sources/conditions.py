"""Conditions: image transformations under which an expert that was trained on another one fails."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["Condition", "clean", "conditions", "inverted", "noisy", "occluded", "rotated"]

Condition = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def conditions(*, noise: float, patch: int) -> dict[str, Condition]:
    """Return the five conditions by name.

    Args:
        noise: standard deviation of the noise, for pixels in [0, 1].
        patch: side of the occluded square, in pixels.
    """
    return {
        "clean": clean,
        "rotated": rotated,
        "noisy": lambda images, generator: noisy(images, generator, noise),
        "occluded": lambda images, generator: occluded(images, generator, patch),
        "inverted": inverted,
    }


def clean(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images [T, H, W] unchanged."""
    return images


def rotated(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images [T, H, W] rotated by 90 degrees anticlockwise, which loses no pixel."""
    return torch.rot90(images, 1, (1, 2))


def noisy(images: torch.Tensor, generator: torch.Generator, noise: float) -> torch.Tensor:
    """Return images [T, H, W] plus unclipped Gaussian noise of the standard deviation `noise`."""
    return images + noise * torch.randn(images.shape, generator=generator)


def occluded(images: torch.Tensor, generator: torch.Generator, patch: int) -> torch.Tensor:
    """Return images [T, H, W] with a square of `patch` x `patch` pixels at a random place set to 0."""
    count, height, width = images.shape
    top = torch.randint(0, height - patch + 1, (count, 1), generator=generator)
    left = torch.randint(0, width - patch + 1, (count, 1), generator=generator)
    row, column = torch.arange(height), torch.arange(width)
    in_rows = (row >= top) & (row < top + patch)  # [T, H]
    in_columns = (column >= left) & (column < left + patch)  # [T, W]
    return images.masked_fill(in_rows[:, :, None] & in_columns[:, None, :], 0.0)


def inverted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images [T, H, W], pixels in [0, 1], with inverted brightness."""
    return 1.0 - images
