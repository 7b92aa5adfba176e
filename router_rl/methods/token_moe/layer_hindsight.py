"""The best expert of each token at each layer, found in hindsight, one layer after the other.

Unlike `oracle`, which takes each token's loss from a pass in which one expert runs for all tokens, these
routes are run: the loss is that of one pass, in which tokens attend to each other's hidden states. So it is
what a router could reach that knew every next token and selected one layer after the other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from experts.moe.sequences import Sequences
from experts.moe.tail import Tail
from experts.moe.token_pool import TokenPool

from ...problems.measure import Measurement
from ...problems.problem import Case
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ..method import Bound
from .answer_bounds import needs_text
from .refusals import needs_topk_paths

__all__ = ["METHOD", "layer_hindsight"]


def layer_hindsight(pool: TokenPool, part: str, batch: int = 16) -> np.ndarray:
    """Return the losses of the hindsight route, [S, T] float32, nats per token.

    The route begins as the best expert's path of each token. Layer by layer, from the first, every expert is
    run there for all tokens with the other layers on the route, and each token gets the expert with the
    lowest loss of its own next token. A sequence keeps its route at a layer if the new one has a higher mean
    loss, because tokens that change together change each other. L N + L passes.

    Args:
        pool: frozen experts and text.
        part: its part.
        batch: sequences per forward pass.
    """
    sequences = pool.parts[part]
    with torch.no_grad():
        losses = [_best(pool.tail, sequences, rows) for rows in torch.arange(len(sequences)).split(batch)]
    return torch.cat(losses).numpy()


def _best(tail: Tail, sequences: Sequences, rows: Tensor) -> Tensor:
    """The losses [B, T] of some sequences' hindsight routes."""
    first = torch.from_numpy(sequences.path_loss[rows.numpy()].argmin(axis=1))
    route = first.expand(tail.depth, -1, -1).clone()  # [L, B, T]
    targets, hidden = sequences.targets(rows), sequences.states(rows)
    loss = _loss(tail, hidden, targets, route, 0)
    for layer in range(tail.depth):
        tried = []
        for expert in range(tail.experts):
            changed = route.clone()
            changed[layer] = expert
            tried.append(_loss(tail, hidden, targets, changed, layer))
        changed = route.clone()
        changed[layer] = torch.stack(tried).argmin(dim=0)
        new = _loss(tail, hidden, targets, changed, layer)
        better = new.mean(dim=1) < loss.mean(dim=1)
        route[:, better], loss[better] = changed[:, better], new[better]
        hidden = _run(tail, hidden, route, layer, layer + 1)
    return loss


def _loss(tail: Tail, hidden: Tensor, targets: Tensor, route: Tensor, layer: int) -> Tensor:
    """The losses [B, T] of routes [L, B, T], from a layer on."""
    return tail.loss(_run(tail, hidden, route, layer, tail.depth), targets)


def _run(tail: Tail, hidden: Tensor, route: Tensor, first: int, last: int) -> Tensor:
    """The residual stream after the layers `first` to `last - 1`."""
    for layer in range(first, last):
        hidden, x = tail.attend(layer, hidden)
        hidden = hidden + tail.mix(layer, x, route[layer].unsqueeze(-1), torch.ones(*x.shape[:-1], 1))
    return hidden


def _measure(problem: TokenMoEProblem, case: Case, split: str) -> Measurement:
    policy = LayerPolicy(known=lambda part: layer_hindsight(problem.pool, part))
    return problem.evaluate(policy, split, case)


def _refuses(problem: TokenMoEProblem) -> str | None:
    return needs_topk_paths(problem) or needs_text(problem)


METHOD = Bound(
    name="layer_oracle",
    measure=_measure,
    refuses=_refuses,
    about="the best expert of each token, layer by layer, in hindsight",
)
