"""Each oddity is found where it is, and none where it is not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from experts.table.findings import Finding, findings, prompt_findings


def _look(**changes: Any) -> list[Finding]:
    rows = 4
    numbers = {
        "quality": np.float32([[1, 0], [0, 1], [1, 1], [0, 0]]),
        "cost": np.float32([[1e-4, 1e-3], [2e-4, 2e-3], [1e-4, 3e-3], [3e-4, 1e-3]]),
        "tokens_in": np.full((rows, 2), 100, dtype=np.float32),
        "tokens_out": np.full((rows, 2), 100, dtype=np.float32),
        "latency_s": np.full((rows, 2), np.nan, dtype=np.float32),
    }
    facts: dict[str, np.ndarray] = {
        "prompt": np.array(["a", "b", "c", "d"], dtype=object),
        "split": np.array(["train", "train", "test", "test"], dtype=object),
        "fold": np.array([None] * rows, dtype=object),
    }
    for name, value in changes.items():
        (numbers if name in numbers else facts)[name] = value
    return [*prompt_findings(["q0", "q1", "q2", "q3"], facts), *findings(("small", "large"), numbers)]


def test_an_ordinary_table_has_none() -> None:
    assert _look() == []


def test_prompts_that_leak() -> None:
    found = _look(prompt=np.array(["a", "b", " a ", "b b"], dtype=object))
    assert [(one.kind, one.count, one.examples) for one in found] == [
        ("duplicate_prompts", 1, ()),
        ("leakage", 2, ("q0", "q2")),
    ]
    same = _look(prompt=np.array(["a", "a", "c", None], dtype=object))
    assert [one.kind for one in same] == ["duplicate_prompts"]


def test_missing_experts() -> None:
    (found,) = _look(quality=np.float32([[1, np.nan], [0, 1], [np.nan, np.nan], [0, 0]]))
    assert (found.kind, found.count, found.examples) == ("missing", 2, ("large", "small"))
    assert "large on 2, small on 1" in found.message


def test_constant_experts() -> None:
    found = _look(quality=np.float32([[1, 0], [0, 0], [1, 0], [0, 0]]))
    assert [(one.kind, one.examples) for one in found] == [("constant_quality", ("large",))]
    found = _look(cost=np.tile(np.float32([1e-4, 1e-3]), (4, 1)))
    assert [(one.kind, one.count) for one in found] == [("constant_cost", 2)]


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ([0.0, 1e-3], "small: free on every row"),
        ([1e-4, 0.5], "large: costs 5,000 times as much as small"),
        ([1.0, 0.5], r"small \(5e\+03\), large \(2.5e\+03\): US dollars per million tokens outside"),
    ],
)
def test_suspicious_prices(cost: list[float], message: str) -> None:
    spread = np.float32([[1.0], [1.1], [0.9], [1.0]])
    found = [one for one in _look(cost=np.float32([cost]) * spread) if one.kind == "price"]
    assert re.search(message, " ".join(one.message for one in found))
