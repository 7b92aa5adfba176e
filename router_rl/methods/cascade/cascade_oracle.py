"""The oracle of the cascade: for each query it asks the one expert with the highest utility. A bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

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
    rows = problem.rows(split)
    outcomes = rows.outcomes
    if rows.after is not None:  # a follow-up needs the calls before it, too
        outcomes = replace(outcomes, compute=_with_calls_before(outcomes.compute, rows.after.tolist()))
    utility = expert_utility(outcomes, case.values["compute_weight"])
    best = utility.argmax(dim=-1, keepdim=True)
    outcome_parts = {"quality": outcomes.quality, "compute": outcomes.compute}
    parts = {name: part.gather(-1, best).squeeze(-1).numpy() for name, part in outcome_parts.items()}
    parts["asked"] = np.ones(len(utility), dtype=np.float32)
    share = np.eye(outcomes.experts, dtype=np.float32)[best.squeeze(-1).numpy()]
    return Measurement(utility=utility.amax(dim=-1).numpy(), parts=parts, share=share)


def _with_calls_before(compute: Tensor, after: Sequence[int]) -> Tensor:
    """Return the compute [T, N] of each call and of those that it follows."""
    total = compute.clone()
    for expert, before in enumerate(after):
        while before >= 0:
            total[:, expert] += compute[:, before]
            before = after[before]
    return total


ORACLE = Bound(
    name="oracle", measure=measure_oracle, about="the best expert of each query, given the outcomes"
)
