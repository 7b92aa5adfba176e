"""Draw which experts are in GPU memory, and which answers, request after request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["draw"]

_CELL, _ROW, _LETTER = 7, 16, 7.0


def draw(traces: Mapping[str, Mapping[str, Any]]) -> str:
    """The residency of one method as SVG.

    Args:
        traces: the method with its data: `experts`, N names; `resident`, a list [R][N] of 0 or 1 for each
            request; `answered`, the expert's index of each request [R].
    """
    ((_, data),) = traces.items()
    experts, answered = data["experts"], data["answered"]
    left = 16 + _LETTER * max(map(len, experts))
    top = _ROW * len(experts) + 6
    width, height = left + max(_CELL * len(answered), 260), top + 18
    parts = [
        f'<svg class="drawing" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" '
        'role="img" aria-label="Experts in GPU memory, and the expert that answers, over requests">'
    ]
    for expert, name in enumerate(experts):
        y = _ROW * expert
        answers = [at for at, index in enumerate(answered) if index == expert]
        held = [at for at, row in enumerate(data["resident"]) if row[expert] and answered[at] != expert]
        parts += [
            f'<text x="0" y="{y + 12}">{escape(name)}</text>',
            _cells(held, left, y, "light"),
            _cells(answers, left, y, "strong"),
        ]
    parts += [
        f'<rect class="light" x="{left:.0f}" y="{top}" width="12" height="12"/>'
        f'<text x="{left + 16:.0f}" y="{top + 11}">in GPU memory</text>'
        f'<rect class="strong" x="{left + 120:.0f}" y="{top}" width="12" height="12"/>'
        f'<text x="{left + 136:.0f}" y="{top + 11}">answers</text>'
    ]
    return "".join([*parts, "</svg>"])


def _cells(requests: Sequence[int], left: float, top: int, css: str) -> str:
    if not requests:
        return ""
    wide, tall = _CELL - 1, _ROW - 3
    cells = (f"M{left + _CELL * at:.0f} {top + 1}h{wide}v{tall}h-{wide}z" for at in requests)
    return f'<path class="{css}" d="{"".join(cells)}"/>'
