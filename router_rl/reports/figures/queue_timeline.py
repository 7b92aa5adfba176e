"""Draw the queues of one episode over time, a panel for each method, all on the same scale."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["draw"]

_WIDTH, _ROW, _LEFT, _GAP = 720, 26, 190, 14
_MOST = 4  # methods drawn
_LONGEST = 26  # letters of an expert's name

Moments = Sequence[Mapping[str, Any]]


def draw(traces: Mapping[str, Mapping[str, Any]]) -> str:
    """The first methods' queues as SVG.

    Args:
        traces: each method with its data: `experts`, their names, and `seen`, what each arrival found:
            {"second", "jobs": requests at each expert, "down": bool for each expert}.
    """
    panels = list(itertools.islice(traces.items(), _MOST))
    most = max(max(moment["jobs"]) for _, data in panels for moment in data["seen"])
    end = max(data["seen"][-1]["second"] for _, data in panels) or 1.0
    height = sum(_ROW * (len(data["experts"]) + 1) + _GAP for _, data in panels) + 24
    width = _LEFT + _WIDTH + 10
    parts = [
        f'<svg class="drawing" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="Queues over time; a row is {most:g} requests high">'
    ]
    top = 0
    for method, data in panels:
        parts.append(f'<text class="heading" x="0" y="{top + 18}">{escape(method)}</text>')
        top += _ROW
        for expert, name in enumerate(data["experts"]):
            parts.append(_lane(data["seen"], expert, name, top, most, end))
            top += _ROW
        top += _GAP
    parts.append(
        f'<text x="0" y="{top + 10}">a row is {most:g} requests high</text>'
        f'<text x="{_LEFT}" y="{top + 10}">0 s</text>'
        f'<text x="{_LEFT + _WIDTH}" y="{top + 10}" text-anchor="end">{_seconds(end)}</text></svg>'
    )
    return "".join(parts)


def _seconds(value: float) -> str:
    """A time in at least three figures, without an exponent where it is long.

    >>> _seconds(1394.2), _seconds(0.00123)
    ('1,394 s', '0.00123 s')
    """
    return f"{value:,.0f} s" if value >= 100.0 else f"{value:.3g} s"


def _lane(moments: Moments, expert: int, name: str, top: int, most: float, end: float) -> str:
    """One expert's row: a filled step line, and a grey block while it is down."""
    floor, tall = top + _ROW - 4, _ROW - 6
    path, last = [f"M{_LEFT} {floor}"], float(floor)
    down: list[str] = []
    for place, moment in enumerate(moments):
        x = _LEFT + _WIDTH * moment["second"] / end
        y = floor - tall * moment["jobs"][expert] / max(most, 1.0)
        if y != last:
            path.append(f"H{x:.1f}V{y:.1f}")
            last = y
        if moment["down"][expert] and place + 1 < len(moments):
            wide = _WIDTH * (moments[place + 1]["second"] - moment["second"]) / end
            down.append(f"M{x:.1f} {top}h{wide:.1f}v{_ROW - 4}h-{wide:.1f}z")
    path.append(f"H{_LEFT + _WIDTH}V{floor}Z")
    short = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    parts = [f'<text x="{_LEFT - 8}" y="{floor - 4}" text-anchor="end">{escape(short)}</text>']
    if down:
        parts.append(f'<path class="down" d="{"".join(down)}"/>')
    parts.append(f'<path class="area" d="{"".join(path)}"/>')
    parts.append(f'<path class="rule" d="M{_LEFT} {floor}H{_LEFT + _WIDTH}"/>')
    return "".join(parts)
