"""The synthetic table: its known router is the best, and its features can stay in their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from envs import Outcomes
from router_rl.bench.synthetic import class_weights, synthetic_table
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, LinearScorer, Router


def test_the_known_router_is_the_best() -> None:
    table = synthetic_table(4_000, 5, features=12)
    scorer = LinearScorer(12, 5)
    with torch.no_grad():
        scorer.weight.copy_(torch.from_numpy(class_weights(5, 12, seed=0)))
    router = Router(scorer, Hard(), table.experts).eval()
    problem = RoutingProblem(table)
    for split in ("train", "validation", "test"):
        rows = problem.rows(split)
        measurement = problem.evaluate(router, split)
        chosen = measurement.share.argmax(axis=1)
        # On the queries of a class, no other expert has a higher mean utility.
        utility = rows.quality - 0.1 * rows.cost / problem.scale
        for label in range(5):
            assert utility[chosen == label].mean(axis=0).argmax() == label
        assert abs(measurement.quality.mean() - 0.9) < 0.05
        assert utility.mean(axis=0).max() < measurement.utility.mean() - 0.15


def test_features_stay_in_their_file(tmp_path: Path) -> None:
    mapped, held = synthetic_table(300, 3, folder=tmp_path), synthetic_table(300, 3)
    np.testing.assert_array_equal(np.asarray(mapped.features), held.features)
    train = mapped.part("train")
    assert isinstance(train.features, np.memmap)
    outcomes = Outcomes.of(train, 1.0)
    assert outcomes.features.data_ptr() == train.features.ctypes.data
    rows = torch.tensor([5, 0])
    np.testing.assert_array_equal(outcomes.features[rows].numpy(), held.features[[5, 0]])
