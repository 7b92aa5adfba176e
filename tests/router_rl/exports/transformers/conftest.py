"""A small mixture assembled from three donors, in both forms, and routers for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experts.moe import assemble
from router_rl.routing import LinearScorer, Router, Selection, TopK

DONORS = ("code", "german", "prose")
HIDDEN, LAYERS = 32, 3


@pytest.fixture(scope="session")
def mixtures(family: tuple[Path, list[Any]]) -> dict[str, Path]:
    """Return the folders of the mixtures, by form."""
    folder, _ = family
    experts = [folder / name for name in DONORS]
    for form in ("mixtral", "deepseek"):
        assemble(
            folder / "base", experts, folder / form, form=form, experts_per_token=2, segments=4, shared=1
        )
    return {form: folder / form for form in ("mixtral", "deepseek")}


@pytest.fixture
def linear_routers() -> Callable[..., list[Router]]:
    """Return a function that makes random linear routers without a bias."""

    def make(
        rule: Selection | None = None, experts: int = 3, seed: int = 0, scale: float = 1.0
    ) -> list[Router]:
        generator = torch.Generator().manual_seed(seed)
        routers: list[Router] = []
        for _ in range(LAYERS):
            scorer = LinearScorer(HIDDEN, experts)
            with torch.no_grad():
                scorer.weight.copy_(scale * torch.randn(experts, HIDDEN, generator=generator))
                scorer.scale.copy_(0.5 + torch.rand(HIDDEN, generator=generator))
            names = [str(expert) for expert in range(experts)]
            routers.append(Router(scorer, rule or TopK(k=2), names).eval())
        return routers

    return make
