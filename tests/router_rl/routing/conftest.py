"""Routers with made-up weights, for the tests of the inference floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from router_rl.routing import Hard, Router, Selection, StateInput
from router_rl.routing.scorers.registry import scorer_from_spec

NAMES = ("small", "medium", "large", "code")


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def make_router() -> Callable[..., Router]:
    """Return a function that makes a router of 5 features and 4 experts with seeded weights."""

    def make(
        kind: str = "linear", rule: Selection | None = None, *, stateful: bool = False, **settings: object
    ) -> Router:
        state = [StateInput("load", len(NAMES), "counts over the window")] if stateful else []
        inputs = 5 + (len(NAMES) if stateful else 0)
        shape = {"hidden": [7, 3]} if kind == "mlp" else {}
        scorer = scorer_from_spec({"kind": kind, "inputs": inputs, "experts": len(NAMES), **shape})
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in scorer.state_dict().values():
                value.copy_(torch.randn(value.shape, generator=generator))
        return Router(scorer, Hard() if rule is None else rule, NAMES, state=state, **settings)

    return make
