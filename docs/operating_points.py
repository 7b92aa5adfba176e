"""Draws what a router can gain between two language models, as an SVG for docs/concepts.md.

    python docs/operating_points.py docs/figures/operating_points.svg

Trains one router (`priced_pg`, seed 0) on the packaged table. Points are means over test queries.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import altair
import numpy as np
import torch

from experts import OutcomeTable, open_table
from router_rl import Objective, RoutingProblem, fit

WEIGHTS = tuple(np.linspace(0.0, 0.4, 21))
Point = dict[str, Any]


def point(test: OutcomeTable, chosen: np.ndarray, **more: Any) -> Point:
    """Return the mean quality and the cost in US$ per 1,000 queries of a choice [T] of experts."""
    rows = np.arange(len(test))
    cost = 1000 * float(test.cost[rows, chosen].mean(dtype=float))
    return {"cost": cost, "quality": float(test.quality[rows, chosen].mean(dtype=float)), **more}


def points() -> tuple[list[Point], list[Point]]:
    """Return the points of the router, in order of the compute weight, and the named other ones."""
    torch.set_num_threads(1)
    table = open_table("routellm_gsm8k")
    router = fit("priced_pg", RoutingProblem(table, Objective(compute_weight=0.1)), seed=0)
    test = table.part("test")
    path: list[Point] = []
    for order, weight in enumerate(WEIGHTS):
        chosen = router.at(compute_weight=float(weight)).route([str(text) for text in test.prompt])
        path.append(point(test, chosen.experts[:, 0].numpy(), order=order))
    best = (test.quality - 1e-6 * test.cost / test.cost.max()).argmax(axis=1)
    names = ("GPT-4 for every query", "Mixtral for every query")
    named = [point(test, np.full(len(test), which), name=name) for which, name in enumerate(names)]
    return path, [*named, point(test, best, name="oracle: the right model, cheapest first")]


def main(out: Path) -> None:
    """Write the SVG."""
    path, named = points()
    x = altair.X("cost:Q", title="US$ per 1,000 queries", scale=altair.Scale(domain=[0, 21]))
    y = altair.Y("quality:Q", title="quality on test queries", scale=altair.Scale(domain=[0.62, 0.98]))
    router = altair.Chart(altair.Data(values=path)).encode(x=x, y=y, order="order:Q")
    marks = altair.Chart(altair.Data(values=named)).encode(x=x, y=y)
    zero = altair.Chart(altair.Data(values=named[:2])).encode(x=x, y=y)
    middle = {side: (named[0][side] + named[1][side]) / 2 for side in ("cost", "quality")}
    coin = {**middle, "name": "zero router: a coin between the two"}
    router_name = {**path[len(path) // 2], "name": "the router, at each compute weight"}
    below = altair.Chart(altair.Data(values=[coin])).encode(x=x, y=y, text="name:N")
    above = altair.Chart(altair.Data(values=[router_name])).encode(x=x, y=y, text="name:N")
    chart = (
        zero.mark_line(color="#8a8f96", strokeDash=[5, 4])
        + router.mark_line(color="#0b5cad", point=altair.OverlayMarkDef(color="#0b5cad", size=25))
        + marks.mark_point(filled=True, size=80, color="#1b1f24")
        + marks.mark_text(align="left", dx=8, dy=12, fontSize=11).encode(text="name:N")
        + below.mark_text(align="left", dx=10, dy=12, fontSize=11, color="#555d66")
        + above.mark_text(align="right", dx=-4, dy=-12, fontSize=11, color="#0b5cad")
    )
    chart.properties(width=640, height=300, background="white").save(str(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
