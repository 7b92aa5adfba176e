"""Routers with random weights for every rule that can be served, and the check of their exports."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch

from router_rl.exports import export, find_format
from router_rl.routing import (
    AdaptiveK,
    ConditionedScorer,
    Hard,
    Hierarchical,
    LinearScorer,
    MLPScorer,
    Router,
    ScoredTopK,
    Selection,
    Soft,
    StateInput,
    TopK,
)

NAMES = ("red", "green", "blue", "grey", "pink", "gold")
TREE = ("root", (0, ("warm", (1, 2)), ("cold", (3, ("far", (4, 5))))))
BIAS = (0.1, 0.2, 0.3, 0.2, 0.1, 0.0)
RULES: dict[str, Selection] = {
    "hard": Hard(),
    "top2": TopK(k=2),
    "top-all": TopK(k=6),
    "soft": Soft(k=6),
    "adaptive": AdaptiveK(k=3),
    "tree": Hierarchical(tree=TREE),
    "softmax": ScoredTopK(k=2, score="softmax"),
    "deepseek": ScoredTopK(k=2, bias=BIAS, groups=3, kept=2),
    "remoe": ScoredTopK(k=2, score="relu"),
}


@pytest.fixture(scope="session")
def rules() -> dict[str, Selection]:
    """Every rule whose decisions depend on a row alone."""
    return RULES


@pytest.fixture(scope="session")
def made() -> Callable[..., Router]:
    """Return a function that makes a router of 4 features and 6 experts."""

    def make(
        kind: str = "mlp",
        rule: str = "top2",
        *,
        state: bool = False,
        allowed: Sequence[bool] | None = None,
        bias: bool = True,
    ) -> Router:
        outputs = RULES[rule].outputs(6)
        parts: tuple[StateInput, ...] = (StateInput("load", 6, "counts / W"),) if state else ()
        inputs = 4 + 6 * state
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if kind == "linear":
                scorer: LinearScorer | MLPScorer | ConditionedScorer = LinearScorer(inputs, outputs)
            elif kind == "mlp":
                scorer = MLPScorer(inputs, outputs, (8, 8))
            else:
                scorer = ConditionedScorer(inputs + 1, outputs, (8,), [(0.01, 0.8)])
                parts = (StateInput("compute_weight", 1, "the compute weight"),)
            for parameter in scorer.parameters():
                torch.nn.init.normal_(parameter)
            scorer.shift.normal_(0.5)
            scorer.scale.uniform_(0.1, 2.0)
            if not bias:
                scorer.shift.zero_()
                scorer.bias.data.zero_()
        return Router(scorer, RULES[rule], NAMES, state=parts, fallback=2, allowed=allowed).eval()

    return make


def check_export(router: Router, folder: Path, format: str) -> None:
    """Export, and compare the export with the router: no rows, one, seven, ties, odd rows, dead experts."""
    assert export(router, folder, format=format).passed
    loaded = find_format(format).load(folder)
    generator = torch.Generator().manual_seed(1)
    alive = torch.tensor([True, True, False, False, True, True])  # the fallback expert is dead
    none_alive = torch.zeros(6, dtype=torch.bool)
    for rows in (0, 1, 7) if format != "onnx" or _takes_no_rows() else (1, 7):
        features = torch.randn(rows, 4, generator=generator)
        features[rows // 2 :] = 0.0  # ties, among routers without biases
        for row in range(min(rows, 4)):
            odd = features.clone()
            odd[row, row] = (float("nan"), float("inf"))[row % 2]
            same(router, loaded, odd)
        same(router, loaded, features)
        same(router, loaded, features, action_mask=alive)
        same(router, loaded, features, action_mask=none_alive)
    assert loaded(*_inputs(router, torch.full((3, 4), float("nan")))).fallback.all()
    all_dead = loaded(*_inputs(router, torch.zeros(3, 4)), action_mask=none_alive)
    assert all_dead.fallback.all()
    assert (all_dead.experts[:, 0] == 2).all()


def _takes_no_rows() -> bool:
    """Return whether this ONNX Runtime takes a batch without rows: older ones fail or end the process."""
    return tuple(map(int, version("onnxruntime").split(".")[:2])) >= (1, 32)


def same(router: Router, loaded: Callable[..., object], features: torch.Tensor, **mask: torch.Tensor) -> None:
    """Assert equal routings of the features, with a seeded state where the router takes one."""
    inputs = _inputs(router, features)
    found = loaded(*inputs, **mask)
    with torch.no_grad():
        expected = router(*inputs, **mask)
    assert found.experts.equal(expected.experts)
    assert found.fallback.equal(expected.fallback)
    torch.testing.assert_close(found.weights, expected.weights, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-3, rtol=1e-4)


def _inputs(router: Router, features: torch.Tensor) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    state = torch.rand(len(features), router.state_size, generator=generator)
    return [features, *([state] if router.state else [])]


@pytest.fixture(scope="session")
def holds() -> Callable[[Router, Path, str], None]:
    """Return the check of an export."""
    return check_export


@pytest.fixture(scope="session")
def exported() -> Callable[[Path], ModuleType]:
    """Return a function that imports an export's `routing.py` from where it stands."""

    def load(folder: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location("exported", folder / "routing.py")
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        return module

    return load
