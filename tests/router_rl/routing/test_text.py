"""Text features are scikit-learn's to rounding, survive storage, and are made in under a millisecond."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from router_rl.routing import RouterError, TextFeatures
from router_rl.routing.text import Group, Length, Terms

TRAINING = [
    "How many primes are below ten?",
    "How many happy numbers are there, how many?",
    "Translate the poem into German",
    "Write a function that counts primes",
    "ÉCOLE école Straße",
]
PROMPTS = [*TRAINING, "", "nothing known here", "primes primes primes how many", "12 _x_ don't"]


def _tfidf(kind: str, lengths: tuple[int, int], sublinear: bool) -> tuple[Any, Terms]:
    vectorizer: Any = TfidfVectorizer(analyzer=kind, ngram_range=lengths, sublinear_tf=sublinear)
    vectorizer.fit(TRAINING)
    columns = len(vectorizer.vocabulary_)
    part = Terms(
        analyser=kind,
        ngram_range=lengths,
        projection=torch.eye(columns),
        offset=torch.zeros(columns),
        vocabulary=vectorizer.get_feature_names_out().tolist(),
        idf=torch.tensor(vectorizer.idf_, dtype=torch.float32),
        sublinear_tf=sublinear,
    )
    return vectorizer, part


@pytest.mark.parametrize("kind", ["word", "char_wb"])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("sublinear", [True, False])
def test_tfidf_is_scikit_learns(kind: str, lengths: tuple[int, int], sublinear: bool) -> None:
    vectorizer, part = _tfidf(kind, lengths, sublinear)
    expected = vectorizer.transform(PROMPTS).toarray()
    np.testing.assert_allclose(part(PROMPTS, None).numpy(), expected, atol=1e-6)
    for row, prompt in enumerate(PROMPTS):  # one at a time is as all together
        np.testing.assert_allclose(part([prompt], None).numpy()[0], expected[row], atol=1e-6)


@pytest.mark.parametrize("kind", ["word", "char_wb"])
@pytest.mark.parametrize("columns", [7, 64])  # with 7 columns, terms collide and cancel
def test_hashing_is_scikit_learns(kind: str, columns: int) -> None:
    vectorizer = HashingVectorizer(analyzer=kind, ngram_range=(1, 3), n_features=columns)
    part = Terms(
        analyser=kind, ngram_range=(1, 3), projection=torch.eye(columns), offset=torch.zeros(columns)
    )
    expected = vectorizer.transform(PROMPTS).toarray()
    np.testing.assert_allclose(part(PROMPTS, None).numpy(), expected, atol=1e-6)


def test_projection_and_offset() -> None:
    part = Terms(
        analyser="word",
        ngram_range=(1, 1),
        projection=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        offset=torch.tensor([10.0, 20.0]),
        vocabulary=["cat", "dog"],
        idf=torch.tensor([3.0, 4.0]),
    )
    found = part(["cat dog", "bird", "dog dog"], None)
    # 3 and 4 have length 5: .6 and .8
    torch.testing.assert_close(found, torch.tensor([[13.0, 24.4], [10.0, 20.0], [13.0, 24.0]]))
    assert part([], None).shape == (0, 2)


def test_group_and_length() -> None:
    group = Group(
        labels=["law", "maths"],
        values=torch.tensor([[0.1], [0.2], [0.3]]),
        shares=torch.tensor([0.25, 0.75]),
    )
    found = TextFeatures([Length(), group])(["abc", "", "x"], ["maths", "law", "art"])
    expected = [[np.log(4), 0, 1, 0.2], [0, 1, 0, 0.1], [np.log(2), 0.25, 0.75, 0.3]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert TextFeatures([Length(), group])([], []).shape == (0, 4)
    unknown = group(["a"], None)
    np.testing.assert_allclose(unknown.numpy(), [[0.25, 0.75, 0.3]], rtol=1e-6)


def test_a_pipeline_from_its_description() -> None:
    _, terms = _tfidf("word", (1, 2), True)
    text = TextFeatures(
        [terms, Length(), Group(labels=["a"], values=torch.zeros(2, 3), shares=torch.ones(1))]
    )
    again = TextFeatures.of(text.spec(), text.tensors())
    assert again.size == text.size
    assert torch.equal(again(PROMPTS), text(PROMPTS))


def test_mistakes_are_named() -> None:
    text = TextFeatures([Length()])
    with pytest.raises(RouterError, match=r"1 prompts have 2 groups"):
        text(["a"], ["b", "c"])
    with pytest.raises(RouterError, match="at least one part"):
        TextFeatures([])
    with pytest.raises(RouterError, match=r"text part 'lenght' is unknown"):
        TextFeatures.of([{"kind": "lenght"}], {})
    with pytest.raises(RouterError, match=r"does not take"):
        TextFeatures.of([{"kind": "group"}], {})
    with pytest.raises(RouterError, match="need 2 rows of values"):
        Group(labels=["a"], values=torch.zeros(1, 2), shares=torch.ones(1))
    with pytest.raises(RouterError, match="a vocabulary needs 2 terms"):
        Terms(
            analyser="word",
            ngram_range=(1, 1),
            projection=torch.eye(2),
            offset=torch.zeros(2),
            vocabulary=["a"],
            idf=torch.ones(1),
        )


def test_a_prompt_of_a_hundred_words_takes_less_than_a_millisecond() -> None:
    _, terms = _tfidf("word", (1, 2), True)
    text = TextFeatures([terms, Length()])
    prompt = " ".join(f"word{i} many primes" for i in range(33))
    fastest = min(_seconds(text, prompt) for _ in range(30))
    assert fastest < 1e-3


def _seconds(text: TextFeatures, prompt: str) -> float:
    began = time.perf_counter()
    text([prompt])
    return time.perf_counter() - began
