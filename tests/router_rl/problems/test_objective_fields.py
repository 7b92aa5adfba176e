"""An objective that asks for more than a problem scores is refused by name."""

from __future__ import annotations

from typing import ClassVar

import pytest

from experts import InputError
from router_rl import Objective
from router_rl.problems.objective_fields import check_objective, compute_weight_cases, only_objective
from router_rl.problems.problem import Problem


class Toy(Problem):
    name: ClassVar[str] = "toy"
    objective_fields: ClassVar[tuple[str, ...]] = ("compute_weight", "max_cost")


@pytest.mark.parametrize(("field", "value"), [("load_weight", 0.2), ("window", 32), ("budget", 0.5)])
def test_a_field_that_is_not_used_is_an_error(field, value):
    with pytest.raises(InputError, match=rf"objective.{field}={value}: toy does not use it.*max_cost"):
        check_objective(Toy, Objective(**{field: value}))


def test_a_field_that_is_used_or_left_alone_is_none():
    check_objective(Toy, Objective(compute_weight=0.3, max_cost=0.5))


def test_cases_are_labelled_by_distinct_weights():
    cases = compute_weight_cases(Toy, [Objective(compute_weight=weight) for weight in (0.05, 0.5)])
    assert [case.label for case in cases] == ["compute weight 0.05", "compute weight 0.5"]
    assert [case.values for case in cases] == [{"compute_weight": 0.05}, {"compute_weight": 0.5}]
    with pytest.raises(InputError, match="there is none"):
        compute_weight_cases(Toy, [])
    with pytest.raises(InputError, match="one is given twice"):
        compute_weight_cases(Toy, [Objective(), Objective()])
    with pytest.raises(InputError, match="toy does not use it"):
        compute_weight_cases(Toy, [Objective(), Objective(compute_weight=0.2, window=8)])


def test_one_objective_may_stand_in_a_sequence():
    objective = Objective(compute_weight=0.3)
    assert only_objective(Toy, objective) is objective
    assert only_objective(Toy, [objective]) is objective
    with pytest.raises(InputError, match="toy has one objective for all its cases"):
        only_objective(Toy, [objective, Objective()])
