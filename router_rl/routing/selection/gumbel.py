"""Standard Gumbel noise: adding it to logits and taking the largest draws from their softmax."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gumbel", "gumbel_like"]


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel noise.

    Args:
        shape: of the noise.
        generator: of the uniform numbers.

    Returns:
        noise [*shape] float32, on the generator's device.
    """
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return _from_uniform(uniform)


def gumbel_like(logits: Tensor, noise: Tensor | None) -> Tensor:
    """Return `noise`, or where it is None noise of the logits' shape from torch's global generator."""
    return _from_uniform(torch.rand_like(logits)) if noise is None else noise


def _from_uniform(uniform: Tensor) -> Tensor:
    # rand() draws from [0, 1): 0 would give an infinite log, so it is moved to the smallest normal number.
    return -(-uniform.clamp(min=torch.finfo(uniform.dtype).tiny).log()).log()
