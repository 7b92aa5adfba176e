"""The DeepSeek-V3 gate: its bias by hand, that it balances, and that an export carries it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from routing_methods import METHODS

from experts import OutcomeTable
from router_rl import Objective, check_router, export, fit
from router_rl.methods.gates.deepseek_v3_gate import moved_bias
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import ScoredTopK, TopK, load


def test_bias_by_hand() -> None:
    # Loads 3, 2, 1 and 0, mean 1.5
    experts = torch.tensor([[0, 1], [0, 1], [0, 2]])
    moved = moved_bias(torch.tensor([0.1, 0.0, 0.0, -0.1]), experts, 0.01)
    torch.testing.assert_close(moved, torch.tensor([0.09, -0.01, 0.01, -0.09]))


def test_an_even_load_moves_nothing() -> None:
    assert moved_bias(torch.zeros(2), torch.tensor([[0], [1]]), 0.01).tolist() == [0.0, 0.0]


def test_the_bias_alone_balances_scores_that_do_not_change() -> None:
    logits = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) + torch.linspace(-2, 2, 8)
    bias = torch.zeros(8)

    def spread() -> float:
        rule = ScoredTopK(k=2, bias=tuple(bias.tolist()))
        load = torch.bincount(rule.select(logits).experts.reshape(-1), minlength=8).float()
        return float(load.max() / load.mean())

    before = spread()
    for _ in range(500):
        rule = ScoredTopK(k=2, bias=tuple(bias.tolist()))
        bias = moved_bias(bias, rule.select(logits).experts, 2e-3)
    assert before > 2.5
    assert spread() < 1.15


@pytest.mark.slow
@pytest.mark.parametrize("select", ["hard", "topk"])
@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_an_export_carries_the_bias(kinds: OutcomeTable, tmp_path: Path, select: str, format: str) -> None:
    settings = {"epochs": 4, "gamma": 0.03}
    router = fit(
        "deepseek_v3_gate", RoutingProblem(kinds, Objective(), select=select), hyperparameters=settings
    )
    assert isinstance(router.rule, ScoredTopK)
    assert router.rule.k == (1 if select == "hard" else 2)
    assert len(set(router.rule.bias)) > 1
    check_router(router, torch.tensor(kinds.features))
    export(router, tmp_path / "router", format=format, rows=kinds)
    if format == "safetensors":
        assert load(tmp_path / "router").rule == router.rule


def test_the_best_weights_keep_the_bias_they_were_measured_with(kinds: OutcomeTable) -> None:
    seen: list[tuple[float, int]] = []
    method = METHODS["deepseek_v3_gate"]
    task = RoutingProblem(kinds, Objective(), TopK(k=2))

    def rule_after(epochs: int) -> ScoredTopK:
        run = Run(
            seed=1,
            callback=lambda snapshot: seen.append((snapshot.validation.means()["utility"], snapshot.step)),
        )
        rule = method.fit(task, method.configure({"epochs": epochs, "gamma": 0.03}), run).rule
        assert isinstance(rule, ScoredTopK)
        return rule

    whole = rule_after(8)
    best = max(seen, key=lambda item: (item[0], -item[1]))[1]
    assert rule_after(best) == whole


def test_groups_are_served(kinds: OutcomeTable) -> None:
    router = fit(
        "deepseek_v3_gate",
        RoutingProblem(kinds, Objective(), select="topk"),
        hyperparameters={"epochs": 3, "groups": 2},
    )
    experts = router(torch.tensor(kinds.features)).experts
    assert (experts[:, 0] // 2 == experts[:, 1] // 2).all()
    check_router(router, torch.tensor(kinds.features))
