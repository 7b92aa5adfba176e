"""References for generated answers: single experts, the task's expert, and the best of several answers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from experts.moe.decoding import greedy
from experts.moe.sequences import Sequences
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import TokenMoEProblem
from ...problems.token_moe.token_answers import RouteOf, answer, answer_by_row, prompts_of
from ...problems.token_moe.token_measurement import Choose
from .answer_rollouts import routed

__all__ = ["answers_by_label", "best_of", "constant", "needs_answers", "needs_text", "right_single"]


_VERIFIER = "needs problems with a verifier: problem.prompts=FILE, or problem.pool=answers"


def needs_answers(problem: TokenMoEProblem) -> str | None:
    """Return why a method that learns from right answers cannot be used, or None.

    Args:
        problem: the problem.
    """
    return None if problem.pool.problems else _VERIFIER


def needs_text(problem: TokenMoEProblem) -> str | None:
    """Return why a reference that knows losses only cannot be used, or None.

    Args:
        problem: the problem.
    """
    return "knows losses, and this pool's utility is right answers" if problem.pool.problems else None


def constant(expert: int) -> Choose:
    """Return the choice of one expert for every token.

    Args:
        expert: 0 to N - 1.
    """

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*x.shape[:-1], 1)
        return torch.full(shape, expert), torch.ones(shape)

    return choose


def right_single(pool: TokenPool) -> int:
    """Return the expert that answers most validation problems right; ties go to the lowest id.

    Args:
        pool: of problems.
    """
    part = pool.parts["validation"]
    right = [answer(pool, part, constant(expert)).right.mean() for expert in range(pool.tail.experts)]
    return int(np.argmax(right))


def answers_by_label(pool: TokenPool, part: str) -> np.ndarray:
    """Return the right answers with the expert of each problem's own task, [S] float32.

    Args:
        pool: of problems.
        part: its part.
    """
    return answer_by_row(pool, pool.parts[part], _by_label(pool.parts[part])).right


def best_of(
    pool: TokenPool, part: str, routers: LayerRouters, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether any of several generations is right, and whether their most frequent answer is.

    The first needs the verifier at inference; both run the experts as many times as there are generations.
    The first generation is greedy, the others sample their routes.

    Args:
        pool: of problems.
        part: its part.
        routers: the policy.
        count: generations of a prompt.
        seed: of the routes.

    Returns:
        Two arrays [S] float32; ties between answers go to the earliest.
    """
    assert pool.problems is not None
    sequences, generator = pool.parts[part], torch.Generator().manual_seed(seed)
    any_right: list[Tensor] = []
    most: list[Tensor] = []
    for rows in torch.arange(len(sequences)).split(128):
        prompts = prompts_of(pool, sequences, rows)
        made = [
            routed(pool, routers, prompts, greedy, None if number == 0 else generator).tokens
            for number in range(count)
        ]
        right = torch.stack([pool.problems.verify(prompts.tokens, tokens) for tokens in made])
        same = torch.stack([torch.stack([(a == b).all(dim=1) for b in made]).sum(dim=0) for a in made])
        any_right.append(right.amax(dim=0))
        most.append(right.gather(0, same.argmax(dim=0, keepdim=True)).squeeze(0))
    return torch.cat(any_right).numpy(), torch.cat(most).numpy()


def _by_label(sequences: Sequences) -> RouteOf:
    labels = torch.from_numpy(np.ascontiguousarray(sequences.domain[:, :1]))

    def of(rows: Tensor) -> Choose:
        own = labels[rows].unsqueeze(-1)

        def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
            experts = own.expand(-1, x.shape[1], -1)
            return experts, torch.ones(experts.shape)

        return choose

    return of
