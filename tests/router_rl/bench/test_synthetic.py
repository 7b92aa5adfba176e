"""The made table: its best router is the best there is, and its features may stay in their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from envs import Outcomes
from router_rl import Objective
from router_rl.bench.synthetic import best_router, synthetic_table
from router_rl.problems.routing.problem import Task
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard


def test_the_known_router_is_the_best() -> None:
    table = synthetic_table(4_000, 5, features=12)
    task = Task.of(table, Objective(), Hard())
    router = best_router(table)
    found = measure(router, table, task.objective, task.scale)
    chosen = found.share.argmax(axis=1)
    # By kind of query, no other expert earns as much on average.
    utility = table.quality - 0.1 * table.cost / task.scale
    for kind in range(5):
        means = utility[chosen == kind].mean(axis=0)
        assert means.argmax() == kind
    assert abs(found.quality.mean() - 0.9) < 0.02
    assert utility.mean(axis=0).max() < found.utility.mean() - 0.2


def test_features_stay_in_their_file(tmp_path: Path) -> None:
    mapped, held = synthetic_table(300, 3, folder=tmp_path), synthetic_table(300, 3)
    np.testing.assert_array_equal(np.asarray(mapped.features), held.features)
    train = mapped.part("train")
    assert isinstance(train.features, np.memmap)
    outcomes = Outcomes.of(train, 1.0)
    assert outcomes.features.data_ptr() == train.features.ctypes.data
    rows = torch.tensor([5, 0])
    np.testing.assert_array_equal(outcomes.features[rows].numpy(), held.features[[5, 0]])
