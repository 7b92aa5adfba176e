"""Draw the tree of a cascade's choices: which expert is asked, which next, and where it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

__all__ = ["draw"]

_MINIMUM = 0.01  # share of queries below which a branch is not drawn
_ROW, _INDENT, _TOP, _WIDEST, _WORDS = 22, 24, 30, 160, 200
_LETTER = 7.0  # mean width of a letter, in SVG units


class _Branch(NamedTuple):
    """One line: `share` of the queries ask this expert next, and `stops` of the queries take its answer."""

    depth: int
    name: str
    share: float
    stops: float
    quality: float | None


def draw(traces: Mapping[str, Mapping[str, Any]]) -> str:
    """The tree of one method as SVG; an empty string where no query asks a second expert.

    Args:
        traces: the method with its data: `paths`, a list of {"asked": names, "share", "quality"}, where
            `share` is of the test queries and `quality` the mean over them.
    """
    ((_, data),) = traces.items()
    if not any(len(path["asked"]) > 1 for path in data["paths"]):
        return ""
    lines = list(_branches(data["paths"], ()))
    deepest = max(line.depth for line in lines)
    names = max(_INDENT * line.depth + _LETTER * len(line.name) for line in lines) + 2 * _INDENT
    width, height = names + _INDENT * deepest + _WIDEST + _WORDS, _TOP + _ROW * len(lines)
    parts = [
        f'<svg class="drawing" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" '
        'role="img" aria-label="Which expert is asked, and which next">'
        f'<text x="{names:.0f}" y="16">share of queries:</text>'
        f'<rect class="light" x="{names + 110:.0f}" y="5" width="12" height="12"/>'
        f'<text x="{names + 126:.0f}" y="16">asked</text>'
        f'<rect class="strong" x="{names + 170:.0f}" y="5" width="12" height="12"/>'
        f'<text x="{names + 186:.0f}" y="16">stop there</text>'
    ]
    for place, line in enumerate(lines):
        top, left = _TOP + _ROW * place, _INDENT * line.depth
        x = names + left
        words = f"{line.share:.0%}"
        if line.quality is not None:
            words += f", stops {line.stops:.0%}, quality {line.quality:.2f}"
        parts += [
            f'<text x="{left}" y="{top + 12}">{"&#8627; " if line.depth else ""}{escape(line.name)}</text>',
            _bar(x, top, line.share, "light"),
            _bar(x, top, line.stops, "strong"),
            f'<text x="{x + _WIDEST * line.share + 6:.1f}" y="{top + 12}">{words}</text>',
        ]
    return "".join([*parts, "</svg>"])


def _bar(x: float, top: int, share: float, css: str) -> str:
    return f'<rect class="{css}" x="{x:.1f}" y="{top}" width="{_WIDEST * share:.1f}" height="14"/>'


def _branches(paths: Sequence[Mapping[str, Any]], before: tuple[str, ...]) -> Iterator[_Branch]:
    """The branches after some experts, the largest first, each followed by its own branches."""
    depth = len(before)
    here = [path for path in paths if tuple(path["asked"][:depth]) == before and len(path["asked"]) > depth]
    shares: Counter[str] = Counter()
    for path in here:
        shares[path["asked"][depth]] += path["share"]
    for name, share in shares.most_common():
        if share < _MINIMUM:
            continue
        after = (*before, name)
        stop = next((path for path in here if tuple(path["asked"]) == after), None)
        stops, quality = (0.0, None) if stop is None else (stop["share"], stop["quality"])
        yield _Branch(depth, name, share, stops, quality)
        yield from _branches(paths, after)
