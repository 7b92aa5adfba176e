"""The inferred group equals scikit-learn's calibrated classifier, and survives its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from router_rl.problems.cross_fitting import folds_of
from router_rl.problems.feature_config import FeatureConfig
from router_rl.problems.group_inference import fit_inferred_group
from router_rl.problems.ngram_matrix import NgramMatrix
from router_rl.routing import RouterError, TextFeatures
from router_rl.routing.group_probabilities import InferredGroup

WORDS = {"code": "def return class", "law": "court judge appeal", "maths": "sum prime root"}
SOME = ["sum of a prime", "the judge and the court", "def root", ""]


def prompts(groups: tuple[str, ...] = ("code", "law", "maths")) -> tuple[list[str], list[str]]:
    """Prompts of 60 rows, and the group of each."""
    rng = np.random.default_rng(0)
    labels = [groups[row % len(groups)] for row in range(60)]
    return [
        " ".join(rng.choice(WORDS[name].split(), 3)) + f" q{row % 7}" for row, name in enumerate(labels)
    ], labels


@pytest.mark.parametrize("text", ["tfidf", "hashed"])
@pytest.mark.parametrize("groups", [("code", "law"), ("code", "law", "maths")])
def test_probabilities_are_those_of_scikit_learn_at_the_temperature(
    text: str, groups: tuple[str, ...]
) -> None:
    texts, labels = prompts(groups)
    config = FeatureConfig(text=text, min_df=1, max_features=512)  # type: ignore[arg-type]
    quality = np.random.default_rng(1).random((60, 4))
    fitted = fit_inferred_group(
        NgramMatrix.of(texts, config), labels, quality, folds_of(np.arange(60) // len(groups) % 5)
    )
    assert fitted is not None
    vectoriser = (
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        if text == "tfidf"
        else HashingVectorizer(ngram_range=(1, 2), n_features=512)
    )
    model = LogisticRegression(C=10.0, max_iter=200, tol=1e-3).fit(vectoriser.fit_transform(texts), labels)
    logits = model.decision_function(vectoriser.transform(SOME))
    if logits.ndim == 1:
        logits = np.stack([0.0 * logits, logits], axis=1)
    expected = torch.tensor(logits / fitted.part.temperature).softmax(dim=1).float()
    columns = fitted.part(SOME, None)
    assert columns.shape == (4, len(groups) + 4)
    torch.testing.assert_close(columns[:, : len(groups)], expected, atol=1e-4, rtol=0.0)
    torch.testing.assert_close(
        columns[:, len(groups) :], columns[:, : len(groups)] @ fitted.part.values, atol=1e-6, rtol=1e-6
    )


def test_files_give_the_same_part() -> None:
    part = InferredGroup(
        labels=["a", "b"],
        values=torch.tensor([[0.2, 0.9], [0.7, 0.1]]),
        temperature=0.5,
        terms={"analyser": "word", "ngram_range": (1, 1), "vocabulary": ["one", "two"]},
        projection=torch.tensor([[1.0, -1.0], [-2.0, 2.0]]),
        offset=torch.tensor([0.1, 0.0]),
        idf=torch.ones(2),
    )
    pipeline = TextFeatures([part])
    again = TextFeatures.of(pipeline.spec(), pipeline.tensors())
    assert again(["one", "two one", "x"]).equal(pipeline(["one", "two one", "x"]))
    assert again.inputs == ("prompt",)
    assert again.out_of_fold == ((2, 3),)
    # By hand: "one" has logits (1 + 0.1, -1) / 0.5.
    first = 1 / (1 + np.exp((-1.0 - 1.1) / 0.5))
    expected = [first, 1 - first, 0.2 * first + 0.7 * (1 - first), 0.9 * first + 0.1 * (1 - first)]
    assert pipeline(["one"])[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"), [({"labels": ["a"]}, "1 groups need"), ({"temperature": 0.0}, "above 0")]
)
def test_sizes_and_the_temperature_are_checked(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "labels": ["a", "b"],
        "values": torch.zeros(2, 1),
        "temperature": 1.0,
        "terms": {"analyser": "word", "ngram_range": (1, 1)},
        "projection": torch.zeros(8, 2),
        "offset": torch.zeros(2),
    }
    with pytest.raises(RouterError, match=message):
        InferredGroup(**(arguments | change))  # type: ignore[arg-type]
