"""A compiled scorer learns what a plain one learns, and is plain again when it is returned."""

from __future__ import annotations

import pytest
import torch
from routing_methods import METHODS
from torch import nn

from experts import OutcomeTable
from router_rl import Objective
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, MLPScorer


@pytest.mark.parametrize("method", ["exact_pg", "router_ppo"])
def test_compiling_changes_nothing_but_the_speed(
    kinds: OutcomeTable, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    def traced(scorer: MLPScorer) -> None:
        compiled.append(scorer)
        nn.Module.compile(scorer, backend="eager")  # traces and guards without a C++ compiler

    monkeypatch.setattr(MLPScorer, "compile", traced)
    changes = {"epochs": 2} if method == "exact_pg" else {"decisions": 8_192}
    settings = METHODS[method].configure(changes)
    plain, fast = (
        METHODS[method].fit(
            RoutingProblem(kinds, Objective(compute_weight=0.1), Hard(), compile=flag), settings, Run()
        )
        for flag in (False, True)
    )
    assert len(compiled) == 1
    assert fast.scorer is not compiled[0]
    for one, two in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(one, two)
