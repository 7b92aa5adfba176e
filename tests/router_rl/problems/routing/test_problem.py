"""What a task takes from a table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, LinearScorer, MLPScorer, RouterError, TopK


def test_features_are_standardised_on_the_training_rows(kinds: OutcomeTable) -> None:
    task = RoutingProblem(kinds, Objective(), Hard())
    scorer = task.new_router(0).scorer
    assert isinstance(scorer, MLPScorer)
    x = (torch.tensor(task.train.features) - scorer.shift) * scorer.scale
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=0, correction=0), torch.ones(4), atol=1e-4, rtol=0)


def test_a_feature_that_never_varies_is_dropped(kinds: OutcomeTable) -> None:
    features = np.concatenate([kinds.features, np.full((len(kinds), 1), 7.0, dtype=np.float32)], axis=1)
    fields = {name: getattr(kinds, name) for name in kinds.__dataclass_fields__}
    task = RoutingProblem(OutcomeTable(**{**fields, "features": features}), Objective(), Hard())
    scorer = task.new_router(0, kind="linear").scorer
    assert isinstance(scorer, LinearScorer)
    assert scorer.scale[-1] == 0


def test_the_fallback_is_the_best_single_expert_of_the_objective(kinds: OutcomeTable) -> None:
    assert RoutingProblem(kinds, Objective(compute_weight=0.0), Hard()).new_router(0).fallback == 3
    assert RoutingProblem(kinds, Objective(compute_weight=5.0), Hard()).new_router(0).fallback == 0


def test_the_load_is_observed_where_it_is_charged(kinds: OutcomeTable) -> None:
    assert not RoutingProblem(kinds, Objective(), Hard()).observe_load
    assert RoutingProblem(kinds, Objective(load_weight=0.1), Hard()).observe_load
    assert not RoutingProblem(kinds, Objective(load_weight=0.1), Hard(), observe_load=False).observe_load


def test_a_log_is_compared_with_bandits_besides(kinds: OutcomeTable) -> None:
    assert RoutingProblem(kinds).included == RoutingProblem.always
    logged = RoutingProblem(kinds, feedback="bandit")
    assert logged.included == (*RoutingProblem.always, "linucb", "thompson")


def test_the_seed_decides_the_weights_and_nothing_else_does(kinds: OutcomeTable) -> None:
    task = RoutingProblem(kinds, Objective(), Hard())
    torch.manual_seed(1)
    one = task.new_router(5).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = task.new_router(5).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], value) for name, value in task.new_router(6).state_dict().items())


def test_what_cannot_be_a_task(kinds: OutcomeTable) -> None:
    fields = {name: getattr(kinds, name) for name in kinds.__dataclass_fields__}
    with pytest.raises(InputError, match="has neither features, nor prompts or groups"):
        RoutingProblem(OutcomeTable(**{**fields, "features": None, "group": None}), Objective(), Hard())
    with pytest.raises(RouterError, match=r"TopK.k=5 exceeds 4 experts; use 1 to 4"):
        RoutingProblem(kinds, Objective(), TopK(k=5))
    with pytest.raises(InputError, match="has 0 validation rows; half of them"):
        RoutingProblem(kinds.take(kinds.split != "validation"), Objective(), Hard())
    with pytest.raises(InputError, match=r"scorer.kind='cubic'"):
        ScorerConfig(kind="cubic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"scorer.hidden=\[64, 0\]"):
        ScorerConfig(hidden=(64, 0))
