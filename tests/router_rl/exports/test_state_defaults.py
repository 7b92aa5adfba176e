"""A conditioned router serves the weight that it was trained for unless a call says another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem, export, fit
from router_rl.exports.registry import find_format
from router_rl.problems.feature_config import FeatureConfig
from router_rl.routing import ConditionedScorer, Hard, Router, RouterError, StateInput, load_router

NAMES = ("small", "middle", "large")
QUICK: dict[str, dict[str, Any]] = {
    "conditioned_pg": {"epochs": 2, "lowest": 0.05, "highest": 0.8},
    "priced_pg": {"steps": 20},
}


def prompt_table(rows: int = 90) -> OutcomeTable:
    """Prompts whose words say which expert is right."""
    rng = np.random.default_rng(0)
    words = ("red rose", "blue sea", "grey ash")
    kind = rng.integers(0, 3, rows)
    return OutcomeTable(
        experts=NAMES,
        query_id=np.array([f"q{row}" for row in range(rows)], dtype=object),
        features=None,
        quality=(rng.random((rows, 3)) < np.where(np.arange(3) == kind[:, None], 0.9, 0.4)).astype(float),
        cost=np.tile([1.0, 2.0, 4.0], (rows, 1)),
        split=np.resize(["train", "train", "validation", "test"], rows),
        prompt=np.array([f"{words[each]} {row}" for row, each in enumerate(kind)], dtype=object),
    )


def conditioned(default: float | None = 0.2) -> Router:
    """A router with random weights whose choice depends on the compute weight."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scorer = ConditionedScorer(5, 3, (8,), [(0.01, 0.8)])
        for parameter in scorer.parameters():
            torch.nn.init.normal_(parameter)
    state = StateInput("compute_weight", 1, "the compute weight", default=default)
    return Router(scorer, Hard(), NAMES, state=[state]).eval()


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.parametrize(("weights", "served"), [((0.3,), 0.3), ((0.05, 0.1, 0.4), 0.1)])
def test_a_router_is_served_at_the_weight_of_its_training(
    method: str, weights: tuple[float, ...], served: float, tmp_path: Path
) -> None:
    problem = RoutingProblem(
        prompt_table(),
        [Objective(compute_weight=weight) for weight in weights],
        features=FeatureConfig(dimensions=4),
    )
    router = fit(method, problem, hyperparameters=QUICK[method])
    assert router.inputs == ("prompt",)
    export(router, tmp_path / "router", rows=problem)
    written = json.loads((tmp_path / "router" / "router.json").read_text())
    assert written["inputs"] == ["prompt"]
    assert written["state"][0]["default"] == served
    loaded = load_router(tmp_path / "router")
    asked = ["red rose", "blue sea 3", "grey ash and sea"]
    expected = router.at(compute_weight=served).route(asked).logits
    torch.testing.assert_close(loaded.route(asked).logits, expected, atol=1e-4, rtol=1e-4)
    other = loaded.route(asked, state=torch.full((3, 1), 0.77)).logits
    torch.testing.assert_close(
        other, router.at(compute_weight=0.77).route(asked).logits, atol=1e-4, rtol=1e-4
    )
    if method == "priced_pg":  # after two epochs, conditioned_pg does not depend on the weight yet
        assert not torch.allclose(other, expected, atol=1e-3)
    readme = (tmp_path / "router" / "README.md").read_text()
    assert 'router.route("a prompt")' in readme
    assert f"# Without state it routes for compute_weight {served:g}" in readme
    parity = json.loads((tmp_path / "router" / "parity.json").read_text())
    assert parity["without_state"]["passed"]


def test_without_a_default_the_state_is_required() -> None:
    features = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RouterError, match=r"state must be \[4, 1\] holding compute_weight"):
        conditioned(default=None)(features)
    router = conditioned()
    assert router.inputs == ("features",)
    assert conditioned(default=None).inputs == ("features", "compute_weight")
    expected = router(features, torch.full((4, 1), 0.2)).logits
    assert router(features).logits.equal(expected)
    assert router.folded()(features).logits.shape == (4, 3)
    assert not router(features, torch.full((4, 1), 0.7)).logits.allclose(expected)
    with pytest.raises(RouterError, match="state must be"):
        router(features, torch.zeros(4, 2))


@pytest.mark.parametrize("format", ["vllm", "sglang"])
def test_a_format_without_state_is_written_at_the_default(format: str, tmp_path: Path) -> None:
    router = conditioned()
    assert export(router, tmp_path / "out", format=format).passed
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    loaded = find_format(format).load(tmp_path / "out")
    assert loaded(features).experts.equal(router.at(compute_weight=0.2)(features).experts)
    assert not loaded(features).experts.equal(router.at(compute_weight=0.01)(features).experts)
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["at"] == {"compute_weight": 0.2}
    with pytest.raises(RouterError, match="only hidden states"):
        export(conditioned(default=None), tmp_path / "other", format=format)


def test_a_program_takes_the_weight_as_an_input(tmp_path: Path) -> None:
    export(conditioned(), tmp_path / "out", format="pt2")
    written = json.loads((tmp_path / "out" / "router.json").read_text())
    assert written["inputs"] == ["features", "state"]
    assert "program(features, state)" in (tmp_path / "out" / "README.md").read_text()
