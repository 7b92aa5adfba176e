"""A pool's mixture and its trained routers as a folder that stock transformers runs.

Stock gates have no bias on their logits, and trained routers mostly have one. So: make routers without
(`foldable`, which says what that costs), train them further where it costs too much, and hand those over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from experts.io.atomic import writable_folder
from experts.moe import assemble
from experts.moe.donor_folders import write_donors
from experts.moe.sequences import Sequences
from experts.moe.tail import Tail
from experts.moe.token_pool import TokenPool

from ...exports.transformers import Applied, Distillation, distil, fold, write_routers
from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.token_measurement import measure
from ...routing import LinearScorer, Router, RouterError

__all__ = ["foldable", "gate_inputs", "hand_over"]


def foldable(pool: TokenPool, routers: LayerRouters) -> tuple[LayerRouters, Distillation]:
    """Routers without bias that imitate others, fitted to what the gates see on the training text.

    Their biases are frozen at 0, so that a learner which starts from them keeps them foldable.

    Returns:
        the routers; and how well they agree on held-out training text, with the loss on the validation text,
        nats a token, before and after.

    Raises:
        RouterError: their rule is none of a stock gate.
    """

    def loss(layers: Sequence[Router]) -> float:
        found = _joined(layers, routers)
        return float(measure(pool.tail, pool.parts["validation"], found.choose).loss.mean())

    seen = gate_inputs(pool.tail, pool.parts["train"], routers)
    result = distil(_layers(routers), seen, measure=loss)
    return _joined(result.routers, routers), result


def gate_inputs(tail: Tail, sequences: Sequences, routers: LayerRouters, batch: int = 16) -> list[Tensor]:
    """What each layer's gate sees along the routers' own route: a list of [S * T, H] float32."""
    seen: list[list[Tensor]] = [[] for _ in range(tail.depth)]

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        seen[layer].append(x.reshape(-1, x.shape[-1]))
        return routers.choose(layer, x)

    with torch.no_grad():
        for rows in torch.arange(len(sequences)).split(batch):
            tail(sequences.states(rows), choose)
    return [torch.cat(states) for states in seen]


def hand_over(
    pool: TokenPool,
    routers: LayerRouters,
    out: Path | str,
    *,
    form: Literal["mixtral", "deepseek"] = "mixtral",
    segments: int = 4,
    shared: int = 1,
    tokenizer: Any = None,
) -> Applied:
    """Assemble the pool's experts into a mixture and write the routers into it, exactly.

    The `deepseek` form averages the neurons that are shared, so there the experts are not quite the pool's.

    Args:
        pool: the base and its experts.
        routers: one a routed layer, without bias.
        out: the folder to write; an earlier assembly in it is replaced.
        form: `mixtral` or `deepseek`, as `assemble` takes it.
        segments: into how many the `deepseek` form cuts an FFN.
        shared: how many of the segments run always there.
        tokenizer: of the base, saved beside it; None to leave it out.

    Raises:
        RouterError: the routers do not fold (`foldable` makes some that do).
    """
    tail, base = pool.tail, pool.base
    if any(fold(router).bias is not None for router in _layers(routers)):  # before anything is written
        raise RouterError("stock gates have no bias on their logits; make routers without by `foldable`")
    experts = {
        name: [
            {f"{part}_proj": getattr(tail, part)[layer, expert] for part in ("gate", "up", "down")}
            for layer in range(tail.depth)
        ]
        for expert, name in enumerate(tail.names)
    }
    parent = writable_folder("out", Path(out).absolute().parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{Path(out).name}.donors.") as folder:
        stem, donors = write_donors(base, experts, folder, tokenizer)
        assemble(
            stem,
            donors,
            out,
            layers=range(base.below, base.below + tail.depth),
            form=form,
            experts_per_token=routers.rule.k,
            segments=segments,
            shared=shared,
            progress=False,
        )
    return write_routers(_layers(routers), out)


def _layers(routers: LayerRouters) -> list[Router]:
    return [Router(cast(LinearScorer, scorer), routers.rule, routers.experts) for scorer in routers.scorers]


def _joined(layers: Sequence[Router], like: LayerRouters) -> LayerRouters:
    """Linear routers of each layer as one, biases frozen at 0."""
    found = LayerRouters(len(layers), layers[0].features, like.rule, like.experts)
    with torch.no_grad():
        for scorer, router in zip(found.scorers, layers, strict=True):
            scorer.load_state_dict(router.scorer.state_dict())
    for scorer in found.scorers:
        cast(LinearScorer, scorer).bias.requires_grad_(False)
    return found
