"""The DeepSeek-V2 gate's three balance terms, by hand, and its groups."""

from __future__ import annotations

import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, check_router, fit
from router_rl.methods.gates.deepseek_v2_gate import communication_loss, device_loss
from router_rl.methods.gates.gate_training import balance_loss
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, RouterError, ScoredTopK

P = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])  # mean (.25, .25, .25, .25)
SKEWED = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.6, 0.1, 0.1, 0.2]])  # mean (.5, .2, .15, .15)
CHOSEN = torch.tensor([[0, 1], [0, 3]])


def test_by_hand() -> None:
    # f_e = N / (k T) count_e = (2, 1, 0, 1)
    assert float(balance_loss(SKEWED, CHOSEN)) == pytest.approx(2 * 0.5 + 0.2 + 0.15)
    # f' = (1.5, .5), P' = (.7, .3)
    assert float(device_loss(SKEWED, CHOSEN, 2)) == pytest.approx(1.5 * 0.7 + 0.5 * 0.3)
    # The first device gets both queries, the second one of them: f'' = D / (M T) (2, 1)
    assert float(communication_loss(SKEWED, CHOSEN, 2, 2)) == pytest.approx(1.0 * 0.7 + 0.5 * 0.3)
    assert float(communication_loss(SKEWED, CHOSEN, 2, 1)) == pytest.approx(2.0 * 0.7 + 1.0 * 0.3)


def test_even_is_one_and_one_device_is_constant() -> None:
    even = torch.tensor([[0, 2], [1, 3]])
    assert float(device_loss(P, even, 2)) == pytest.approx(1.0)
    assert float(communication_loss(P, even, 2, 2)) == pytest.approx(1.0)
    assert float(device_loss(SKEWED, CHOSEN, 1)) == pytest.approx(1.0)
    assert float(communication_loss(SKEWED, CHOSEN, 1, 1)) == pytest.approx(1.0)


def test_groups_are_served(kinds: OutcomeTable) -> None:
    settings = {"epochs": 3, "groups": 2}
    router = fit(
        "deepseek_v2_gate", RoutingProblem(kinds, Objective(), select="topk"), hyperparameters=settings
    )
    assert router.rule == ScoredTopK(k=2, score="softmax", groups=2, judged_by=1)
    check_router(router, torch.tensor(kinds.features))
    experts = router(torch.tensor(kinds.features)).experts
    assert (experts[:, 0] // 2 == experts[:, 1] // 2).all()
    assert (
        fit("deepseek_v2_gate", RoutingProblem(kinds, Objective()), hyperparameters={"epochs": 1}).rule
        == Hard()
    )


def test_groups_must_fit(kinds: OutcomeTable) -> None:
    with pytest.raises(RouterError, match="groups=3 does not divide 4"):
        fit("deepseek_v2_gate", RoutingProblem(kinds, Objective()), hyperparameters={"groups": 3})
