"""The benchmark of training speed in a few seconds, and the form of its results."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from router_rl.bench.learner_benchmark import QUICK, bench
from router_rl.bench.learner_clock import spread
from router_rl.bench.learner_table import bench_view
from router_rl.bench.learners import LEARNERS


@pytest.mark.slow
def test_quick() -> None:
    progress: list[tuple[int, int]] = []
    measured = bench(QUICK, lambda done, total, what: progress.append((done, total)))
    assert progress == [(done, len(progress)) for done in range(1, len(progress) + 1)]
    assert set(measured) == {"schema_version", "machine", "plan", "tables", "transitions", "scaling"}
    (table,) = measured["tables"]
    names = [learner.name for learner in LEARNERS]
    assert [row["learner"] for row in table["throughput"]] == ["bare", *names]
    assert all(row["median"] > 0 for row in table["throughput"])
    ratio = table["exact_pg_over_bare"]
    assert 0.1 < ratio["median"] < 10.0
    assert ratio["met"] is (ratio["median"] >= ratio["goal"])
    (size,) = measured["scaling"]
    assert 0 < size["before_mib"] <= size["peak_mib"]
    assert {row["env"] for row in measured["transitions"]} >= {"routing", "cascade", "queueing", "caching"}
    assert all(row["per_second"] > 0 < row["sb3_ppo_per_second"] for row in measured["transitions"])
    out = StringIO()
    Console(file=out, width=200).print(bench_view(measured))
    for word in (*names, "bare", "met", "1,000", "queueing"):
        assert word in out.getvalue()


def test_a_repeat_beyond_the_limit_counts_as_the_longest() -> None:
    never = float("inf")
    assert spread([1.0, never, never]).median is None
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]).median == 3.0
