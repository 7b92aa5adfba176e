"""The tree of a cascade's choices: who is asked first, who then, and where it stops, in shares of queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import torch

from ..problem import Case, Figure, Row, Traces
from .cascade_episodes import travel
from .problem import CascadeProblem

__all__ = ["trace", "tree_figures"]

_LEAST = 0.01  # share of queries below which a branch is not drawn
_ROW, _COLUMN, _TOP, _WIDEST = 22, 230, 30, 160


def trace(problem: CascadeProblem, policy: Any, case: Case) -> dict[str, Any] | None:
    """How often each path of asked experts was taken on test queries, and how often its answer was right.

    Returns:
        `paths`: a list of {"asked": names, "share", "quality"}, by falling share; None for the oracle.
    """
    if not hasattr(policy, "actions"):
        return None
    table = problem.rows["test"]
    experts = problem.table.experts
    rows = torch.arange(table.outcomes.queries)
    trip = travel(policy.actions, table, problem.config, case.values["compute_weight"], rows)
    counts: Counter[tuple[str, ...]] = Counter()
    right: Counter[tuple[str, ...]] = Counter()
    for steps, quality in zip(trip.steps.tolist(), trip.quality.tolist(), strict=True):
        path = tuple(experts[step] for step in steps if 0 <= step < len(experts))
        counts[path] += 1
        right[path] += quality
    return {
        "case": case.label,
        "paths": [
            {"asked": list(path), "share": count / len(rows), "quality": right[path] / count}
            for path, count in counts.most_common()
        ],
    }


def tree_figures(traces: Traces, summary: Sequence[Row]) -> list[Figure]:
    """A tree for each method whose cascade branches."""
    figures: list[Figure] = []
    for name, found in traces.items():
        if any(len(path["asked"]) > 1 for path in found["paths"]):
            title = f"Who is asked, and who next: {name}, {found['case']}"
            note = (
                "Shares of the test queries; a bar's length is its share, indented below the expert asked "
                "before. Dark: the queries that stop there. Quality is that of those answers. "
                f"Branches of less than {_LEAST:.0%} are left out."
            )
            figures.append(Figure(title, note, _drawn(found["paths"])))
    return figures


def _drawn(paths: Sequence[Mapping[str, Any]]) -> str:
    lines = list(_branches(paths, ()))
    height = _TOP + _ROW * len(lines)
    deepest = max(depth for depth, *_ in lines)
    width = 24 * deepest + _COLUMN + _WIDEST + 180
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f'<text x="{_COLUMN}" y="16">share of queries</text>',
    ]
    for place, (depth, name, share, stops, quality) in enumerate(lines):
        y = _TOP + _ROW * place
        left = 24 * depth
        bar = f'x="{_COLUMN + left}" y="{y}" height="14"'
        said = f"{share:.0%}" if quality is None else f"{share:.0%}, stops {stops:.0%}, quality {quality:.2f}"
        parts += [
            f'<text x="{left}" y="{y + 12}">{"&#8627; " if depth else ""}{escape(name)}</text>',
            f'<rect {bar} width="{_WIDEST * share:.1f}" fill="#4c8dd666"/>',
            f'<rect {bar} width="{_WIDEST * stops:.1f}" fill="#2563ab"/>',
            f'<text x="{_COLUMN + left + _WIDEST * share + 6:.1f}" y="{y + 12}">{said}</text>',
        ]
    return "".join([*parts, "</svg>"])


def _branches(
    paths: Sequence[Mapping[str, Any]], before: tuple[str, ...]
) -> Iterator[tuple[int, str, float, float, float | None]]:
    """Depth, expert, share that comes here, share that stops here, and quality of those, depth first."""
    depth = len(before)
    here = [path for path in paths if tuple(path["asked"][:depth]) == before and len(path["asked"]) > depth]
    shares: Counter[str] = Counter()
    for path in here:
        shares[path["asked"][depth]] += path["share"]
    for name, share in shares.most_common():
        if share < _LEAST:
            continue
        after = (*before, name)
        stop = next((path for path in here if tuple(path["asked"]) == after), None)
        stops, quality = (0.0, None) if stop is None else (stop["share"], stop["quality"])
        yield depth, name, share, stops, quality
        yield from _branches(paths, after)
