"""The oracle of the cascade: for each query it asks the one expert with the highest utility. A bound."""

from __future__ import annotations

import numpy as np

from envs.reward import expert_utility

from ...problems.cascade.problem import CascadeProblem
from ...problems.measure import Measurement
from ...problems.problem import Case
from ..method import Bound

__all__ = ["ORACLE", "measure_oracle"]


def measure_oracle(problem: CascadeProblem, case: Case, split: str) -> Measurement:
    """Return the highest utility that any cascade can earn, knowing all outcomes.

    Args:
        problem: the problem.
        case: its compute weight.
        split: `train`, `validation` or `test`.

    Returns:
        utility [T] float32; parts `quality`, `compute` and `asked`, which is 1.
    """
    outcomes = problem.rows(split).outcomes
    utility = expert_utility(outcomes, case.values["compute_weight"])
    best = utility.argmax(dim=-1, keepdim=True)
    outcome_parts = {"quality": outcomes.quality, "compute": outcomes.compute}
    parts = {name: part.gather(-1, best).squeeze(-1).numpy() for name, part in outcome_parts.items()}
    parts["asked"] = np.ones(len(utility), dtype=np.float32)
    share = np.eye(outcomes.experts, dtype=np.float32)[best.squeeze(-1).numpy()]
    return Measurement(utility=utility.amax(dim=-1).numpy(), parts=parts, share=share)


ORACLE = Bound(
    name="oracle", measure=measure_oracle, about="the best expert of each query, given the outcomes"
)
