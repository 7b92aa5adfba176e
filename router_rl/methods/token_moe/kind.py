"""Routing inside a mixture as `train --env token_moe` and `compare --env token_moe` know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from experts.io.atomic import replacing

from ...problems.problem import Case, EnvKind, Figure, Played, Row, Traces
from ...problems.token_moe.problem import DEFAULTS, LayerPolicy, MixtureProblem, cases_of, prepare
from ...problems.token_moe.token_measurement import measure
from .methods import METHODS

__all__ = ["TOKEN_MOE"]


def _play(problem: MixtureProblem, policy: LayerPolicy, case: Case, split: str) -> Played:
    """Utility is minus the loss, nats a token, of each sequence."""
    part = problem.pool.parts[split]
    facts: dict[str, float] = {}
    if policy.known is not None:
        loss = policy.known(split).mean(axis=1)
    else:
        assert policy.choose is not None
        found = measure(problem.pool.tail, part, policy.choose)
        loss = found.loss.mean(axis=1)
        facts = {"load_cv": found.load_cv(), "experts_run": found.compute}
    pure = ~part.mixed
    by_text = {
        f"loss/{name}": float(loss[pure & (part.domain[:, 0] == d)].mean())
        for d, name in enumerate(problem.texts)
    }
    if part.mixed.any():
        by_text["loss/mixed"] = float(loss[part.mixed].mean())
    perplexity = {"perplexity": float(np.exp(loss.mean()))}
    return Played(utility=-loss, parts={}, facts={**perplexity, **facts, **by_text})


def _trace(problem: MixtureProblem, policy: LayerPolicy, case: Case) -> dict[str, Any] | None:
    """Which expert does the work in each layer, and on which text."""
    if policy.routers is None:
        return None
    part = problem.pool.parts["test"]
    chosen = measure(problem.pool.tail, part, policy.routers.choose).experts  # [L, S, T, k]
    shares = [
        [[float((layer[part.domain == d] == e).mean()) for e in range(problem.pool.tail.experts)]
         for d in range(len(problem.texts))]
        for layer in chosen
    ]  # fmt: skip
    below = problem.pool.base.below
    return {
        "experts": list(problem.pool.tail.names),
        "texts": list(problem.texts),
        "layers": [below + layer for layer in range(len(shares))],
        "shares": shares,
    }


def _figures(traces: Traces, summary: Sequence[Row]) -> list[Figure]:
    note = (
        "Each block is a layer: rows are texts, columns experts ({}); the darker, the more of a row's tokens."
    )
    return [
        Figure(f"Who does the work: {name}", note.format(", ".join(found["experts"])), _drawn(found))
        for name, found in traces.items()
    ]


def _drawn(found: Mapping[str, Any]) -> str:
    cell, left, gap = 18, 110, 26
    texts, experts = found["texts"], found["experts"]
    across = max(1, 760 // (cell * len(experts) + gap))  # blocks in a line
    block, line = cell * len(experts) + gap, cell * len(texts) + 40
    lines = -(-len(found["layers"]) // across)
    width, height = left + block * min(across, len(found["layers"])), line * lines
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    ]
    for at, (layer, rows) in enumerate(zip(found["layers"], found["shares"], strict=True)):
        x, y = left + block * (at % across), line * (at // across) + 24
        parts.append(f'<text x="{x}" y="{y - 8}">layer {layer}</text>')
        for row, (text, shares) in enumerate(zip(texts, rows, strict=True)):
            if at % across == 0:
                parts.append(f'<text x="0" y="{y + cell * row + 13}">{escape(text)}</text>')
            for column, (name, share) in enumerate(zip(experts, shares, strict=True)):
                parts.append(
                    f'<rect x="{x + cell * column}" y="{y + cell * row}" width="{cell - 1}" '
                    f'height="{cell - 1}" fill="#2563ab" fill-opacity="{0.05 + 0.95 * share:.2f}">'
                    f"<title>{escape(text)}, {escape(name)}: {share:.0%}</title></rect>"
                )
    return "".join([*parts, "</svg>"])


def _write(policy: LayerPolicy, folder: Path) -> bool:
    """`routers.safetensors`, which `handover` takes."""
    if policy.routers is None:
        return False
    weights = {
        f"layers.{n}.weight": weight.contiguous() for n, (weight, _) in enumerate(policy.routers.pairs())
    }
    with replacing(folder / "routers.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    return True


TOKEN_MOE = EnvKind(
    name="token_moe",
    environment="RouterRL/TokenMoE-v0",
    about="inside a mixture of experts: which expert each token takes at each layer",
    prepare=prepare,
    options=DEFAULTS,
    cases=cases_of,
    methods=METHODS,
    always=("dense", "average", "best_single", "random", "oracle"),
    play=_play,
    trace=_trace,
    figures=_figures,
    write=_write,
)
