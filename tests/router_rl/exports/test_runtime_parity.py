"""The comparison with a runtime passes only if all is equal and no error is NaN or above the tolerance."""

from __future__ import annotations

from typing import Any

import pytest

from router_rl.exports.runtime_parity import RuntimeParity


def parity(**changes: Any) -> RuntimeParity:
    fields = {"tokens_equal": 4, "decisions_equal": 8, "weights_max_error": None, "logits_max_error": None}
    fields |= {"name": "vLLM", "version": "1", "model": "m", "prompts": 2, "tokens": 4, "decisions": 8}
    return RuntimeParity(**{**fields, "tolerance": 1e-4, **changes})


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"weights_max_error": 1e-4, "logits_max_error": 1e-4}, True),
        ({"tokens_equal": 3}, False),
        ({"decisions_equal": 7}, False),
        ({"weights_max_error": 2e-4}, False),
        ({"logits_max_error": 2e-4}, False),
        ({"weights_max_error": float("nan")}, False),
        ({"logits_max_error": float("nan")}, False),
    ],
)
def test_what_passes(changes: dict[str, Any], passed: bool) -> None:
    assert parity(**changes).passed is passed
    assert parity(**changes).to_json()["passed"] is passed
