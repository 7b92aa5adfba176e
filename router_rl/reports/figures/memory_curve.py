"""Draw what memory buys: quality and utility against the bytes that are resident in GPU memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..report_series import Series, series_of

__all__ = ["draw"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 380, 260, 60, 24, 84
_DEEPEST = 0.06  # utility below the best that is still drawn
_KEYS = 5  # names in a line of the key

Row = Mapping[str, Any]


def draw(summary: Sequence[Row]) -> str:
    """Two panels as SVG; an empty string where only one size of memory was compared.

    Args:
        summary: of `results.json`; its cases have `resident_gb`, and `resident_share` of the experts' bytes.
    """
    sizes = sorted({row["resident_gb"] for row in summary})
    if len(sizes) < 2:
        return ""
    looks = series_of([dict(row) for row in summary])
    half = [row["resident_gb"] for row in summary if row.get("resident_share") == 0.5][:1]
    top = max(row["utility_mean"] for row in summary)
    panels = [
        _panel(summary, looks, sizes, half, "quality", 0.0),
        _panel(summary, looks, sizes, half, "utility", top - _DEEPEST),
    ]
    width = 2 * (_LEFT + _WIDTH) + _GAP + 20  # the last size is written around its point
    height = _TOP + _HEIGHT + 46 + 20 * -(-len(looks) // _KEYS)
    parts = [
        f'<svg class="drawing" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'aria-label="Quality and utility against resident bytes">'
    ]
    for place, panel in enumerate(panels):
        parts.append(f'<g transform="translate({place * (_LEFT + _WIDTH + _GAP)} 0)">{panel}</g>')
    for place, one in enumerate(looks):
        x, y = 180 * (place % _KEYS) + 10, _TOP + _HEIGHT + 58 + 20 * (place // _KEYS)
        parts.append(
            f'<path class="mark {one.css}" transform="translate({x} {y - 4})" d="{one.shape}"/>'
            f'<text x="{x + 12}" y="{y}">{escape(one.name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _panel(
    summary: Sequence[Row],
    looks: Sequence[Series],
    sizes: Sequence[float],
    half: Sequence[float],
    name: str,
    floor: float,
) -> str:
    """Axes and a line for each method; what lies below `floor` is clipped."""
    field = f"{name}_mean"
    values = [max(row[field], floor) for row in summary]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.01
    low, high = low - margin, high + margin
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT

    def x(size: float) -> float:
        return _LEFT + _WIDTH * (size - sizes[0]) / (sizes[-1] - sizes[0])

    def y(value: float) -> float:
        return bottom - _HEIGHT * (value - low) / (high - low)

    parts = [f'<text class="heading" x="{_LEFT}" y="14">{name}</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        parts.append(
            f'<path class="rule" d="M{_LEFT} {y(value):.1f}H{right}"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        )
    for size in sizes:
        parts.append(f'<text x="{x(size):.1f}" y="{bottom + 18}" text-anchor="middle">{size:.3g}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 34}" text-anchor="end">GB resident →</text>')
    for size in half:
        parts.append(
            f'<path class="half" d="M{x(size):.1f} {_TOP}V{bottom}"/>'
            f'<text x="{x(size) + 5:.1f}" y="{_TOP + 12}">half</text>'
        )
    parts.append(f'<svg x="0" y="{_TOP}" width="{right + 8}" height="{_HEIGHT}" overflow="hidden">')
    for one in looks:
        rows = sorted((row for row in summary if row["method"] == one.name), key=lambda r: r["resident_gb"])
        points = [(x(row["resident_gb"]), y(row[field]) - _TOP) for row in rows]
        path = "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
        parts.append(f'<path class="line {one.css}" d="M{path}"/>')
        for row, (across, down) in zip(rows, points, strict=True):
            words = f"{escape(one.name)}, {row['resident_gb']:.3g} GB: {name} {row[field]:.4f}"
            parts.append(
                f'<path class="mark {one.css}" transform="translate({across:.1f} {down:.1f})" '
                f'd="{one.shape}"><title>{words}</title></path>'
            )
    return "".join([*parts, "</svg>"])
