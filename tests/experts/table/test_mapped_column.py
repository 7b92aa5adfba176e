"""Large tables are read by row groups into files; parts of them are files too, and equal to arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.outcomes import Outcomes
from experts import InputError, OutcomeTable
from experts.table import feature_column, mapped_column
from experts.table.mapped_column import is_mapped, rows_of
from router_rl import Objective, fit
from router_rl.methods.agents import expectation
from router_rl.methods.baselines import ridge
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.standardisation import mean_over

MAPPED = ("features", "quality", "cost")


@pytest.fixture
def path(kinds_table: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROUTER_RL_CACHE", str(tmp_path / "cache"))
    kinds_table.write(tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.fixture
def kinds_table() -> OutcomeTable:
    random = np.random.default_rng(0)
    kind = np.arange(400) % 3
    return OutcomeTable(
        experts=("a", "b", "c"),
        query_id=range(400),
        features=np.eye(3)[kind] + random.normal(0, 0.2, (400, 3)),
        quality=random.random((400, 3)) < np.where(np.eye(3)[kind] > 0, 0.9, 0.3),
        cost=random.random((400, 3)) + np.array([0.5, 1.0, 1.5]),
        split=random.choice(["train", "validation", "tuning", "test"], 400),
    )


def _map_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_column, "MAP_FROM_BYTES", 1)
    monkeypatch.setattr(feature_column, "MAP_FROM_BYTES", 1)


def test_a_mapped_table_is_the_table(
    path: Path, kinds_table: OutcomeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = OutcomeTable.read(path, progress=False)
    assert not any(is_mapped(getattr(small, name)) for name in MAPPED)
    _map_all(monkeypatch)
    for _ in range(2):  # extracted, then found
        large = OutcomeTable.read(path, progress=False)
        parts = [large, large.part("train"), large.take(np.arange(5, 50)), large.take(np.array([3, 3, 1]))]
        rows = [np.arange(400), np.flatnonzero(small.split == "train"), np.arange(5, 50), [3, 3, 1]]
        for part, index in zip(parts, rows, strict=True):
            for name in MAPPED:
                assert is_mapped(getattr(part, name)), name
                assert not getattr(part, name).flags.writeable
                np.testing.assert_array_equal(getattr(part, name), getattr(small, name)[index])
    assert {each.name for each in (path.parent / "cache").iterdir()} == {*MAPPED, "parts"}
    assert not os.listdir(path.parent / "cache" / "parts")  # removed with their last view


def test_a_changed_table_is_extracted_again(
    path: Path, kinds_table: OutcomeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    _map_all(monkeypatch)
    OutcomeTable.read(path, progress=False)
    kinds_table.take(np.arange(399)[::-1]).write(path)
    again = OutcomeTable.read(path, progress=False)
    np.testing.assert_array_equal(again.cost, kinds_table.cost[:399][::-1])
    assert len(list((path.parent / "cache" / "quality").iterdir())) == 1


def test_training_on_a_mapped_table_is_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(method: str) -> np.ndarray:
        problem = RoutingProblem(OutcomeTable.read(path, progress=False), Objective(compute_weight=0.1))
        router = fit(method, problem, hyperparameters={"epochs": 2} if method == "exact_pg" else {})
        weights = [each.detach().flatten() for each in router.parameters()]
        utility = problem.evaluate(router, "test").utility
        assert is_mapped(problem.train.quality) == (mapped_column.MAP_FROM_BYTES == 1)
        return np.concatenate([torch.cat(weights).numpy(), utility])

    methods = ("exact_pg", "ridge", "knn", "best_single")
    small = {method: trained(method) for method in methods}
    _map_all(monkeypatch)
    for method in methods:
        np.testing.assert_array_equal(trained(method), small[method], err_msg=method)
    monkeypatch.setattr(expectation, "_KEPT", 1)  # utilities for each batch
    np.testing.assert_array_equal(trained("exact_pg"), small["exact_pg"])
    monkeypatch.setattr(ridge, "_AT_ONCE", 50)  # sums over parts
    monkeypatch.setattr(ridge, "_PART", 30)
    np.testing.assert_allclose(trained("ridge"), small["ridge"], rtol=1e-5, atol=1e-6)


def test_compute_of_mapped_costs_is_mapped_and_equal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Outcomes.of(OutcomeTable.read(path, progress=False), 1.7)
    _map_all(monkeypatch)
    large = Outcomes.of(OutcomeTable.read(path, progress=False), 1.7)
    for name in ("features", "quality", "compute"):
        assert torch.equal(getattr(large, name), getattr(small, name)), name
    part = large.part(slice(10, 20))
    assert torch.equal(part.compute, small.compute[10:20])
    assert part.queries == 10
    assert part.label is None


def test_arrays_in_memory_stay_there() -> None:
    values = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    assert not is_mapped(values)
    np.testing.assert_array_equal(rows_of(values, np.array([5, 0])), values[[5, 0]])
    assert np.shares_memory(rows_of(values, slice(1, 3)), values)


def test_means_over_two_arrays_have_the_bits_of_their_concatenation() -> None:
    random = np.random.default_rng(0)
    for first, second in ((1000, 300), (1, 1), (70_000, 66_000)):
        one, two = random.random((first, 3), dtype=np.float32), random.random((second, 3), dtype=np.float32)
        whole = np.concatenate([one, two]).mean(axis=0, dtype=np.float64)
        assert mean_over(one, two).tolist() == whole.tolist()


def test_equal_ids_and_unknown_splits_are_found() -> None:
    table = {"experts": ("a", "b"), "features": None, "quality": np.ones((4, 2)), "cost": np.ones((4, 2))}
    with pytest.raises(InputError, match="query_id='x': rows 1 and 3 share it"):
        OutcomeTable(query_id=["w", "x", "y", "x"], split=["train"] * 4, **table)
    with pytest.raises(InputError, match="split='best': row 2 is unknown"):
        OutcomeTable(query_id=range(4), split=["train", "test", "best", "train"], **table)
    made = OutcomeTable(query_id=range(4), split=np.array(["train"] * 4), **table)
    assert made.with_split(np.array(["test", "train", "validation", "train"])).split[2] == "validation"
    with pytest.raises(InputError, match="split="):
        made.with_split(np.array(["test", "train", "other", "train"]))
    with pytest.raises(InputError, match="split="):
        made.with_split(np.array(["test"]))
