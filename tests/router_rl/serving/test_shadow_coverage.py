"""Intervals of a shadow router's estimate cover its true values, over 20 seeds of requests and choices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmark_scripts import benchmark

from experts import OutcomeTable

SEEDS, REQUESTS = 20, 500  # of the logs; that the candidate is trained on


@pytest.mark.slow
def test_intervals_cover_the_truth_over_20_seeds(shared_table: Callable[[str], Path]) -> None:
    """Of 20 intervals with 95% coverage, 17 or more cover the truth in 98% of cases."""
    script = benchmark("shadow_coverage")
    table = OutcomeTable.read(shared_table("llmrouter_pool9.parquet"), progress=False)
    found = script.play(script.of_experts(table, script.EXPERTS), 0, REQUESTS, 0.3, SEEDS)
    estimates = found["estimates"][1_000]
    assert len(estimates) == SEEDS
    for part in script.PARTS:
        truth = found["better"][part]
        ends = [estimate[part]["dr"]["ci95"] for estimate in estimates]
        covered = sum(low <= truth <= high for low, high in ends)
        assert covered >= 17, (part, covered)
        assert all(low < high for low, high in ends)
