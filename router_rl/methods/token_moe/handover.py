"""Write a pool's mixture with its trained routers as a folder that stock transformers loads.

Stock gates have no bias on their logits, but most trained routers do. `foldable` distills routers without
bias and measures the loss. If the loss is too large, train them further before handing them over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from experts.io.atomic import writable_folder
from experts.io.owned_folder import mark
from experts.io.temporaries import remove, remove_stale, temporary_beside
from experts.moe import assemble
from experts.moe.donor_folders import write_donors
from experts.moe.sequences import Sequences
from experts.moe.tail import Tail
from experts.moe.token_pool import TokenPool

from ...exports.transformers import Applied, Distillation, distil, fold, write_routers
from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.token_measurement import measure
from ...routing import LinearScorer, Router, RouterError

__all__ = ["foldable", "gate_inputs", "hand_over", "routers_of"]

_SCORES = {"mixtral": "softmax", "deepseek": "sigmoid"}  # how a form's stock gate weights experts


def foldable(pool: TokenPool, routers: LayerRouters) -> tuple[LayerRouters, Distillation]:
    """Distill routers without bias from trained routers, on the gates' inputs for the training text.

    Their biases are frozen at 0, so that further training keeps them foldable.

    Args:
        pool: experts and text.
        routers: the teachers, one per routed layer.

    Returns:
        the students; and their agreement on held-out training text, with the loss on the validation text in
        nats per token, before and after.

    Raises:
        RouterError: their selection rule has no stock gate.
    """

    def loss(layers: Sequence[Router]) -> float:
        joined = _joined(layers, routers)
        return float(measure(pool.tail, pool.parts["validation"], joined.choose).loss.mean())

    inputs = gate_inputs(pool.tail, pool.parts["train"], routers)
    result = distil(routers_of(routers), inputs, measure=loss)
    return _joined(result.routers, routers), result


def gate_inputs(tail: Tail, sequences: Sequences, routers: LayerRouters, batch: int = 16) -> list[Tensor]:
    """Return the inputs of each layer's gate when tokens are routed by these routers.

    Args:
        tail: routed layers.
        sequences: S sequences of T tokens.
        routers: one per routed layer.
        batch: sequences per forward pass.

    Returns:
        [S * T, H] float32 per layer.
    """
    inputs: list[list[Tensor]] = [[] for _ in range(tail.depth)]

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        inputs[layer].append(x.reshape(-1, x.shape[-1]))
        return routers.choose(layer, x)

    with torch.no_grad():
        for rows in torch.arange(len(sequences)).split(batch):
            tail(sequences.states(rows), choose)
    return [torch.cat(states) for states in inputs]


def routers_of(routers: LayerRouters) -> list[Router]:
    """Return one `Router` per layer, with the selection rule of the routers."""
    return [
        Router(cast(LinearScorer, scorer), rule, routers.experts)
        for scorer, rule in zip(routers.scorers, routers.rules, strict=True)
    ]


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

    The `mixtral` form weights experts by softmax: hand over routers trained with `Hard` or `TopK`. The
    `deepseek` form, a `Glm4MoeForCausalLM`, weights them by sigmoid: hand over routers trained with
    `ScoredTopK(score="sigmoid")`, the rule of `TokenMoEOptions.score="sigmoid"`. For one expert per token,
    any of these rules is exact in both forms. The `deepseek` form averages the shared neurons, so its experts
    differ slightly from the pool's.

    Args:
        pool: the base and its experts.
        routers: one per routed layer, without bias.
        out: output folder; an earlier assembly in it is replaced.
        form: `mixtral` or `deepseek`, see `assemble`.
        segments: number of segments that the `deepseek` form cuts an FFN into.
        shared: number of segments that always run in that form.
        tokenizer: of the base, saved beside it; None to leave it out.

    Returns:
        what was written: the class of stock transformers that loads it, and warnings, such as that every
            token would run every expert.

    Raises:
        RouterError: the routers do not fold (`foldable` makes some that do), or their rule weights experts
            differently from the form.
    """
    tail, base = pool.tail, pool.base
    gates = [fold(router) for router in routers_of(routers)]  # checks come before anything is written
    if any(gate.bias is not None for gate in gates):
        raise RouterError("stock gates have no bias on their logits; make routers without one by `foldable`")
    if routers.rule.k > 1 and gates[0].score != _SCORES[form]:
        other = next(name for name, score in _SCORES.items() if score == gates[0].score)
        needed = "TopK" if form == "mixtral" else 'ScoredTopK(score="sigmoid")'
        raise RouterError(
            f"the routers weight experts by {gates[0].score}, the {form} form by {_SCORES[form]}: train them "
            f"with {needed} (problem.score {_SCORES[form]}), or hand them over in the {other} form"
        )
    experts = {
        name: [tail.ffn(layer, expert).weights() for layer in range(tail.depth)]
        for expert, name in enumerate(tail.names)
    }
    target = Path(out).absolute()
    writable_folder("out", target.parent)
    donors_of = target.with_name(f"{target.name}.donors")
    remove_stale(donors_of)
    folder = temporary_beside(donors_of, "new")
    try:
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
    finally:
        remove(folder)
    applied = write_routers(routers_of(routers), out)
    mark(Path(out))
    return applied


def _joined(layers: Sequence[Router], like: LayerRouters) -> LayerRouters:
    """Return linear routers of each layer as one module, with biases frozen at 0."""
    joined = LayerRouters(len(layers), layers[0].features, like.rules, like.experts)
    with torch.no_grad():
        for scorer, router in zip(joined.scorers, layers, strict=True):
            scorer.load_state_dict(router.scorer.state_dict())
    for scorer in joined.scorers:
        cast(LinearScorer, scorer).bias.requires_grad_(False)
    return joined
