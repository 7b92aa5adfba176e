"""What memory buys: quality and utility against resident bytes, half of the experts' bytes marked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..problem import Figure, Row

__all__ = ["memory_curve"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 380, 260, 52, 24, 96
_DEEPEST = 0.06  # of utility below the best, that is still drawn
_COLOURS = {
    "cross_entropy": "#2563ab",
    "ppo": "#7c3aed",
    "foresight": "#e16f24",
    "index": "#1a7f37",
    "bonus": "#0a7d8c",
    "pinned": "#cf222e",
    "lru": "#8c959f",
    "lfu": "#57606a",
    "belady": "#bc4c9b",
}
_OTHER = "#8250df"


def memory_curve(summary: Sequence[Row]) -> list[Figure]:
    """One picture of two panels, or none where there is one size of memory alone.

    Args:
        summary: the rows of `results.json`, with `resident_gb` and `resident_share`.
    """
    sizes = sorted({row["resident_gb"] for row in summary})
    if len(sizes) < 2:
        return []
    names = list(dict.fromkeys(row["method"] for row in summary))
    half = [row["resident_gb"] for row in summary if row["resident_share"] == 0.5][:1]
    most = max(row["utility_mean"] for row in summary)
    panels = [
        _panel(summary, names, sizes, half, "quality_mean", "quality", 0.0),
        _panel(summary, names, sizes, half, "utility_mean", "utility", most - _DEEPEST),
    ]
    wide = 2 * (_LEFT + _WIDTH) + _GAP + 20  # the last size is written around its point
    high = _TOP + _HEIGHT + 40 + 18 * -(-len(names) // 6)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" role="img">'
        "<title>Quality and utility against resident bytes</title>"
    ]
    for place, panel in enumerate(panels):
        parts.append(f'<g transform="translate({place * (_LEFT + _WIDTH + _GAP)} 0)">{panel}</g>')
    for place, name in enumerate(names):
        x, y = 150 * (place % 6), _TOP + _HEIGHT + 56 + 18 * (place // 6)
        parts.append(
            f'<path d="M{x} {y - 4}h18" stroke="{_COLOURS.get(name, _OTHER)}" stroke-width="3"/>'
            f'<text x="{x + 24}" y="{y}">{escape(name)}</text>'
        )
    note = (
        "GPU memory in GB against mean quality of the answers, and against utility, which takes off compute "
        "and waiting; means of the seeds on test. The dashed line: half of the experts' bytes are resident. "
        f"Utilities more than {_DEEPEST:g} below the best are cut off."
    )
    return [Figure("What memory buys", note, "".join([*parts, "</svg>"]))]


def _panel(
    summary: Sequence[Row],
    names: Sequence[str],
    sizes: Sequence[float],
    half: Sequence[float],
    field: str,
    title: str,
    floor: float,
) -> str:
    """Axes and a line for each method; what lies below `floor` is clipped."""
    found = [max(row[field], floor) for row in summary]
    low, high = min(found), max(found)
    margin = 0.06 * (high - low) or 0.01
    low, high = low - margin, high + margin
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT

    def x(size: float) -> float:
        return _LEFT + _WIDTH * (size - sizes[0]) / (sizes[-1] - sizes[0])

    def y(value: float) -> float:
        return bottom - _HEIGHT * (value - low) / (high - low)

    parts = [f'<text x="{_LEFT}" y="14" style="font-weight:bold">{title}</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        parts.append(
            f'<path d="M{_LEFT} {y(value):.1f}H{right}" stroke="#8884"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        )
    for size in sizes:
        parts.append(f'<text x="{x(size):.1f}" y="{bottom + 18}" text-anchor="middle">{size:.3g}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 34}" text-anchor="end">GB resident</text>')
    for size in half:
        parts.append(
            f'<path d="M{x(size):.1f} {_TOP}V{bottom}" stroke="currentColor" stroke-dasharray="5 4"/>'
            f'<text x="{x(size) + 5:.1f}" y="{_TOP + 12}">half</text>'
        )
    parts.append(f'<svg x="0" y="{_TOP}" width="{right + 5}" height="{_HEIGHT}" overflow="hidden">')
    for name in names:
        rows = sorted((row for row in summary if row["method"] == name), key=lambda row: row["resident_gb"])
        line = " ".join(f"{x(row['resident_gb']):.1f},{y(row[field]) - _TOP:.1f}" for row in rows)
        colour, wide = _COLOURS.get(name, _OTHER), 3 if rows[0]["family"] == "rl" else 1.5
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{wide}"/>')
        for row in rows:
            at = f'cx="{x(row["resident_gb"]):.1f}" cy="{y(row[field]) - _TOP:.1f}"'
            told = f"{escape(name)}, {row['resident_gb']:.3g} GB: {row[field]:.4f}"
            parts.append(f'<circle {at} r="3.5" fill="{colour}"><title>{told}</title></circle>')
    return "".join([*parts, "</svg>"])
