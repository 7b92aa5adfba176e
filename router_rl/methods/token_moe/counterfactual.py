"""The exact policy gradient of one layer at a time, from what every expert would have led to.

At a layer drawn at random, each expert in turn takes all tokens; the walk then goes on greedily to the loss.
Since experts are frozen this is forward work only, and the expectation over the layer's actions

    sum_e pi_e(x_t) Q_te,    Q_te = -(loss of token t, and a discounted part of later tokens', under e)

is differentiated as it stands, with no variance from drawing (Allen et al. 2017,
https://arxiv.org/abs/1709.00503; counterfactual baselines: Foerster et al. 2018,
https://arxiv.org/abs/1705.08926). We differ: a token's neighbours change with it, which is what they do where
a domain does. `credit="local"` reads the loss off right after the layer instead, without the layers above:
cheaper, and biased. `credit="table"` takes the losses along each expert's whole path, which were measured
once and for all: an outcome table, so that nothing but the walk to the layer is run. Load is charged by its
expectation, which is as exact (`expected_load`).
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
    """Settings of the learner.

    Attributes:
        credit: `path`, through the layers above; `local`, read off right after the layer; `table`, of the
            path on which one expert takes every layer.
        discount: of what the following tokens lose.
        entropy: nats of reward for a nat of entropy.
        layers: how many layers are looked into a step; 0 for all.
        load_weight: nats for a unit of a batch's expected load.
        load: what load is.
    """

    credit: Literal["path", "local", "table"] = "path"
    discount: float = 0.0
    entropy: float = 1e-4
    layers: int = 1
    load_weight: float = 0.0
    load: LoadRule = field(default_factory=LoadRule)


OUTCOME_TABLE = CounterfactualHyperparameters(
    credit="table", layers=0, entropy=3e-2
)  # on the tiny pool's validation


def train_counterfactual(
    pool: TokenPool,
    start: LayerRouters,
    training: Training,
    settings: CounterfactualHyperparameters,
    *,
    score: Callable[[LayerRouters], float] | None = None,
) -> Fit:
    """Train routers of one expert a token, hard or hierarchical, from a warm start.

    Args:
        pool: the frozen experts and the text.
        start: the warm start.
        training: settings of the loop.
        settings: of the learner.
        score: what validation is judged by; the mean loss if None.

    Raises:
        RouterError: the rule runs more than one expert.
    """
    if start.rule.k != 1:
        raise RouterError(
            f"{start.rule.name} runs {start.rule.k} experts a token; train with one, serve with more"
        )
    tail, sequences = pool.tail, pool.parts["train"]
    looked = settings.layers or tail.depth

    def loss(routers: LayerRouters, rows: Tensor, generator: torch.Generator) -> Tensor:
        hidden, targets = sequences.states(rows), sequences.targets(rows)
        drawn = torch.randperm(tail.depth, generator=generator)[:looked].tolist()
        total = torch.zeros(())
        for layer in range(max(drawn) + 1):
            with torch.no_grad():
                hidden, x = tail.attend(layer, hidden)
                step = tail.mix(layer, x, *routers.choose(layer, x))
            if layer in drawn:
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
        return total * (tail.depth / looked)

    return train(pool, start, training, loss, score=score)


def expected_loss(rule: Selection, z: Tensor, q: Tensor, entropy: float) -> Tensor:
    """What drawing one expert a token is expected to lose, less what its entropy is worth: a scalar.

    Args:
        rule: logits to probabilities.
        z: [..., outputs] float32, logits; they carry the gradient.
        q: [..., N] float32, nats lost under each expert; its mean over the experts, which no choice changes,
            is left out.
        entropy: nats of reward for a nat of entropy.
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
    """Losses under each expert of a layer, [S, T, N] float32.

    Args:
        tail: the frozen layers.
        routers: route greedily above the layer.
        layer: the one whose experts are tried.
        hidden, x: [S, T, H] float32, the residual stream after its attention, and its gate's input.
        targets: [S, T] int64.
        credit: `path` or `local`.
    """
    outputs = tail.outputs(layer, x).movedim(-2, 0)  # [N, S, T, H]
    forked = (hidden + outputs).flatten(0, 1)
    if credit == "path":
        for above in range(layer + 1, tail.depth):
            forked, seen = tail.attend(above, forked)
            forked = forked + tail.mix(above, seen, *routers.choose(above, seen))
    losses = tail.loss(forked, targets.repeat(tail.experts, 1))
    return losses.reshape(tail.experts, *targets.shape).movedim(0, -1)
