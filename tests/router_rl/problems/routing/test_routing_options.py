"""Options that the selection rule or the feedback does not use are refused."""

from __future__ import annotations

from typing import Any

import pytest

from experts import InputError
from router_rl.problems.logged_feedback import LogConfig
from router_rl.problems.routing.routing_options import RoutingOptions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"select": " topk".strip(), "k": 3},  # as text from a file: equal to the name, not the same object
        {"select": " hierarchical".strip(), "tree": {"one": ["a"], "two": ["b"]}},
        {"feedback": " bandit".strip(), "log": LogConfig(seed=3)},
    ],
)
def test_an_option_that_is_used_is_taken(options: dict[str, Any]) -> None:
    RoutingOptions(**options).check_used()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 3}, r"problem.k=3: select hard does not use it; leave it out, or use topk or adaptive_k"),
        ({"tree": {"one": ["a"]}}, r"problem.tree=.*select hard does not use it.*use hierarchical"),
        ({"log": LogConfig(seed=3)}, r"problem.log=.*full feedback does not use it.*use bandit feedback"),
    ],
)
def test_an_option_that_is_not_used_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RoutingOptions(**options).check_used()
