"""The ReMoE gate of tokens: `g = ReLU(z)`, sparse by an adaptive L1 penalty (Wang, Zhu and Chen 2025).

Every expert with a positive logit runs, its output times the logit, in training and at inference alike
(section 3 of https://arxiv.org/abs/2412.14711), so tokens run different numbers of experts. After each step
the coefficient of the penalty is multiplied by `alpha^sign(target - sparsity)`, with the paper's target
`1 - k / N`: about k experts run per token. The penalty is weighted by load (equation 8). Differences: the
experts are frozen, so the logits start as the closed form's, scaled and shifted until the weights of a token
sum to about 1 (the paper's dense stage); the validation that is kept must run about k experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...problems.token_moe.token_measurement import Choose, measure
from ...routing import LinearScorer
from ...routing.selection.topk import largest
from ..gates.remoe_gate import adapted
from ..method import Method, Run
from .closed_form_start import closed_form_start
from .expert_mixtures import sparse_mix
from .processes import processes
from .refusals import needs_topk_paths
from .token_fit import SPACE, LearningRate, training_of
from .token_training import Fit, Training, train

__all__ = ["METHOD", "dense_stage", "served", "train_remoe"]

_PENALTY, _ALPHA = 1e-4, 1.2  # initial coefficient; factor per step
_SEQUENCES = 16  # of the training text, to measure the logits with


def train_remoe(
    pool: TokenPool,
    start: LayerRouters,
    k: int,
    training: Training,
    *,
    score: Callable[[LayerRouters], float] | None = None,
) -> Fit:
    """Train a gate from the dense stage.

    Args:
        pool: frozen experts and text.
        start: routers whose weights of a token sum to about 1, see `dense_stage`.
        k: target number of experts per token.
        training: options of the training loop.
        score: validation score, lower is better; the mean loss, plus a nat for each expert above k, if None.
    """
    tail, sequences = pool.tail, pool.parts["train"]
    several, coefficient, active = processes(), torch.tensor(_PENALTY), torch.zeros(())

    def loss(routers: LayerRouters, rows: Tensor, generator: torch.Generator) -> Tensor:
        hidden, penalty = sequences.states(rows), torch.zeros(())
        active.zero_()
        for layer in range(tail.depth):
            hidden, x = tail.attend(layer, hidden)
            z = routers.logits(layer, x)
            gate = z.relu()
            running = several.row_mean((gate.detach() > 0).float().flatten(0, -2))  # [N]
            load = running * tail.experts / k
            penalty = penalty + (load * gate).sum(dim=-1).mean() / tail.depth
            active.add_(running.mean() / tail.depth)
            hidden = hidden + sparse_mix(tail, layer, x, shares(z))
        return tail.loss(hidden, sequences.targets(rows)).mean() + coefficient * penalty

    def adapt(routers: LayerRouters) -> None:
        coefficient.copy_(adapted(coefficient, 1.0 - active, 1.0 - k / tail.experts, _ALPHA))

    def sparse(routers: LayerRouters) -> float:
        measured = measure(tail, pool.parts["validation"], served(routers))
        return float(measured.loss.mean()) + max(0.0, measured.compute - k)

    moved = {"penalty": coefficient}
    return train(pool, start, training, loss, score=score or sparse, after=adapt, moved=moved)


def shares(z: Tensor) -> Tensor:
    """Return ReLU(z) over its sum, [..., N]; where no logit is positive, the largest has weight 1.

    Args:
        z: [..., N] float32, logits.
    """
    gate = z.relu()
    first = torch.zeros_like(z).scatter(-1, largest(z.detach(), 1), 1.0)
    total = gate.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, gate / total.clamp(min=1e-6), first)


def served(routers: LayerRouters) -> Choose:
    """Return the choice at inference: every expert with a positive logit, weighted by it; at least one.

    Args:
        routers: of all layers.
    """

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            weights = shares(routers.logits(layer, x))
            experts = largest(weights, weights.shape[-1])
            weights = weights.gather(-1, experts)
            return torch.where(weights > 0, experts, weights.shape[-1]), weights

    return choose


@torch.no_grad()
def dense_stage(pool: TokenPool, start: LayerRouters) -> LayerRouters:
    """Return routers whose logits are 1 / N in the mean and vary by half of that, in the start's order.

    Args:
        pool: its training text measures the start's logits.
        start: the closed form.
    """
    tail, routers = pool.tail, start.copy()
    hidden = pool.parts["train"].states(torch.arange(min(_SEQUENCES, len(pool.parts["train"]))))
    for layer, scorer in enumerate(routers.scorers):
        hidden, x = tail.attend(layer, hidden)
        hidden = hidden + tail.mix(layer, x, *start.choose(layer, x))
        z, linear = start.logits(layer, x), cast(LinearScorer, scorer)
        scale = 0.5 / (tail.experts * z.std().clamp(min=1e-6))
        linear.weight.mul_(scale)
        linear.bias.copy_((linear.bias - z.mean()) * scale + 1.0 / tail.experts)
        linear.bias.requires_grad_(True)
    return routers


def _fit(problem: TokenMoEProblem, hyperparameters: LearningRate, run: Run) -> LayerPolicy:
    start = dense_stage(problem.pool, closed_form_start(problem))
    training = training_of(problem, hyperparameters, run)
    routers = train_remoe(problem.pool, start, problem.experts_per_token, training).routers
    return LayerPolicy(choose=served(routers))


METHOD = Method(
    name="remoe_gate",
    family="gate",
    fit=_fit,
    hyperparameters=LearningRate,
    space=SPACE,
    about="ReLU weights, adaptive L1 penalty (Wang et al. 2025)",
    refuses=needs_topk_paths,
)
