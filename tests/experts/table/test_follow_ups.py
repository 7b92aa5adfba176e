"""Further samples and verifiers are columns with names of their own."""

from __future__ import annotations

import numpy as np
import pytest

from experts import InputError, OutcomeTable
from experts.table.follow_ups import followed_by, verified, without_follow_ups


def made() -> OutcomeTable:
    probabilities = np.array(
        [[[0.7, 0.3], [0.2, 0.8], [0.4, 0.6]]] * 2 + [[[0.1, 0.9], [0.6, 0.4], [0.5, 0.5]]], dtype=np.float32
    )
    return OutcomeTable(
        experts=["a", "b", "c"],
        query_id=range(3),
        features=np.ones((3, 1)),
        quality=probabilities.argmax(2) == 0,
        cost=np.tile([1.0, 2.0, 4.0], (3, 1)),
        split=["train", "validation", "test"],
        probabilities=probabilities,
        label=np.zeros(3),
    )


def test_names_say_what_follows_what() -> None:
    assert followed_by(["a", "b"]) == (-1, -1)
    assert followed_by(["a", "b", "a#2", "a#3", "b?a", "a#2?b"]) == (-1, -1, 0, 2, 1, 2)
    assert followed_by(["a", "b", "a#3"]) == (-1, -1, 0)  # the second sample is not in the table
    assert followed_by(["m#2", "gpt?x", "a#1", "a#x"]) == (-1, -1, -1, -1)  # names of experts, no follow-ups
    with pytest.raises(InputError, match="experts='b': stands after a follow-up"):
        followed_by(["a", "a#2", "b"])


def test_a_verifier_gives_the_answer_and_what_it_thinks_of_it() -> None:
    table = verified(made(), ["c"], answers=["a"], cost=0.5)
    assert table.experts == ("a", "b", "c", "a?c")
    assert table.confidence is not None
    np.testing.assert_allclose(table.confidence[:, 3], [0.4, 0.4, 0.5], atol=1e-6)
    np.testing.assert_array_equal(table.quality[:, 3], table.quality[:, 0])
    np.testing.assert_array_equal(table.cost[:, 3], 2.0)
    assert verified(made(), ["c"]).experts == ("a", "b", "c", "a?c", "b?c")
    first = without_follow_ups(table)
    assert first.experts == made().experts
    np.testing.assert_array_equal(first.cost, made().cost)
    assert without_follow_ups(made()) is not None


def test_what_cannot_verify_is_refused() -> None:
    with pytest.raises(InputError, match="verifiers='d': is no expert of the table"):
        verified(made(), ["d"])
    table = made().with_estimates(np.ones((3, 3)), np.ones((3, 3)))
    with pytest.raises(InputError, match="has no class probabilities"):
        verified(table, ["a"])
