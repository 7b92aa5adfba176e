"""N-grams and hashes are scikit-learn's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.utils import murmurhash3_32

from router_rl.routing import RouterError
from router_rl.routing.ngrams import analyser, hashed_column, murmurhash3

TEXTS = ["", " ", "a", "Is 7 prime?", "naïve  café\n\tÉCOLE", "x_1 don't re-do", "日本語 テスト 12", "ß ẞ İ"]


@pytest.mark.parametrize("kind", ["word", "char_wb"])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize("text", TEXTS)
def test_n_grams_are_scikit_learns(kind: str, lengths: tuple[int, int], text: str) -> None:
    theirs = CountVectorizer(analyzer=kind, ngram_range=lengths).build_analyzer()
    assert sorted(analyser(kind, *lengths)(text)) == sorted(theirs(text))


@given(st.text(max_size=40))
def test_n_grams_of_anything(text: str) -> None:
    for kind, lengths in (("word", (1, 3)), ("char_wb", (2, 4))):
        theirs = CountVectorizer(analyzer=kind, ngram_range=lengths).build_analyzer()
        assert sorted(analyser(kind, *lengths)(text)) == sorted(theirs(text))


@given(st.binary(max_size=30))
def test_the_hash_is_scikit_learns(data: bytes) -> None:
    assert murmurhash3(data) == murmurhash3_32(data, seed=0)


def test_columns_and_signs() -> None:
    column, sign = hashed_column("foo", 1000)  # its hash is -156908512
    assert (column, sign) == (512, -1.0)


def test_mistakes_are_named() -> None:
    with pytest.raises(RouterError, match=r"analyser 'words' is unknown; use word or char_wb"):
        analyser("words", 1, 1)
    with pytest.raises(RouterError, match=r"ngram_range=\[2, 1\]"):
        analyser("word", 2, 1)
