"""What trackers are told: the unit of costs, and identities of 16 digits."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from router_rl.methods.training_loop import Snapshot
from router_rl.problems.measure import Measurement
from router_rl.studies.tracking.comparison_results import comparison_summary
from router_rl.studies.tracking.run_identity import folder_id
from router_rl.studies.tracking.tracked_values import CostTag, cost_tag, logged


def test_compute_is_logged_in_the_unit_that_a_user_pays_in() -> None:
    assert cost_tag("usd", 0.002) == CostTag(name="usd_per_1000_queries", per_compute=2.0)
    assert cost_tag("flops", 5.0) == CostTag(name="flops_per_1000_queries", per_compute=5000.0)
    assert cost_tag(None, 1.0) is cost_tag("unknown", 1.0) is cost_tag("usd", None) is None


def test_a_folder_keeps_its_identity_of_16_digits(tmp_path: Path) -> None:
    first = folder_id(tmp_path / "one")
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert folder_id(tmp_path / "one") == first != folder_id(tmp_path / "two")


def test_a_summary_has_the_cost_of_1000_queries() -> None:
    row = {"method": "knn", "case": "c 0.1", "utility_mean": 0.7, "quality_mean": 0.8, "compute_mean": 0.5}
    results = {"table_facts": {"cost_unit": "usd", "compute_unit": 0.004}, "summary": [row]}
    summary = comparison_summary(results)
    assert {name.rpartition("/")[2]: value for name, value in summary.items()} == {
        "utility": 0.7,
        "quality": 0.8,
        "compute": 0.5,
        "usd_per_1000_queries": pytest.approx(0.5 * 4.0),
    }


def test_a_snapshot_is_logged_in_thousandths_with_the_best_utility_if_it_is_known() -> None:
    share = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=np.float32)
    parts = {"compute": np.array([0.5, 1.5])}
    validation = Measurement(utility=np.array([0.2, 0.4]), parts=parts, share=share)
    snapshot = Snapshot(step=3, total=8, validation=validation, best=0.6, training={"loss": 2.0})
    found = logged(snapshot, cost_tag("usd", 0.01))
    assert found.step == 375
    assert found.counts == {"validation/experts": [2, 1, 0]}
    assert found.scalars["training/loss"] == 2.0
    assert found.scalars["validation/utility"] == pytest.approx(0.3)
    assert found.scalars["validation/usd_per_1000_queries"] == pytest.approx(10.0)
    assert found.scalars["validation/best_utility"] == 0.6
    assert found.scalars["validation/largest_share"] == pytest.approx(0.75)
    unknown = Snapshot(step=3, total=8, validation=validation, best=math.nan)
    assert "validation/best_utility" not in logged(unknown, None).scalars
