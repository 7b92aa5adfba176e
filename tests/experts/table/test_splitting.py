from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.table.splitting import complete_split, find_leak, split_by_key

MADE = ("train", "validation", "test")  # `tuning` is only ever given

texts = st.lists(st.text(max_size=6), min_size=1, max_size=60)


@given(texts, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(keys, seed, random):
    before = dict(zip(keys, split_by_key(keys, seed), strict=True))
    shuffled = list(keys)
    random.shuffle(shuffled)
    assert dict(zip(shuffled, split_by_key(shuffled, seed), strict=True)) == before


@given(texts, st.integers(0, 5))
def test_equal_keys_share_a_split(keys, seed):
    split = split_by_key([*keys, *keys], seed)
    assert find_leak([*keys, *keys], split) is None


@given(st.integers(5, 300), st.integers(0, 5))
def test_shares_are_exact(count, seed):
    split = split_by_key(map(str, range(count)), seed)
    counts = [int((split == name).sum()) for name in MADE]
    assert sum(counts) == count
    np.testing.assert_allclose(counts, [0.6 * count, 0.2 * count, 0.2 * count], atol=1)


def test_the_seed_matters():
    keys = list(map(str, range(50)))
    assert (split_by_key(keys, 0) == split_by_key(keys, 0)).all()
    assert (split_by_key(keys, 0) != split_by_key(keys, 1)).any()


def test_white_space_does_not_make_another_prompt():
    assert find_leak(["a  b", "c", " a b\n"], np.array(["train", "test", "test"])) == (0, 2)
    assert find_leak(["a b", "c", "A b"], np.array(["train", "test", "test"])) is None


@pytest.mark.parametrize(
    ("given_split", "note", "counts"),
    [
        (None, "made here, 60/20/20 by prompt, seed 3", (60, 20, 20)),
        (["test"] * 100, "the table was all test; split again, 60/20/20 by prompt, seed 3", (60, 20, 20)),
        (
            ["train"] * 80 + ["test"] * 20,
            "a quarter of train became validation, by prompt, seed 3",
            (60, 20, 20),
        ),
    ],
)
def test_a_missing_split_is_made_and_noted(given_split, note, counts):
    prompts = [f"p{i}" for i in range(100)]
    done = complete_split({"query_id": prompts, "prompt": prompts, "split": given_split}, seed=3)
    assert done["notes"] == (f"split: {note}",)
    assert tuple(int((done["split"] == name).sum()) for name in MADE) == counts
    if given_split is not None and len(set(given_split)) == 2:
        assert (done["split"][80:] == "test").all()


def test_a_complete_split_is_left_alone():
    columns = {"query_id": ["a", "b", "c"], "split": list(MADE)}
    assert complete_split(columns, seed=0) is columns


def test_without_prompts_the_ids_decide():
    done = complete_split({"query_id": ["a", "b", "c", "d", "e"]}, seed=0)
    assert done["notes"] == ("split: made here, 60/20/20 by query_id, seed 0",)
