"""The counts of the roofline tables, by hand; the compiler is left to `test_triton`."""

from __future__ import annotations

import pytest
from benchmark_scripts import benchmark

pytest.importorskip("triton", reason="triton is not installed")
roofline = benchmark("roofline")


def test_one_row_of_mixtral() -> None:
    work = roofline.work_of("mixtral", 1)
    assert work.launches == 1
    assert work.programs == 64  # 4,096 hidden units by 64
    assert work.operations == 2 * 4096 * 8
    assert work.floor_bytes == 2 * 4096 * 8 + 2 * 4096 + 2 * 16 + 32 + 1
    sums = 2 * 4 * 64 * 16  # 64 splits of one row of 16 columns, written and read
    assert work.asked_bytes == work.floor_bytes + sums + 2 * 4 * 2


def test_1024_rows_of_deepseek_read_the_weight_16_times_not_64() -> None:
    work = roofline.work_of("deepseek_v3", 1024)
    weight, states = 2 * 256 * 7168, 2 * 1024 * 7168
    assert work.programs == 16 * 2 * 4  # blocks of 64 rows, of 128 experts, and splits
    assert work.launches == 2
    slots = 1024 * 8
    written = 16 * slots + 4 * 256 + 1024
    assert work.floor_bytes == weight + states + written
    sums, placed = 2 * 4 * 4 * 1024 * 256, 4 * 16 * 256 * 17 + 8 * slots
    assert work.asked_bytes == 16 * weight + 2 * states + sums + placed + written


def test_the_histogram_of_many_blocks_is_read_in_linear_time() -> None:
    small, large = (roofline.work_of("mixtral", rows) for rows in (65_536, 131_072))
    assert small.launches == large.launches == 3
    assert large.asked_bytes < 2.01 * small.asked_bytes


def test_programs_of_a_multiprocessor() -> None:
    kernel = {"registers": 128, "threads": 256, "shared": 20_480}
    assert roofline.programs_at_once(kernel) == 2  # 65,536 registers
    assert roofline.programs_at_once(kernel | {"registers": 60}) == 4  # 64 are given
    assert roofline.programs_at_once(kernel | {"registers": 16}) == 8  # 2,048 threads
    assert roofline.programs_at_once(kernel | {"shared": 113 * 1024}) == 2
    assert roofline.programs_at_once(kernel | {"shared": 114 * 1024}) == 1  # and 1 KiB for the system


def test_the_tables() -> None:
    counted = {"registers": 128, "threads": 256, "shared": 20_480, "spilled": 0, "wgmma": 4, "mma": 0}
    cell = {"gate": "qwen3", "rows": 1024, **counted, **roofline.asdict(roofline.work_of("qwen3", 1024))}
    programs, floors, published = roofline.tables([cell])
    assert [list(row) for row in programs.rows] == [
        ["Qwen3-30B-A3B", "1,024", "2", "128", "128", "20", "16 of 64", "0.48", "4 / 0"]
    ]
    assert list(floors.rows[0][:4]) == ["Qwen3-30B-A3B", "1,024", "0.537", "0.54"]
    assert all(len(row) == len(published.columns) for row in published.rows)
