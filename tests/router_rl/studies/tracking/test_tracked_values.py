"""What trackers are told: the unit of costs, and identities of 16 digits."""

from __future__ import annotations

import re
from pathlib import Path

from router_rl.studies.tracking.run_identity import folder_id
from router_rl.studies.tracking.tracked_values import CostTag, cost_tag


def test_compute_is_logged_in_the_unit_that_a_user_pays_in() -> None:
    assert cost_tag("usd", 0.002) == CostTag(name="usd_per_1000_queries", per_compute=2.0)
    assert cost_tag("flops", 5.0) == CostTag(name="flops_per_1000_queries", per_compute=5000.0)
    assert cost_tag(None, 1.0) is cost_tag("unknown", 1.0) is cost_tag("usd", None) is None


def test_a_folder_keeps_its_identity_of_16_digits(tmp_path: Path) -> None:
    first = folder_id(tmp_path / "one")
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert folder_id(tmp_path / "one") == first != folder_id(tmp_path / "two")
