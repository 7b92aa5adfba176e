"""Gates to compare paths on: rules, and inputs whose logits every dtype has exactly."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from router_rl.routing.kernels import GateRule

RULES: dict[str, tuple[GateRule, int, bool]] = {  # the rule, E, whether scores are corrected
    "mixtral": (GateRule(k=2, fallback=5), 8, False),
    "switch": (GateRule(k=1, renormalise=False), 4, False),
    "everyone": (GateRule(k=8), 8, False),
    "qwen3": (GateRule(k=8, fallback=36), 37, False),
    "corrected_softmax": (GateRule(k=3), 12, True),
    "deepseek_v2": (GateRule(k=3, groups=4, kept=2, judged_by=1, renormalise=False, scale=2.0), 16, False),
    "deepseek_v3": (GateRule(k=4, score="sigmoid", groups=4, kept=2, scale=2.5, fallback=9), 32, True),
    "odd_groups": (GateRule(k=5, score="sigmoid", groups=3, kept=2, judged_by=3), 15, True),
    "widest": (GateRule(k=16, groups=4, kept=3, renormalise=False), 320, True),
    "sigmoid_as_is": (GateRule(k=16, score="sigmoid", renormalise=False), 16, False),
}
ROWS = (0, 1, 2, 63, 64, 65, 200)
HIDDEN = 12


class Inputs(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    correction: Tensor | None
    alive: Tensor | None


@pytest.fixture(params=sorted(RULES))
def case(request: pytest.FixtureRequest) -> tuple[GateRule, int, bool]:
    """Return each rule with its number of experts."""
    return RULES[request.param]


def inputs_of(case: tuple[GateRule, int, bool], rows: int, *, alive: str = "all", seed: int = 0) -> Inputs:
    """Small whole numbers and quarters: many exact ties, and no rounding in any dtype."""
    _, experts, corrected = case
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randint(-1, 2, (rows, HIDDEN), generator=generator).float()
    weight = torch.randint(-2, 3, (experts, HIDDEN), generator=generator) / 4
    correction = torch.rand(experts, generator=generator) / 4 if corrected else None
    for row, value in ((1, "nan"), (2, "inf"), (40, "-inf")):
        if rows > row:
            hidden[row, row % HIDDEN] = float(value)
    lives = {
        "all": None,
        "some": torch.rand(experts, generator=generator) > 0.4,
        "one": torch.arange(experts) == 3,
        "none": torch.zeros(experts, dtype=torch.bool),
    }[alive]
    return Inputs(hidden, weight, torch.arange(experts) % 3 / 2, correction, lives)
