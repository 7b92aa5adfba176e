"""The program that the graph formats are made from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from router_rl.exports.program import export_program
from router_rl.routing import Router


@pytest.mark.parametrize("rule", ["top2", "adaptive", "deepseek"])
def test_it_chooses_without_a_sort(made: Callable[..., Router], rule: str) -> None:
    """A stable sort takes several times as long as a top-k of keys that do not tie."""
    program = export_program(made("linear", rule), masked=True)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("topk" in target for target in targets)
    assert not any("sort" in target for target in targets)
