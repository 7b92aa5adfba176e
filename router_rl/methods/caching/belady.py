"""Belady's rule: evict the expert that is needed last, which takes knowledge of the future. A bound.

Source: Belady 1966, https://doi.org/10.1147/sj.52.0078. Where all experts have one size it makes the fewest
loads for its answers, which are those of a router without a memory limit. Other answers that wait less can
earn more, so it bounds loads, not utility.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs import Core
from envs.caching import CachingCore

from ...problems.caching.problem import CachingProblem
from ...problems.measure import Measurement
from ...problems.problem import Case
from ...routing.policies.caching_policy import CachingPolicy
from ..method import Bound
from .candidates import weighted

__all__ = ["BELADY", "Belady", "measure_belady"]


class Belady:
    """Answers as a router without a memory limit does, and evicts the expert that is needed last.

    Args:
        policy: its beliefs and prices decide the answers.
    """

    def __init__(self, policy: CachingPolicy) -> None:
        self._policy = policy

    def start(self, core: Core) -> None:
        """Read the requests of the episode, which no policy of observations can."""
        assert isinstance(core, CachingCore)
        self._core = core
        rows = core.requests()
        chance = self._policy.beliefs.prior(core.table.outcomes.features).sigmoid()
        self._answers = (chance - self._policy.price)[rows].argmax(dim=-1)  # [B, W]
        window = self._answers.shape[1]
        next_use = torch.full((core.lanes, core.experts), float(window))
        uses = [next_use]
        for at in reversed(range(window)):
            next_use = next_use.scatter(-1, self._answers[:, at : at + 1], float(at))
            uses.append(next_use)
        self._next_use = uses[::-1]  # at request t, [B, N]: when each expert is needed next

    def act(self, observation: Tensor) -> Tensor:
        """Return the actions [B, 2] int64 of the environment: answer and victim."""
        state = self._core.state
        at = int(state.decisions[0])
        answer = self._answers[:, at]
        due = torch.where(state.resident, self._next_use[at + 1], -1.0)
        due = due.scatter(-1, answer.unsqueeze(-1), -1.0)
        return torch.stack([answer, due.argmax(dim=-1)], dim=-1)


def measure_belady(problem: CachingProblem, case: Case, split: str) -> Measurement:
    """Return the measurement of Belady's rule.

    Args:
        problem: the problem.
        case: the size of GPU memory.
        split: `validation` or `test`.
    """
    return problem.evaluate(Belady(weighted(problem.policy(case), {"worth": 1.0}, {})), split, case)


BELADY = Bound(
    name="belady",
    measure=measure_belady,
    about="run the best expert; evict the one needed last (Belady 1966)",
)
