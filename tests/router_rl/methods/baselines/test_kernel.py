"""The kernel smoother: its principal components, its values, and its export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.methods.baselines.kernel import principal_components
from router_rl.methods.registry import find_method
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import KernelScorer

OBJECTIVE = Objective(compute_weight=0.05)


def test_the_components_are_scikit_learns() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7)
    found = principal_components(torch.from_numpy(x), 3).numpy()
    expected = PCA(3).fit(x).components_
    np.testing.assert_allclose(np.abs((found * expected).sum(axis=1)), 1.0, atol=1e-9)


def test_weights_utilities_by_distance(kinds: OutcomeTable) -> None:
    router = fit(
        "kernel",
        RoutingProblem(kinds, OBJECTIVE),
        hyperparameters={"components": 4, "neighbours": 5, "factor": 0.5},
    )
    train, test = kinds.part("train"), kinds.part("test")
    assert train.features is not None
    assert test.features is not None
    mean, deviation = train.features.mean(axis=0), train.features.std(axis=0)
    one, two = ((part.features - mean) / deviation for part in (test, train))
    square = ((one[:, None] - two[None]) ** 2).sum(axis=-1)  # all components: distances are as before
    weight = np.exp(-0.5 * square / (0.25 * np.sort(square, axis=1)[:, 4:5]))
    expected = weight @ (train.quality - 0.05 * train.cost / 10) / weight.sum(axis=1, keepdims=True)
    with torch.inference_mode():
        np.testing.assert_allclose(router(torch.tensor(test.features)).logits.numpy(), expected, atol=1e-4)


def test_numbers_above_those_of_the_table_are_cut(kinds: OutcomeTable) -> None:
    router = fit(
        "kernel", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"components": 99, "neighbours": 9999}
    )
    assert isinstance(router.scorer, KernelScorer)
    assert (router.scorer.components, router.scorer.neighbours) == (4, len(kinds.part("train")))


@pytest.mark.parametrize("name", ["knn", "kernel"])
def test_the_method_gives_leave_one_out_logits(kinds: OutcomeTable, name: str) -> None:
    """With one neighbour, a training row's own logits are its utility; its leave-one-out ones are not."""
    problem = RoutingProblem(kinds, OBJECTIVE)
    values = {"neighbours": 1} if name == "knn" else {"neighbours": 1, "factor": 1e-3}
    router = fit(name, problem, hyperparameters=values)
    method = find_method("routing", name)
    held_out = method.leave_one_out(router)  # type: ignore[union-attr,misc]
    own = torch.tensor(problem.train.quality - 0.05 * problem.train.cost / 10)
    plain = router.scores(problem.outcomes().features)
    torch.testing.assert_close(plain, own, atol=1e-3, rtol=0.0)
    assert held_out.shape == own.shape
    assert 0.05 < float((held_out - own).abs().amax(dim=1).gt(0.1).float().mean()) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2", "onnx"])
def test_the_export_carries_the_training_queries(kinds: OutcomeTable, tmp_path: Path, format: str) -> None:
    router = fit("kernel", RoutingProblem(kinds, OBJECTIVE))
    assert export(router, tmp_path / "out", format=format, rows=kinds).passed
    rows = len(kinds.part("train"))
    assert sum(parameter.numel() for parameter in router.parameters()) == rows * (4 + 4) + 4 * 4
