"""Small outcome tables for losses worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from envs import Outcomes


@pytest.fixture
def table_of() -> Callable[[Tensor], Outcomes]:
    """Make outcomes of qualities [T, N] alone: every expert is free and there are no features."""

    def make(quality: Tensor) -> Outcomes:
        return Outcomes(
            features=torch.zeros(len(quality), 1), quality=quality, compute=torch.zeros_like(quality)
        )

    return make
