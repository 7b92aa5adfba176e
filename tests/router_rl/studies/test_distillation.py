"""A linear router that imitates another says what it loses, and is made on request only."""

from __future__ import annotations

import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl import Objective, export
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard, LinearScorer, MLPScorer, Router, RouterError, StateInput
from router_rl.studies.distillation import distil_for

NAMES = ("red", "green", "blue", "grey")
OBJECTIVE = Objective(compute_weight=0.1)


def teacher(*, bent: bool, allowed: list[bool] | None = None) -> Router:
    """Each expert's logit is its feature, as two halves of a hidden layer; bent, one half is lost."""
    scorer = MLPScorer(4, 4, (8,))
    first, last = scorer.layers
    with torch.no_grad():
        first.weight.copy_(torch.cat([torch.eye(4), -torch.eye(4)]))
        first.bias.fill_(-0.9 if bent else 0.0)
        last.weight.copy_(5 * torch.cat([torch.eye(4), torch.eye(4) if bent else -torch.eye(4)], dim=1))
        last.bias.zero_()
    return Router(scorer, Hard(), NAMES, fallback=3, allowed=allowed).eval()


def test_a_teacher_that_is_linear_is_matched(kinds: OutcomeTable, tmp_path) -> None:
    found = distil_for(teacher(bent=False), kinds, OBJECTIVE, 10.0, bias=False)
    assert isinstance(found.router.scorer, LinearScorer)
    assert found.agreement > 0.98
    assert abs(found.lost.mean) < 0.01
    assert found.rows == len(kinds.part("test"))
    assert export(found.router, tmp_path / "out", format="gguf", rows=kinds).passed


def test_what_is_lost_is_measured_on_the_test_rows(kinds: OutcomeTable) -> None:
    router = teacher(bent=True)
    found = distil_for(router, kinds, OBJECTIVE, 10.0)
    test = kinds.part("test")
    with torch.no_grad():
        features = torch.tensor(test.features)
        same = (router(features).experts == found.router(features).experts).double().mean()
    assert found.agreement == pytest.approx(float(same))
    assert found.agreement < 0.95
    before, after = (
        float(measure(each, test, OBJECTIVE, 10.0).utility.mean()) for each in (router, found.router)
    )
    assert found.utility == pytest.approx((before, after))
    assert found.lost.mean == pytest.approx(before - after, abs=1e-6)
    assert found.lost.low <= found.lost.mean <= found.lost.high
    assert found.to_json()["utility_lost"] == found.lost.mean


def test_barred_experts_and_the_fallback_stay(kinds: OutcomeTable) -> None:
    found = distil_for(teacher(bent=False, allowed=[False, True, True, True]), kinds, OBJECTIVE, 10.0)
    with torch.no_grad():
        routing = found.router(torch.cat([torch.tensor(kinds.features), torch.full((1, 4), float("nan"))]))
    assert (routing.experts > 0).all()
    assert int(routing.experts[-1]) == 3


def test_what_is_refused(kinds: OutcomeTable) -> None:
    linear = Router(LinearScorer(4, 4), Hard(), NAMES)
    with pytest.raises(InputError, match="the router is already linear; export it as it is"):
        distil_for(linear, kinds, OBJECTIVE, 10.0)
    with pytest.raises(RouterError, match="routes between a, b but the table has red"):
        distil_for(Router(MLPScorer(4, 2), Hard(), ("a", "b")), kinds, OBJECTIVE, 10.0)
    stateful = Router(MLPScorer(8, 4), Hard(), NAMES, state=[StateInput("load", 4, "counts / W")])
    with pytest.raises(RouterError, match="a router with state cannot be distilled"):
        distil_for(stateful, kinds, OBJECTIVE, 10.0)
