"""Each part of a router's second input comes from its provider, in the router's order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.routing.router_state import state_of
from router_rl.routing import Hard, LinearScorer, Router, RouterError, StateInput

LOAD = StateInput("load", 4, "counts / W")
GROUP = StateInput("group", 2, "one-hot", ("grey", "blue"))
CPU = torch.device("cpu")


def test_parts_stand_in_order(kinds: OutcomeTable) -> None:
    rows, load = torch.tensor([0, 3, 2]), torch.rand(3, 4)  # groups red, grey, blue
    onehot = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert state_of((GROUP, LOAD), kinds, Objective(), CPU)(rows, load).equal(
        torch.cat([onehot, load], dim=1)
    )
    assert state_of((LOAD, GROUP), kinds, Objective(), CPU)(rows, load).equal(
        torch.cat([load, onehot], dim=1)
    )
    assert state_of((), kinds, Objective(), CPU)(rows, load) is None


def test_a_router_may_read_both(kinds: OutcomeTable) -> None:
    """One that avoids loaded experts except for the grey group, which is always sent to grey."""
    scorer = LinearScorer(4 + 4 + 2, 4)
    with torch.no_grad():
        scorer.weight[:, 4:8] = -torch.eye(4)
        scorer.weight[3, 8] = 100.0
    router = Router(scorer, Hard(), kinds.experts, state=(LOAD, GROUP)).eval()
    found = measure(router, kinds, Objective(window=40), 10.0)
    grey = kinds.group == "grey"
    assert (found.share[grey].argmax(axis=1) == 3).all()
    assert np.abs(found.shares - 0.25).max() < 0.05


def test_an_unknown_part_is_refused(kinds: OutcomeTable) -> None:
    router = Router(LinearScorer(5, 4), Hard(), kinds.experts, state=(StateInput("weather", 1, "rain"),))
    with pytest.raises(
        RouterError, match=r"state 'weather' cannot be computed .* known: compute_weight, group, load"
    ):
        measure(router, kinds, Objective(), 10.0)
