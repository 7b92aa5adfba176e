"""A hundred thousand queries of 64 experts are imported, learned from and routed in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from benchmark_scripts import benchmark

from experts import OutcomeTable

large_table_stages = benchmark("large_table_stages")
STAGES, measure_stage, write_results = (
    getattr(large_table_stages, name) for name in ("STAGES", "measure_stage", "write_results")
)

LIMITS = {"import": 700.0, "train exact_pg": 950.0}  # MiB that no file backs; about 460 and 690 were measured


def test_results_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_table_stages, "_CHUNK", 300)
    write_results(tmp_path / "t.parquet", 1000, 5)
    table = OutcomeTable.read(tmp_path / "t.parquet", progress=False)
    assert (len(table), table.experts, table.features.shape) == (
        1000,
        tuple(f"expert{e}" for e in range(5)),
        (1000, 64),
    )
    assert set(np.unique(table.quality)) == {0.0, 1.0}
    assert 0.7 < (table.split == "train").mean() < 0.9
    assert (table.split[:-1] != table.split[1:]).mean() > 0.2  # in no order
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 4


@pytest.mark.slow
def test_every_stage_runs_at_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_RL_CACHE", str(tmp_path / "cache"))
    write_results(tmp_path / "table.parquet", 2000, 4)
    for stage, run in STAGES.items():
        run(tmp_path)
        if stage == "import":
            assert pq.read_table(tmp_path / "imported.parquet").num_rows == 2000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to read memory from")
def test_memory_is_bounded_at_a_hundred_thousand_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTER_RL_CACHE", str(tmp_path / "cache"))
    write_results(tmp_path / "table.parquet", 100_000, 64)
    for stage, limit in LIMITS.items():
        cost = measure_stage(stage, tmp_path, 100_000, 64, limit=300.0)
        assert cost.anonymous_mib is not None, stage
        assert cost.anonymous_mib < limit, stage
