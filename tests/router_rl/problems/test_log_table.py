"""The features of logged queries: those of the pipeline that served, and of no other one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts import DecisionLog, InputError
from router_rl.problems import log_table
from router_rl.problems.log_table import features_for
from router_rl.routing import TextFeatures
from router_rl.routing.terms import Terms
from router_rl.routing.text import Length


def _text(ngrams: tuple[int, int] = (1, 1), weight: float = 1.0) -> TextFeatures:
    """Return a pipeline of two terms and the length."""
    terms = Terms(
        analyser="word",
        ngram_range=ngrams,
        projection=torch.tensor([[weight], [2.0]]),
        offset=torch.zeros(1),
        vocabulary=["prime", "sum"],
        idf=torch.ones(2),
    )
    return TextFeatures([terms, Length()])


def _log() -> DecisionLog:
    return DecisionLog(
        experts=("a", "b"),
        query_id=["q0", "q1"],
        action=[0, 1],
        propensity=[0.5, 0.5],
        quality=[1.0, 0.0],
        cost=[1.0, 2.0],
        features=np.array([[0.5, 1.0], [0.25, 2.0]]),
    )


def test_features_of_an_equal_pipeline_are_those_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_table, "logged_text", lambda log: _text())
    log = _log()
    assert features_for(_text(), log) is log.features
    assert features_for(None, log) is log.features


@pytest.mark.parametrize(
    "other",
    [
        _text(ngrams=(1, 2)),  # with the same tensors
        _text(weight=3.0),
        TextFeatures([Length()]),
        TextFeatures([*_text().parts, Length()]),
    ],
)
def test_features_of_another_pipeline_are_refused(
    monkeypatch: pytest.MonkeyPatch, other: TextFeatures
) -> None:
    monkeypatch.setattr(log_table, "logged_text", lambda log: _text())
    with pytest.raises(InputError, match="has features that the router that served made of its prompts"):
        features_for(other, _log())
