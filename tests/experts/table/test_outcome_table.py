from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from experts import InputError, OutcomeTable
from experts.table.outcome_table import SPLITS

REAL = {
    "llmdrift_math": (1500, 4),
    "llmrouter_pool9": (5541, 9),
    "routellm_gsm8k": (1319, 2),
    "routellm_mmlu": (14042, 2),
    "routellm_mtbench": (160, 2),
    "zeroeval_pool27": (2840, 27),
}


def test_converts_to_the_documented_types(columns):
    table = OutcomeTable(
        **columns(quality=[[1, 0]] * 6, cost=np.ones((6, 2)), query_id=range(6), fold=[0.0] * 6)
    )
    assert table.quality.dtype == table.cost.dtype == table.features.dtype == np.float32
    assert table.fold.dtype == table.label.dtype == np.int64
    assert list(table.query_id) == ["0", "1", "2", "3", "4", "5"]
    assert len(table) == 6


def test_part_keeps_every_field_in_step(table):
    part = table.part("validation")
    assert list(part.query_id) == ["q1", "q4"]
    assert list(part.prompt) == ["question 1", "question 4"]
    assert part.extra.column("cost/unlisted").to_pylist() == [1, 4]
    for name in ("features", "quality", "probabilities", "label", "fold"):
        np.testing.assert_array_equal(getattr(part, name), getattr(table, name)[[1, 4]])
    assert part.notes == table.notes
    assert len(table) == 6
    assert sum(len(table.part(name)) for name in SPLITS if name != "tuning") == 6


def test_take_accepts_masks_and_repeats(table):
    assert list(table.take(np.array([2, 2, 0])).query_id) == ["q2", "q2", "q0"]
    assert list(table.take(table.quality[:, 0] >= 0).query_id) == list(table.query_id)
    assert np.shares_memory(table.take(np.arange(2, 5)).features, table.features)


def test_part_of_an_unknown_or_empty_split_is_an_error(table):
    with pytest.raises(InputError, match=r"split='dev': unknown; use one of train, validation, tuning, test"):
        table.part("dev")
    with pytest.raises(InputError, match="this table has rows in: train"):
        table.part("train").part("test")


def test_is_frozen(table):
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.cost_unit = "flops"


@pytest.mark.parametrize("name", sorted(REAL))
def test_reads_real_tables_and_writes_them_back(name, shared_table, tmp_path):
    table = OutcomeTable.read(shared_table(f"{name}.parquet"))
    assert table.quality.shape == REAL[name]
    assert table.features is None
    assert set(table.split) == set(SPLITS) - {"tuning"}
    assert any(note.startswith("split: ") for note in table.notes)
    path = tmp_path / "again.parquet"
    table.write(path)
    again = OutcomeTable.read(path)
    assert again.experts == table.experts
    np.testing.assert_array_equal(again.split, table.split)
    np.testing.assert_array_equal(again.cost, table.cost)
    assert again.notes == table.notes
    assert again.extra.column_names == table.extra.column_names


def test_equal_prompts_of_a_real_table_share_a_split(shared_table):
    table = OutcomeTable.read(shared_table("routellm_mmlu.parquet"))
    assert len(set(table.prompt)) < len(table)
    splits: dict[str, set[str]] = {}
    for prompt, split in zip(table.prompt, table.split, strict=True):
        splits.setdefault(prompt, set()).add(split)
    assert max(map(len, splits.values())) == 1


def test_importing_and_reading_a_file_load_no_heavy_library(table, tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path)
    code = (
        f"import sys, experts; experts.OutcomeTable.read({str(path)!r}); "
        "assert not {'sklearn', 'scipy', 'gymnasium', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_other_features_keep_estimates_and_need_a_row_for_each_query(table):
    estimated = table.with_estimates(table.quality + 3.0, table.cost)
    other = estimated.with_features(np.ones((6, 5)))
    np.testing.assert_array_equal(other.quality, estimated.quality)
    assert other.features.shape == (6, 5)
    assert other.features.dtype == np.float32
    with pytest.raises(InputError, match=r"features=\[5, 5\]: must be \[6, D\]"):
        estimated.with_features(np.ones((5, 5)))
