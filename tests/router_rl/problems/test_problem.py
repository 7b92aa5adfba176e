"""The protocol of a problem: what a new one must define, and what it gets."""

from __future__ import annotations

from typing import Any

import pytest

from router_rl.problems.measure import Measurement
from router_rl.problems.problem import Case, Problem, ProblemCard


class Toy(Problem):
    """A problem with nothing but what is required."""

    name = "toy"
    cases = (Case(label="only", values={}),)

    def digest(self) -> str:
        return "0" * 16

    def core(self, split: str, case: Case, *, lanes: int, seed: int) -> Any:
        raise NotImplementedError

    def evaluate(self, policy: Any, split: str, case: Case | None = None, *, seed: int = 0) -> Measurement:
        raise NotImplementedError

    def describe(self) -> ProblemCard:
        raise NotImplementedError


@pytest.mark.parametrize("name", ["digest", "core", "evaluate", "describe"])
def test_a_problem_without_a_required_method_cannot_be_made(name: str) -> None:
    assert Toy().digest() == "0" * 16
    with pytest.raises(TypeError, match=name):
        type("Part", (Toy,), {name: getattr(Problem, name)})()
