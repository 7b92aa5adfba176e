"""Every method: it learns a table whose answer is known, passes the one check, and is tuned alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from routing_methods import METHODS

from experts import InputError, OutcomeTable
from router_rl import Objective, check_router, fit
from router_rl.methods.registry import find_method
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.routing.routing_options import ScorerConfig
from router_rl.problems.selection_rules import selection
from router_rl.routing import Hard, TopK

CLOSED = [
    *("ridge", "centroid", "knn", "kernel", "cluster", "guarded_knn", "boosted_trees"),
    *("group_label", "inferred_group", "linucb", "thompson"),
]
LEARNED = [name for name, method in METHODS.items() if method.family in ("rl", "gate")] + CLOSED
GATES = [name for name, method in METHODS.items() if method.family == "gate"]
# With one expert a query its weight is always 1: `gates/test_k1_trap.py` shows that it cannot learn.
TRAPPED = ("mixtral_gate",)
OBJECTIVE = Objective(compute_weight=0.05)


FEW = {  # decisions that are enough where the defaults take longest
    **{name: {"decisions": 50_000, "lanes": 64} for name in ("ppo", "a2c")},
    "router_ppo": {"decisions": 100_000},
    "dqn": {"decisions": 60_000},
}


def utility(
    table: OutcomeTable,
    method: str,
    n_trials: int = 1,
    hyperparameters: dict[str, object] | None = None,
    **changes: object,
) -> float:
    problem = RoutingProblem(table, OBJECTIVE, **changes)
    router = fit(method, problem, n_trials=n_trials, hyperparameters=hyperparameters)
    return measure(router, table.part("test"), OBJECTIVE, problem.scale).means()["utility"]


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in LEARNED if name not in TRAPPED])
def test_learns_which_expert_knows_which_kind(kinds: OutcomeTable, method: str) -> None:
    # The specialist of each kind earns 1 - .05 * cost / 10, .979 on average; the best single expert .65.
    few = FEW[method] if method == "dqn" else None
    n_trials = 4 if method in ("switch_gate", "cluster") else 1
    assert utility(kinds, method, n_trials, hyperparameters=few) > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in GATES if name not in TRAPPED])
def test_gates_learn_without_probabilities(kinds_without_probabilities: OutcomeTable, method: str) -> None:
    assert (
        utility(
            kinds_without_probabilities,
            method,
            n_trials=4 if method in ("softmax_gate", "switch_gate") else 1,
        )
        > 0.93
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in LEARNED if name not in ("dqn", "priced_pg")])
def test_learns_with_two_experts_a_query(kinds: OutcomeTable, method: str) -> None:
    # Two experts cost more; any pair with the right one of the kind answers rightly where it outweighs.
    assert utility(kinds, method, hyperparameters=FEW.get(method), select="topk", k=2) > 0.85


@pytest.mark.parametrize("method", ["ppo", "softmax_gate", "em_gate", "ridge"])
def test_a_linear_scorer_passes_check_router(kinds: OutcomeTable, method: str) -> None:
    router = fit(
        method,
        RoutingProblem(kinds, OBJECTIVE, scorer=ScorerConfig(kind="linear")),
        hyperparameters=_short(method),
    )
    assert router.spec()["scorer"]["kind"] == "linear"
    check_router(router, torch.tensor(kinds.features))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_router_and_it_passes_the_check(
    kinds: OutcomeTable, method: str
) -> None:
    one, two = (
        fit(method, RoutingProblem(kinds, OBJECTIVE), hyperparameters=_short(method), seed=3)
        for _ in range(2)
    )
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert one.rule == two.rule
    check_router(one, torch.tensor(kinds.features))


def test_every_method_gets_the_same_number_of_trials() -> None:
    for method in METHODS.values():
        candidates = method.candidates(5)
        assert candidates[0] == method.hyperparameters()
        assert len({str(candidate) for candidate in candidates}) == len(candidates)
        assert len(candidates) == (5 if method.space else 1)


def test_dqn_refuses_two_experts(kinds: OutcomeTable) -> None:
    with pytest.raises(InputError, match=r"method='dqn': does not support topk selection; it supports hard"):
        fit("dqn", RoutingProblem(kinds, OBJECTIVE, select="topk"))


def test_names_are_checked(kinds: OutcomeTable) -> None:
    with pytest.raises(InputError, match="did you mean 'softmax_gate'"):
        find_method("routing", "softmaxgate")
    with pytest.raises(InputError, match="select='hrad': unknown; did you mean 'hard'"):
        selection("hrad", kinds)
    with pytest.raises(InputError, match=r"method.learning_rat=0.1: ppo has no such hyperparameter"):
        METHODS["ppo"].configure({"learning_rat": 0.1})
    assert selection("topk", kinds, k=3) == TopK(k=3)


def test_the_oracle_cannot_be_fitted(kinds: OutcomeTable) -> None:
    with pytest.raises(InputError, match="uses the outcomes"):
        fit("oracle", RoutingProblem(kinds, OBJECTIVE))


@pytest.mark.slow
def test_load_is_heeded(kinds: OutcomeTable) -> None:
    """With a heavy load weight an agent that sees the window spreads its decisions more."""
    light, heavy = (
        fit(
            "ppo",
            RoutingProblem(kinds, Objective(compute_weight=2.0, load_weight=weight, window=32)),
            seed=0,
        )
        for weight in (0.0, 0.5)
    )
    assert not light.state
    assert [part.name for part in heavy.state] == ["load"]
    objective = Objective(compute_weight=2.0, load_weight=0.5, window=32)
    scale = RoutingProblem(kinds, objective, Hard()).scale
    loads = [measure(r, kinds.part("test"), objective, scale).means()["load"] for r in (light, heavy)]
    assert loads[1] < 0.5 * loads[0]


def _short(method: str) -> dict[str, object]:
    known = METHODS[method].hyperparameters.__dataclass_fields__
    wanted = {
        "decisions": 2048,
        "validate_every": 1024,
        "lanes": 32,
        "epochs": 2,
        "minibatch": 64,
        "trees": 5,
    }
    return {name: value for name, value in wanted.items() if name in known}


def test_a_short_run_is_short() -> None:
    assert "decisions" in _short("ppo")
    assert np.isfinite(METHODS["ppo"].hyperparameters(**_short("ppo")).learning_rate)
