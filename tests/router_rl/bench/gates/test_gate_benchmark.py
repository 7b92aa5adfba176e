"""`bench router` in seconds, and that what it times routes alike."""

from __future__ import annotations

import json

import pytest
import torch

import train_router
from router_rl.bench.gates import gate_benchmark as bench
from router_rl.bench.gates import gates_markdown, shapes
from router_rl.bench.gates.dispatch import by_mask, by_sorting
from router_rl.bench.gates.gate_clock import compare
from router_rl.routing.kernels import GateRule


def test_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_router.main(["bench", "router", "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(cell["model"], cell["rows"]) for cell in found["gates"]] == [
        ("Mixtral-8x7B", 1),
        ("Mixtral-8x7B", 16),
        ("DeepSeek-V3", 1),
        ("DeepSeek-V3", 16),
    ]
    for cell in found["gates"]:
        assert cell["forms"]["bare"]["ratio"] == 1.0
        assert list(cell["forms"]) == ["bare", "module", "transformers", "pt2"]
        assert all(timing["microseconds"] > 0 for timing in cell["forms"].values())
    assert [goal["cells"] for goal in found["goals"]] == [4, 4]
    text = gates_markdown(found)
    for word in ("module", "transformers", "DeepSeek-V3", "times faster", "met at"):
        assert word in text


def test_it_refuses_to_time_what_routes_otherwise() -> None:
    shape = shapes.Shape(
        name="small",
        hidden=16,
        experts=8,
        rule=GateRule(k=2),
        theirs=("mixtral.modeling_mixtral", "MixtralTopKRouter"),
        config={"num_local_experts": 8},
    )
    weights = shapes.weights_of(shape, torch.Generator().manual_seed(0))
    theirs = shapes.theirs_of(shape, weights)
    hidden = torch.randn(50, 16)
    with torch.inference_mode():
        alike = {"module": shapes.gate_of(shape, weights), "transformers": theirs}
        bench._check_alike(shape, alike, hidden)
        other = shapes.gate_of(shape, {"weight": -weights["weight"]})
        with pytest.raises(RuntimeError, match="small: transformers routes"):
            bench._check_alike(shape, {"module": other, "transformers": theirs}, hidden)


def test_both_dispatches_move_alike() -> None:
    for shape in shapes.SHAPES.values():
        weights = shapes.weights_of(shape, torch.Generator().manual_seed(0))
        hidden = torch.randn(33, shape.hidden)
        with torch.inference_mode():
            routed = shapes.gate_of(shape, weights, dispatch=True)(hidden)
            factors = torch.rand(shape.experts)
            torch.testing.assert_close(by_sorting(hidden, routed, factors), by_mask(hidden, routed, factors))


def test_ratios_are_of_one_round() -> None:
    turns: list[str] = []
    found = compare({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=3, span=0.0)
    assert turns[8:] == ["a", "b"] * 3  # four calls each to count how many fill a span
    assert found["a"].ratio == 1.0
    assert found["b"].quartiles[0] <= found["b"].ratio <= found["b"].quartiles[1]
