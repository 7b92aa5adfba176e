"""The packaged table of two language models: what is in it, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experts import InputError, OutcomeTable, collect, open_table
from experts.io.cache import cache_folder


@pytest.fixture(scope="module")
def gsm8k() -> OutcomeTable:
    return open_table("routellm_gsm8k", progress=False)


def test_it_holds_prompts_outcomes_and_costs_in_dollars(gsm8k: OutcomeTable) -> None:
    assert gsm8k.quality.shape == (1319, 2)
    assert gsm8k.experts == ("gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1")
    assert gsm8k.cost_unit == "usd"
    assert gsm8k.prompt is not None
    assert gsm8k.prompt[0].startswith("Janet\u2019s ducks lay 16 eggs per day.")
    assert gsm8k.tokens_in is not None
    assert gsm8k.tokens_out is not None
    assert gsm8k.source.startswith("routellm_gsm8k:")
    assert gsm8k.notes == ()


def test_folds_are_its_split(gsm8k: OutcomeTable) -> None:
    split = np.array(["train", "train", "train", "validation", "test"])
    np.testing.assert_array_equal(gsm8k.split, split[gsm8k.fold])


def test_it_is_the_table_of_the_benchmarks(gsm8k: OutcomeTable, shared_table: Callable[[str], Path]) -> None:
    theirs = OutcomeTable.read(shared_table("routellm_gsm8k.parquet"), progress=False)
    for name in ("query_id", "prompt", "quality", "cost", "fold", "tokens_in", "tokens_out"):
        np.testing.assert_array_equal(getattr(gsm8k, name), getattr(theirs, name), err_msg=name)


def test_collect_copies_it_and_nothing_is_cached(gsm8k: OutcomeTable, tmp_path: Path) -> None:
    collect("routellm_gsm8k", tmp_path / "t.parquet", progress=False)
    np.testing.assert_array_equal(OutcomeTable.read(tmp_path / "t.parquet").cost, gsm8k.cost)
    assert not (cache_folder() / "routellm_gsm8k").exists()


def test_it_has_neither_an_argument_nor_a_seed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no argument"):
        open_table("routellm_gsm8k:other")
    with pytest.raises(InputError, match="seed=1: has no use with routellm_gsm8k"):
        collect("routellm_gsm8k", tmp_path / "t.parquet", seed=1)
    assert list(tmp_path.iterdir()) == []
