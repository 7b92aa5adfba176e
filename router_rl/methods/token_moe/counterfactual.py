"""Exact policy gradient of one layer at a time, from the losses under every expert.

At a randomly selected layer, each expert in turn processes all tokens; the rest of the forward pass is
greedy. Experts are frozen, so this needs forward passes only. The expectation over the layer's actions

    sum_e pi_e(x_t) Q_te,    Q_te = -(loss of token t, plus discounted losses of later tokens, under e)

is differentiated directly, without sampling variance (Allen et al. 2017, https://arxiv.org/abs/1709.00503;
counterfactual baselines: Foerster et al. 2018, https://arxiv.org/abs/1705.08926). Difference: all tokens
change expert together, as neighbouring tokens of a domain do. `credit="local"` computes the loss right after
the layer, without the layers above: cheaper, but biased. `credit="table"` uses the losses along each expert's
whole path, which are measured once (an outcome table), so only the layers up to the selected one run. Load is
charged by its exact expectation (`expected_load`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from envs.layer_load import LoadRule
from experts.moe.tail import Tail
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...routing import RouterError, Selection
from .expected_load import expected_load
from .processes import processes
from .token_reinforce import later_tokens
from .token_training import Fit, Training, train

__all__ = [
    "OUTCOME_TABLE",
    "CounterfactualHyperparameters",
    "counterfactual_losses",
    "expected_loss",
    "train_counterfactual",
]


@dataclass(frozen=True, kw_only=True)
class CounterfactualHyperparameters:
    """Hyperparameters of the counterfactual policy gradient.

    Attributes:
        credit: `path`: through the layers above; `local`: right after the layer; `table`: of the path on
            which one expert processes every layer.
        discount: discount of the losses of following tokens.
        entropy: entropy bonus, nats per nat.
        layers: number of layers per step; 0 for all.
        load_weight: nats per unit of a batch's expected load.
        load: definition of load.
    """

    credit: Literal["path", "local", "table"] = "path"
    discount: float = 0.0
    entropy: float = 1e-4
    layers: int = 1
    load_weight: float = 0.0
    load: LoadRule = field(default_factory=LoadRule)


OUTCOME_TABLE = CounterfactualHyperparameters(credit="table", layers=0, entropy=3e-2)
"""Selected on the tiny pool's validation part."""


def train_counterfactual(
    pool: TokenPool,
    start: LayerRouters,
    training: Training,
    settings: CounterfactualHyperparameters,
    *,
    score: Callable[[LayerRouters], float] | None = None,
) -> Fit:
    """Train routers of one expert per token, with hard or hierarchical selection, from a warm start.

    Args:
        pool: frozen experts and text.
        start: routers to start from.
        training: options of the training loop.
        settings: hyperparameters.
        score: validation score, lower is better; the mean loss if None.

    Raises:
        RouterError: the rule selects more than one expert.
    """
    if start.rule.k != 1:
        raise RouterError(
            f"{start.rule.name} selects {start.rule.k} experts per token; train with one, serve with more"
        )
    processes().refuse("load_weight", settings.load_weight, (0.0,))
    tail, sequences = pool.tail, pool.parts["train"]
    count = settings.layers or tail.depth

    def loss(routers: LayerRouters, rows: Tensor, generator: torch.Generator) -> Tensor:
        hidden, targets = sequences.states(rows), sequences.targets(rows)
        layers = torch.randperm(tail.depth, generator=generator)[:count].tolist()
        total = torch.zeros(())
        for layer in range(max(layers) + 1):
            with torch.no_grad():
                hidden, x = tail.attend(layer, hidden)
                step = tail.mix(layer, x, *routers.choose(layer, x))
            if layer in layers:
                if settings.credit == "table":
                    q = torch.from_numpy(sequences.path_loss[rows.numpy()]).movedim(1, -1)
                else:
                    q = counterfactual_losses(tail, routers, layer, hidden, x, targets, settings.credit)
                q = later_tokens(q.movedim(-1, 1), settings.discount).movedim(1, -1)
                z = routers.logits(layer, x)
                total = total + expected_loss(routers.rule, z, q, settings.entropy)
                if settings.load_weight:
                    p = routers.rule.probabilities(z).flatten(0, -2)
                    total = total + settings.load_weight * expected_load(settings.load, p)
            hidden = hidden + step
        return total * (tail.depth / count)

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


@torch.no_grad()
def counterfactual_losses(
    tail: Tail,
    routers: LayerRouters,
    layer: int,
    hidden: Tensor,
    x: Tensor,
    targets: Tensor,
    credit: Literal["path", "local"],
) -> Tensor:
    """Return the losses under each expert of a layer, [S, T, N] float32.

    Args:
        tail: frozen layers.
        routers: greedy routers of the layers above.
        layer: layer whose experts are compared.
        hidden: [S, T, H] float32, residual stream after the layer's attention.
        x: [S, T, H] float32, input of its gate.
        targets: [S, T] int64.
        credit: `path` or `local`.
    """
    outputs = tail.outputs(layer, x).movedim(-2, 0)  # [N, S, T, H]
    forked = (hidden + outputs).flatten(0, 1)
    if credit == "path":
        for above in range(layer + 1, tail.depth):
            forked, inputs = tail.attend(above, forked)
            forked = forked + tail.mix(above, inputs, *routers.choose(above, inputs))
    losses = tail.loss(forked, targets.repeat(tail.experts, 1))
    return losses.reshape(tail.experts, *targets.shape).movedim(0, -1)
