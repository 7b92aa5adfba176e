"""Small outcomes made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from envs import Outcomes


@pytest.fixture
def outcomes_of() -> Callable[..., Outcomes]:
    """Make outcomes of T queries, N experts, 3 features and, if asked for, 4 classes."""

    def make(queries: int, experts: int, *, classes: bool = False) -> Outcomes:
        generator = torch.Generator().manual_seed(5)
        probabilities = torch.rand(queries, experts, 4, generator=generator)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
        label = torch.randint(4, (queries,), generator=generator)
        right = (probabilities.argmax(dim=-1) == label.unsqueeze(1)).float()
        return Outcomes(
            features=torch.randn(queries, 3, generator=generator),
            quality=right if classes else torch.rand(queries, experts, generator=generator),
            compute=torch.rand(queries, experts, generator=generator),
            probabilities=probabilities if classes else None,
            label=label if classes else None,
        )

    return make
