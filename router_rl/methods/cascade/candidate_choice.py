"""Choose among candidate policies by what they earn on rows that their beliefs were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from envs import Core

from ...problems.cascade.cascade_data import CascadeData
from ...problems.cascade.cascade_episodes import measure_episodes
from ...problems.cascade.problem import CascadeProblem
from ...routing.policies.cascade_policy import CascadeView

__all__ = ["BeliefPolicy", "best_candidate", "cross_fitted_utility"]


class BeliefPolicy(Protocol):
    """A policy that reads the query through beliefs only."""

    def choose(self, view: CascadeView, prior: Tensor, posterior: Tensor) -> Tensor:
        """Return actions [T] int64 for beliefs [T, N], which are log-odds."""
        ...


Candidate = TypeVar("Candidate", bound=BeliefPolicy)


@dataclass(frozen=True, kw_only=True)
class _CrossFitted:
    """A candidate on the rows of `data`, with their cross-fitted beliefs."""

    candidate: BeliefPolicy
    data: CascadeData

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64; row t of the observation is row t of the data."""
        view = CascadeView.of(observation, len(self.data.experts))
        return self.candidate.choose(view, self.data.fitted.prior, self.data.fitted.posterior)


def best_candidate(candidates: Sequence[Candidate], problem: CascadeProblem, data: CascadeData) -> Candidate:
    """Return the candidate with the highest mean utility on training and validation rows; the first in a tie.

    Args:
        candidates: at least one.
        problem: with one case.
        data: of the problem.
    """
    weight = problem.case.values["compute_weight"]
    utility = [_utility(candidate, problem, data, weight).mean() for candidate in candidates]
    return candidates[int(np.argmax(utility))]


def cross_fitted_utility(
    candidate: BeliefPolicy, problem: CascadeProblem, data: CascadeData, weight: float
) -> Tensor:
    """Return what a policy earns on the rows of the data [T] float32, by their cross-fitted beliefs.

    Args:
        candidate: the policy.
        problem: of the data.
        data: the rows.
        weight: utility per unit of compute.
    """
    return torch.from_numpy(_utility(candidate, problem, data, weight))


def _utility(
    candidate: BeliefPolicy, problem: CascadeProblem, data: CascadeData, weight: float
) -> np.ndarray:
    policy = _CrossFitted(candidate=candidate, data=data)
    return measure_episodes(policy, data.table, problem.config, weight).utility
