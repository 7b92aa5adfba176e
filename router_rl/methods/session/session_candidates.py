"""Measure many weights of a session policy on the same conversations, and choose the best on validation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...problems.session.problem import SessionProblem
from ...routing.policies.session_policy import INPUTS, SessionPolicy

__all__ = ["Candidate", "best_candidate", "candidate_utilities"]

_SEED = 400_000  # of the episodes
_STREAMS, _FINAL_STREAMS = 16, 32  # episodes on training and on validation rows
_FINALISTS = 8


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Weights of a session policy.

    Attributes:
        weights: by input; those not named are 0.
        expert: an expert that answers every turn, if there is one.
        threshold: tokens of the context above which `long stay` is 1.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    expert: int | None = None
    threshold: float = 0.0

    def row(self) -> list[float]:
        """The weights of all inputs in order."""
        return [self.weights.get(name, 0.0) for name in INPUTS]

    def set(self, policy: SessionPolicy) -> SessionPolicy:
        """Set a policy's weights; returns the policy."""
        policy.weights.copy_(torch.tensor(self.row()))
        policy.bias.zero_()
        if self.expert is not None:
            policy.bias[self.expert] = 1.0
        policy.threshold.fill_(self.threshold)
        return policy


def best_candidate(problem: SessionProblem, candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate of the highest utility on training and validation rows.

    The predictions of training rows are out of fold, so that these rows can choose too. The best ones on them
    are measured on validation rows; each split counts by its rows.

    Args:
        problem: with one case.
        candidates: at least one; the first of equals is taken.
    """
    left = list(candidates)
    if len(left) > 1:
        utility = candidate_utilities(problem, "train", left, streams=_STREAMS, seed=_SEED)
        best = utility.argsort(descending=True, stable=True)[:_FINALISTS]
        left = [left[at] for at in best.tolist()]
        known = candidate_utilities(problem, "validation", left, streams=_FINAL_STREAMS, seed=_SEED)
        rows = [problem.rows(split).outcomes.queries for split in ("train", "validation")]
        left = [left[int((rows[0] * utility[best] + rows[1] * known).argmax())]]
    return left[0]


@torch.inference_mode()
def candidate_utilities(
    problem: SessionProblem, split: str, candidates: Sequence[Candidate], *, streams: int, seed: int
) -> Tensor:
    """Return the mean utility per turn of candidates on the same conversations, [P] float64.

    Args:
        problem: with one case.
        split: split that rows and conversations are drawn from.
        candidates: P of them.
        streams: number of episodes of each candidate.
        seed: random seed of the conversations.
    """
    count = len(candidates)
    core = problem.core(split, problem.case, lanes=count * streams, seed=seed, group=count)
    policy = copy.deepcopy(problem.policy(problem.case))
    rows = torch.tensor([each.row() for each in candidates]).repeat(streams, 1)
    policy.threshold = torch.tensor([[each.threshold] for each in candidates]).repeat(streams, 1)
    bias = torch.zeros(count, core.experts)
    for at, each in enumerate(candidates):
        if each.expert is not None:
            bias[at, each.expert] = 1.0
    bias = bias.repeat(streams, 1)
    chance, later = problem.chance[split], problem.later[split]
    total = torch.zeros(count * streams, dtype=torch.float64)
    for _ in range(problem.options.window):
        state, row = core.observation()[:, policy.features :], core.state.row
        inputs = policy.inputs(chance[row], later[row], state)
        step = core.step((policy.scores(inputs, state, rows) + bias).argmax(dim=-1))
        total += step.reward
        core.clear(step.terminated)
    return total.view(streams, count).mean(dim=0) / problem.options.window
