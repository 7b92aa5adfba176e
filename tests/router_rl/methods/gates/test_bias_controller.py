"""The bias controller: what it reaches, what it keeps, what it refuses."""

from __future__ import annotations

import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl import Objective, fit
from router_rl.methods.gates.bias_controller import balancing_bias, rebalanced
from router_rl.problems.load import load_cv
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard, RouterError, TopK


def test_by_hand() -> None:
    # Expert 0 leads by 1, 2, 3 and 4: half the rows each takes a handicap between 2 and 3.
    logits = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    bias = balancing_bias(logits, Hard(), torch.tensor([0.5, 0.5]))
    assert 2.0 < float(bias[1] - bias[0]) < 3.0
    assert float(bias.sum()) == pytest.approx(0.0, abs=1e-6)
    assert not balancing_bias(logits, Hard(), torch.tensor([1.0, 0.0])).any()


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)])
def test_loads_reach_the_target(rule: Hard | TopK) -> None:
    logits = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))
    logits = logits + torch.tensor([3.0, 1.0, 0.0, -1.0, -3.0])
    bias = balancing_bias(logits, rule, torch.full((5,), 0.2))
    experts = rule.select(logits + bias).experts
    assert torch.bincount(experts.flatten(), minlength=5) / experts.numel() == pytest.approx(0.2, abs=0.005)


def test_strength_is_a_dial(kinds: OutcomeTable) -> None:
    objective = Objective(compute_weight=1.5)  # at which the dearest expert is hardly worth its kind
    router = fit("ridge", RoutingProblem(kinds, objective))
    features = torch.tensor(kinds.part("train").features)
    before = {name: value.clone() for name, value in router.state_dict().items()}
    found = [
        load_cv(measure(rebalanced(router, features, strength), kinds, objective, 10.0).shares)
        for strength in (0.0, 0.5, 1.0)
    ]
    assert found[0] == load_cv(measure(router, kinds, objective, 10.0).shares)
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.1
    for name, value in router.state_dict().items():
        assert value.equal(before[name])


def test_what_is_refused(kinds: OutcomeTable) -> None:
    features = torch.tensor(kinds.features)
    with pytest.raises(InputError, match=r"strength=1.5: not in \[0, 1\]"):
        rebalanced(fit("ridge", RoutingProblem(kinds, Objective())), features, 1.5)
    with pytest.raises(RouterError, match="a knn scorer has no output bias"):
        rebalanced(fit("knn", RoutingProblem(kinds, Objective())), features, 0.5)
    for router in (
        fit("group_label", RoutingProblem(kinds, Objective())),
        fit("ridge", RoutingProblem(kinds, Objective(), select="hierarchical")),
    ):
        with pytest.raises(RouterError, match="without state inputs"):
            rebalanced(router, features, 0.5)
