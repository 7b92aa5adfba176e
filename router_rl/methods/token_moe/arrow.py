"""Arrow routing: an expert is scored by how far a token lies in the direction that the expert changed most.

That direction is the top right singular vector v of the change of the expert's input projections (gate and
up, stacked) from the base's; the score is |v x|, the weights are the softmax of the k largest scores. Nothing
is trained, and no text is needed. Arrow was made for LoRA adapters, whose change is of low rank.

Source: "Arrow routing" in Ostapenko et al. 2024, https://arxiv.org/abs/2405.11157. Difference: one direction
for an FFN, not one for each matrix, because a router of this problem selects whole FFNs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool

from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...routing.selection.topk import largest
from ..method import Method, NoHyperparameters, Run
from .refusals import needs_topk_paths

__all__ = ["METHOD", "arrow_directions"]


def arrow_directions(pool: TokenPool) -> Tensor:
    """Return the unit direction of each expert's largest change, [L, N, H] float32; 0 without a change.

    Args:
        pool: experts with a common ancestor.
    """
    tail, base = pool.tail, pool.base.dense()
    directions = torch.zeros(tail.depth, tail.experts, tail.hidden)
    for layer, dense in enumerate(base):
        own = torch.cat([dense["gate_proj"], dense["up_proj"]]).float()
        for expert in range(tail.experts):
            weights = tail.ffn(layer, expert).weights()
            change = torch.cat([weights["gate_proj"], weights["up_proj"]]).float() - own
            if bool(change.any()):
                directions[layer, expert] = torch.linalg.svd(change, full_matrices=False).Vh[0]
    return directions


def _fit(problem: TokenMoEProblem, hyperparameters: NoHyperparameters, run: Run) -> LayerPolicy:
    directions = problem.cached("arrow", lambda: arrow_directions(problem.pool))
    k = problem.experts_per_token

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = (x @ directions[layer].T).abs()
        experts = largest(scores, k)
        return experts, scores.gather(-1, experts).softmax(dim=-1)

    return LayerPolicy(choose=choose)


METHOD = Method(
    name="arrow",
    family="gate",
    fit=_fit,
    refuses=needs_topk_paths,
    about="direction in which each expert changed most, untrained",
)
