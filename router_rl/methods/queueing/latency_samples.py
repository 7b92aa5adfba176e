"""Times that requests of training episodes took on language model servers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...problems.queueing.problem import QueueingProblem
from ...routing import ServerScorer
from .server_rules import RULES

__all__ = ["LatencySamples", "latency_samples"]

_EPISODES = 32


class LatencySamples(NamedTuple):
    """M requests.

    Attributes:
        observation: [M, O] float32, when they were sent.
        expert: [M] int64, the server that each was sent to.
        first_s: [M] float32, seconds to the first token.
        whole_s: [M] float32, seconds to the last token.
        tokens: [M] float32, of the answer.
    """

    observation: Tensor
    expert: Tensor
    first_s: Tensor
    whole_s: Tensor
    tokens: Tensor


def latency_samples(problem: QueueingProblem, scorer: ServerScorer, seed: int) -> LatencySamples:
    """Play training episodes: half send requests to random servers, half to the shortest expected finish.

    Args:
        problem: with one case, of model servers.
        scorer: says which finish is expected.
        seed: of the episodes.
    """
    core = problem.core("train", problem.case, lanes=_EPISODES, seed=90_000 + seed)
    generator = torch.Generator().manual_seed(seed)
    observations, chosen = [], []
    for _ in range(core.config.window):
        observation = core.observation()
        drawn = torch.randint(core.experts, (_EPISODES,), generator=generator)
        soonest = RULES["least_finish"][0](scorer.server_parts(observation), scorer).argmax(dim=-1)
        action = torch.where(torch.arange(_EPISODES) % 2 == 0, drawn, soonest)
        observations.append(observation)
        chosen.append(action)
        core.step(action)
    expert = torch.stack(chosen, dim=1)
    tokens = core.state.episodes.tokens[:, :-1, :, 1].gather(-1, expert.unsqueeze(-1)).squeeze(-1)
    return LatencySamples(
        observation=torch.stack(observations, dim=1).flatten(0, 1),
        expert=expert.flatten(),
        first_s=core.first_tokens().flatten(),
        whole_s=core.responses().flatten(),
        tokens=tokens.flatten(),
    )
