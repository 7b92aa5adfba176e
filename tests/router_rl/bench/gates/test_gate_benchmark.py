"""The benchmark of gates in seconds, and that the forms it times route alike."""

from __future__ import annotations

from io import StringIO

import pytest
import torch
from rich.console import Console

from router_rl.bench.gates import gate_benchmark as bench
from router_rl.bench.gates import gates_view, shapes
from router_rl.bench.gates.dispatch import by_mask, by_sorting
from router_rl.bench.gates.gate_clock import compare
from router_rl.routing.kernels import GateRule


@pytest.mark.slow
def test_quick() -> None:
    measured = bench.bench_gates(bench.QUICK)
    assert [(gate["model"], gate["rows"]) for gate in measured["gates"]] == [
        ("Mixtral-8x7B", 1),
        ("Mixtral-8x7B", 16),
        ("DeepSeek-V3", 1),
        ("DeepSeek-V3", 16),
    ]
    for gate in measured["gates"]:
        assert gate["forms"]["bare"]["ratio"] == 1.0
        assert list(gate["forms"]) == ["bare", "module", "transformers", "layer", "pt2"]
        assert all(timing["microseconds"] > 0 for timing in gate["forms"].values())
    assert [goal["measurements"] for goal in measured["goals"]] == [4, 4, 4, 4]
    out = StringIO()
    Console(file=out, width=200).print(gates_view(measured))
    for word in ("module", "transformers", "DeepSeek-V3", "speedup", "met at"):
        assert word in out.getvalue()


def test_forms_that_route_differently_are_an_error() -> None:
    shape = shapes.Shape(
        name="small",
        hidden=16,
        experts=8,
        rule=GateRule(k=2),
        router_class=("mixtral.modeling_mixtral", "MixtralTopKRouter"),
        config={"num_local_experts": 8},
    )
    weights = shapes.weights_of(shape, torch.Generator().manual_seed(0))
    theirs = shapes.transformers_router_of(shape, weights)
    hidden = torch.randn(50, 16)
    with torch.inference_mode():
        alike = {"module": shapes.gate_of(shape, weights), "transformers": theirs}
        bench._check_equal(shape, alike, hidden)
        other = shapes.gate_of(shape, {"weight": -weights["weight"]})
        with pytest.raises(RuntimeError, match="small: transformers routes"):
            bench._check_equal(shape, {"module": other, "transformers": theirs}, hidden)


def test_both_dispatches_give_equal_outputs() -> None:
    for shape in shapes.SHAPES.values():
        weights = shapes.weights_of(shape, torch.Generator().manual_seed(0))
        hidden = torch.randn(33, shape.hidden)
        with torch.inference_mode():
            routed = shapes.gate_of(shape, weights, dispatch=True)(hidden)
            factors = torch.rand(shape.experts)
            torch.testing.assert_close(by_sorting(hidden, routed, factors), by_mask(hidden, routed, factors))


def test_functions_take_turns_in_every_round() -> None:
    turns: list[str] = []
    timings = compare({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=3, span=0.0)
    assert turns[8:] == ["a", "b"] * 3  # four calls each come first, to choose the calls per turn
    assert timings["a"].ratio == 1.0
    assert timings["b"].quartiles[0] <= timings["b"].ratio <= timings["b"].quartiles[1]
