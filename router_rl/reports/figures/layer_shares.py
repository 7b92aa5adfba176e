"""Draw which expert does the work in each layer of a mixture, and on which text."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["draw"]

_CELL, _GAP, _LINE, _ACROSS, _LETTER = 18, 26, 40, 760, 7.0


def draw(traces: Mapping[str, Mapping[str, Any]]) -> str:
    """The shares of one method as SVG: a block for each layer, rows are texts, columns are experts.

    Args:
        traces: the method with its data: `experts`, N names; `texts`, D names; `layers`, L numbers;
            `shares` [L][D][N], of a text's tokens that an expert takes.
    """
    ((_, data),) = traces.items()
    texts, experts, layers = data["texts"], data["experts"], data["layers"]
    left = 12 + int(_LETTER * max(map(len, texts)))
    block = _CELL * len(experts) + _GAP
    line = _CELL * len(texts) + _LINE
    across = max(1, min(_ACROSS // block, len(layers)))  # blocks in a line
    width, height = left + block * across, line * -(-len(layers) // across)
    parts = [
        f'<svg class="drawing" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'aria-label="Share of each text\'s tokens by layer and expert">'
    ]
    for at, (layer, rows) in enumerate(zip(layers, data["shares"], strict=True)):
        x, y = left + block * (at % across), line * (at // across) + 24
        parts.append(f'<text x="{x}" y="{y - 8}">layer {layer}</text>')
        for row, (text, shares) in enumerate(zip(texts, rows, strict=True)):
            top = y + _CELL * row
            if at % across == 0:
                parts.append(f'<text x="0" y="{top + 13}">{escape(text)}</text>')
            for column, (name, share) in enumerate(zip(experts, shares, strict=True)):
                parts.append(
                    f'<rect class="strong" x="{x + _CELL * column}" y="{top}" width="{_CELL - 1}" '
                    f'height="{_CELL - 1}" fill-opacity="{0.05 + 0.95 * share:.2f}">'
                    f"<title>{escape(text)}, {escape(name)}: {share:.0%}</title></rect>"
                )
    return "".join([*parts, "</svg>"])
