"""Exact policy gradient on the outcome table: the losses along each expert's whole path, measured once.

At every layer the expectation over the layer's actions

    sum_e pi_e(x_t) Q_te,    Q_te = loss of token t on the path on which expert e runs every layer

is differentiated directly, without sampling variance (Allen et al. 2017, https://arxiv.org/abs/1709.00503;
counterfactual baselines: Foerster et al. 2018, https://arxiv.org/abs/1705.08926). The inputs of the layers
are those of the greedy route. Experts are frozen, so this needs forward passes only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...routing import RouterError, Selection
from .token_training import Fit, Training, train

__all__ = ["expected_loss", "train_outcome_table"]

_ENTROPY = 3e-2  # bonus in nats per nat, selected on the tiny pool's validation part


def train_outcome_table(
    pool: TokenPool,
    start: LayerRouters,
    training: Training,
    *,
    score: Callable[[LayerRouters], float] | None = None,
) -> Fit:
    """Train routers of one expert per token, with hard or hierarchical selection, from a warm start.

    Args:
        pool: frozen experts and text.
        start: routers to start from.
        training: options of the training loop.
        score: validation score, lower is better; the mean loss if None.

    Raises:
        RouterError: the rule selects more than one expert.
    """
    if start.rule.k != 1:
        raise RouterError(
            f"{start.rule.name} selects {start.rule.k} experts per token; train with one, serve with more"
        )
    tail, sequences = pool.tail, pool.parts["train"]

    def loss(routers: LayerRouters, rows: Tensor, generator: torch.Generator) -> Tensor:
        hidden = sequences.states(rows)
        q = torch.from_numpy(sequences.path_loss[rows.numpy()]).movedim(1, -1)
        total = torch.zeros(())
        for layer in range(tail.depth):
            with torch.no_grad():
                hidden, x = tail.attend(layer, hidden)
                hidden = hidden + tail.mix(layer, x, *routers.choose(layer, x))
            total = total + expected_loss(routers.rule, routers.logits(layer, x), q, _ENTROPY)
        return total

    return train(pool, start, training, loss, score=score)


def expected_loss(rule: Selection, z: Tensor, q: Tensor, entropy: float) -> Tensor:
    """Return the expected loss of sampling one expert per token, minus the entropy bonus: a scalar.

    Args:
        rule: selection rule.
        z: [..., outputs] float32, logits; carry the gradient.
        q: [..., N] float32, loss in nats under each expert; its mean over experts is removed.
        entropy: entropy bonus, nats per nat.
    """
    q = q - q.mean(dim=-1, keepdim=True)
    return ((rule.probabilities(z) * q).sum(-1) - entropy * rule.entropy(z)).mean()
