"""What a class must define to be a selection rule."""

from __future__ import annotations

import pytest

from router_rl.routing import Selection

REQUIRED = ("check", "spec", "select", "sample", "weigh", "log_prob", "entropy")


def _rule(*names: str) -> type[Selection]:
    """Return a class that defines functions of these names."""
    return type("Rule", (Selection,), {name: lambda self, *_: None for name in names})


def test_a_rule_needs_no_more_than_the_abstract_functions() -> None:
    rule = _rule(*REQUIRED)()
    rule.k = 3
    assert list(rule.sizes(8)) == [3]
    assert rule.outputs(8) == 8


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_rule_without_one_of_them_cannot_be_made(missing: str) -> None:
    with pytest.raises(TypeError, match=missing):
        _rule(*(name for name in REQUIRED if name != missing))()
