"""Draw quality against compute as inline SVG, coloured by the page's style sheet.

Drawn by hand and not with a plotting library, for three reasons: the page's light and dark colours reach
every mark, the same figure is laid out twice (laptop, phone) with text at its true size, and equal input
gives equal bytes on every machine. Every text that comes from outside is escaped here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .report_series import SHAPES, Mean, Point, Series

__all__ = ["FrontierFigure", "frontier_figure", "shortened"]

Box = tuple[float, float, float, float]  # left, top, right, bottom, in SVG units

WIDE = (560, 430)
NARROW = (358, 360)
MOST_EXPERT_LABELS = 24
MOST_METHODS_FOR_CROSSING = 14  # with more, a name on top of the lines is clutter
WIDEST_LETTER = 7.1  # mean letter of a wide 12 px system font, in SVG units


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierFigure:
    """Quality against compute: everything, and a close-up of the learned routers; each in two layouts."""

    context_wide: str
    context_narrow: str
    close_wide: str
    close_narrow: str
    outside_close_up: int


def frontier_figure(
    series: Sequence[Series],
    singles: Sequence[dict[str, Any]],
    zero_frontier: Sequence[Sequence[float]],
    across: str = "compute (1 = the most expensive expert)",
) -> FrontierFigure | None:
    """The figure of quality against compute, or None where there is nothing to draw.

    Args:
        series: the methods, see `series_of`.
        singles: every single expert: {"expert", "compute", "quality"}.
        zero_frontier: (compute, quality) of the upper hull of the single experts.
        across: what the horizontal axis shows.
    """
    experts = [
        (single["expert"], (single["compute"], single["quality"]))
        for single in singles
        if single["compute"] is not None and single["quality"] is not None
    ]
    hull = [(compute, quality) for compute, quality in zero_frontier]
    everything = [at for _, at in experts] + hull + [mean.at for one in series for mean in one.means]
    if not everything:
        return None
    leading = [one for one in series if one.leading]
    learned = [one for one in leading if one.family in ("rl", "gate") and one.means]
    closest = [mean.at for one in learned for mean in one.means]
    whole = (_padded([x for x, _ in everything], 0.05, floor=0.0), _padded([y for _, y in everything], 0.08))
    near = whole
    if closest:
        near = (
            _padded(_fenced([x for x, _ in closest]), 0.12),
            _padded(_fenced([y for _, y in closest]), 0.2, minimum=_half_interval(learned)),
        )
    outside = [
        at for at in closest if not (near[0][0] <= at[0] <= near[0][1] and near[1][0] <= at[1] <= near[1][1])
    ]

    crossing = len(leading) <= MOST_METHODS_FOR_CROSSING
    # Names of the others are hidden until they are ticked, so they take what room is left.
    by_importance = leading + [one for one in series if not one.leading]

    def context(size: tuple[int, int]) -> str:
        chart = _Chart(size, *whole, across)
        chart.line(hull, "zero")
        if closest:
            chart.frame(*near)
        for name, at in experts:
            chart.mark(
                at, "expert", SHAPES[0], f"single expert {name}: quality {at[1]:.3f}, compute {at[0]:.3f}"
            )
        _draw(chart, series)
        for one in by_importance:
            if one.family not in ("rl", "gate") or not closest:
                chart.label([mean.at for mean in one.means], one.name, one.css, crossing)
        labelled = experts if len(experts) <= MOST_EXPERT_LABELS else [e for e in experts if e[1] in hull]
        for name, at in sorted(labelled, key=lambda expert: -expert[1][1]):
            chart.label([at], name, "expert", crossing)
        return chart.svg("Quality against compute: single experts, zero router, bounds and every method.")

    def close(size: tuple[int, int]) -> str:
        if not closest:
            return ""
        chart = _Chart(size, *near, across)
        chart.line(hull, "zero")
        _draw(chart, series)
        for one in learned + [one for one in by_importance if one not in learned]:
            chart.label([mean.at for mean in reversed(one.means)], one.name, one.css, crossing)
        return chart.svg(
            "Close-up of quality against compute around the learned routers, with 95% intervals."
        )

    return FrontierFigure(
        context_wide=context(WIDE),
        context_narrow=context(NARROW),
        close_wide=close(WIDE),
        close_narrow=close(NARROW),
        outside_close_up=len(outside),
    )


def _draw(chart: _Chart, series: Iterable[Series]) -> None:
    """Draw the methods: baselines and bounds first, so that the learned routers lie on top."""
    order = {"baseline": 0, "bound": 1, "gate": 2, "rl": 3}
    layers = sorted(series, key=lambda one: order.get(one.family, 0))
    for one in layers:
        chart.line([mean.at for mean in one.means], one.css)
        for mean in one.means:
            chart.bars(mean, one.css)
    for one in layers:
        for mean in one.means:
            words = f"{one.name}, {mean.case}: quality {mean.quality:.3f}, compute {mean.compute:.3f}"
            chart.mark(mean.at, one.css, one.shape, words)


class _Chart:
    """An SVG with two axes. Labels go where they cover neither marks nor each other, or nowhere."""

    def __init__(self, size: tuple[int, int], x_range: Point, y_range: Point, across: str) -> None:
        self.across = across
        self.width, self.height = size
        self.x_range, self.y_range = x_range, y_range
        self.left, self.top = 48.0, 26.0
        self.right, self.bottom = self.width - 10.0, self.height - 42.0
        self.longest_label = 24 if self.width > 400 else 16
        self.parts: list[str] = []
        self.labels: list[str] = []
        self.taken: list[Box] = []
        self.written: list[Box] = []
        self.crossed: list[Box] = []  # lines: a label may cross one, but rather not

    def place(self, at: Point) -> Point:
        """Return where a point of the data lies in the SVG."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        x = self.left + (at[0] - x0) / (x1 - x0) * (self.right - self.left)
        y = self.bottom - (at[1] - y0) / (y1 - y0) * (self.bottom - self.top)
        return x, y

    def line(self, points: Sequence[Point], css: str) -> None:
        placed = [self.place(at) for at in points]
        if len(placed) < 2:
            return
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        self.parts.append(f'<path class="line {css}" d="M{path}"/>')
        for (x0, y0), (x1, y1) in itertools.pairwise(placed):
            steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / 6))
            if steps < 1000:  # a segment far longer than the chart is one that a close-up cuts off
                middle = [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1)]
                self.crossed += [(x - 2, y - 2, x + 2, y + 2) for x, y in middle]

    def bars(self, mean: Mean, css: str) -> None:
        x, y = self.place(mean.at)
        if mean.quality_ci95 is not None:
            low, high = (self.place((mean.compute, quality))[1] for quality in mean.quality_ci95)
            self.parts.append(f'<path class="bar {css}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        if mean.compute_ci95 is not None:
            low, high = (self.place((compute, mean.quality))[0] for compute in mean.compute_ci95)
            self.parts.append(f'<path class="bar {css}" d="M{low:.1f} {y:.1f}H{high:.1f}"/>')

    def mark(self, at: Point, css: str, shape: str, tooltip: str) -> None:
        x, y = self.place(at)
        self.parts.append(
            f'<path class="mark {css}" transform="translate({x:.1f} {y:.1f})" d="{shape}">'
            f"<title>{escape(tooltip)}</title></path>"
        )
        self.taken.append((x - 6, y - 6, x + 6, y + 6))

    def frame(self, x_range: Point, y_range: Point) -> None:
        """Outline the part that the close-up shows, as far as it lies in this chart."""
        left, top = self.place((x_range[0], y_range[1]))
        right, bottom = self.place((x_range[1], y_range[0]))
        left, right = max(left, self.left), min(right, self.right)
        top, bottom = max(top, self.top), min(bottom, self.bottom)
        self.parts.append(
            f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0):.1f}" '
            f'height="{max(bottom - top, 0):.1f}"><title>the close-up</title></rect>'
        )

    def label(self, anchors: Sequence[Point], text: str, css: str, crossing: bool) -> None:
        """Write a name beside the first of its marks that has room; with a leader line if further off.

        Lines are avoided; where that fails, `crossing` allows a name on top of them.
        """
        short = shortened(text, self.longest_label)
        wide, high = WIDEST_LETTER * len(short), 13.0
        inside = [(x, y) for x, y in map(self.place, anchors) if self._holds((x, y, x, y))]
        for obstacles in (self.taken + self.crossed, self.taken)[: 1 + crossing]:
            for gap in (9.0, 22.0, 38.0):
                for x, y in inside:
                    for across, down in _DIRECTIONS:
                        corner_x = x + across * gap + (across - 1) / 2 * wide
                        corner_y = y + down * gap + (down - 1) / 2 * high
                        box = (corner_x, corner_y, corner_x + wide, corner_y + high)
                        free = self._holds(box) and not any(_overlap(box, other) for other in obstacles)
                        if free and not any(_overlap(_between((x, y), box), name) for name in self.written):
                            self._write(box, (x, y), across, short, css, leader=gap > 9.0)
                            return

    def svg(self, label: str) -> str:
        """Return the chart: axes beneath, marks cut off at the frame, labels on top."""
        width, height = self.right - self.left, self.bottom - self.top
        inner = f"{self.left:g} {self.top:g} {width:g} {height:g}"
        return (
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img"'
            f' aria-label="{escape(label)}">{self._axes()}'
            f'<svg x="{self.left:g}" y="{self.top:g}" width="{width:g}" height="{height:g}"'
            f' viewBox="{inner}">{"".join(self.parts)}</svg>{"".join(self.labels)}</svg>'
        )

    def _axes(self) -> str:
        parts: list[str] = []
        ticks, digits = _ticks(*self.x_range, 6 if self.width < 400 else 7)
        for value in ticks:
            x, _ = self.place((value, self.y_range[0]))
            parts.append(f'<path class="grid" d="M{x:.1f} {self.top:g}V{self.bottom:g}"/>')
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{self.bottom + 16:g}" text-anchor="middle">'
                f"{value:.{digits}f}</text>"
            )
        ticks, digits = _ticks(*self.y_range, 6)
        for value in ticks:
            _, y = self.place((self.x_range[0], value))
            parts.append(f'<path class="grid" d="M{self.left:g} {y:.1f}H{self.right:g}"/>')
            parts.append(
                f'<text class="tick" x="{self.left - 6:g}" y="{y + 4:.1f}" text-anchor="end">'
                f"{value:.{digits}f}</text>"
            )
        middle = (self.left + self.right) / 2
        parts.append(f'<path class="axis" d="M{self.left:g} {self.bottom:g}H{self.right:g}"/>')
        parts.append(
            f'<text class="axis-name" x="{middle:g}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(self.across)} →</text>"
        )
        parts.append('<text class="axis-name" x="4" y="14">↑ quality</text>')
        return "".join(parts)

    def _holds(self, box: Box) -> bool:
        return (
            self.left - 1 <= box[0]
            and self.top - 1 <= box[1]
            and box[2] <= self.right + 1
            and box[3] <= self.bottom + 1
        )

    def _write(self, box: Box, anchor: Point, across: int, text: str, css: str, *, leader: bool) -> None:
        if leader:
            x, y = _nearest(anchor, box)
            line = f"M{anchor[0]:.1f} {anchor[1]:.1f}L{x:.1f} {y:.1f}"
            self.labels.append(f'<path class="leader {css}" d="{line}"/>')
        start, x = {1: ("start", box[0]), -1: ("end", box[2])}.get(across, ("middle", (box[0] + box[2]) / 2))
        self.labels.append(
            f'<text class="name {css}" x="{x:.1f}" y="{box[3] - 3:.1f}" text-anchor="{start}">'
            f"{escape(text)}</text>"
        )
        self.taken.append(box)
        self.written.append(box)


_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))


def _nearest(at: Point, box: Box) -> Point:
    return min(max(at[0], box[0]), box[2]), min(max(at[1], box[1]), box[3])


def _between(at: Point, box: Box) -> Box:
    """Return the box around a leader line: no other name may lie in it."""
    x, y = _nearest(at, box)
    return min(at[0], x) - 1, min(at[1], y) - 1, max(at[0], x) + 1, max(at[1], y) + 1


def shortened(text: str, longest: int) -> str:
    """Cut the middle out of a long name: what tells names apart is mostly at an end."""
    if len(text) <= longest:
        return text
    head = longest // 2
    return text[:head] + "…" + text[head + 1 - longest :]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _half_interval(series: Iterable[Series]) -> float:
    """Return half the median interval of quality: a close-up should not cut every bar off."""
    widths = sorted(
        high - low for one in series for low, high in (m.quality_ci95 for m in one.means if m.quality_ci95)
    )
    return widths[len(widths) // 2] / 2 if widths else 0.0


def _padded(values: Sequence[float], share: float, floor: float | None = None, minimum: float = 0.0) -> Point:
    """Return the values' range with a margin, never empty, reaching down to `floor` where one is given."""
    low, high = min(values), max(values)
    margin = max(share * (high - low), minimum) or 0.02
    return (low - margin if floor is None else min(floor, low - margin), high + margin)


def _fenced(values: Sequence[float]) -> list[float]:
    """Drop far outliers (three interquartile ranges away): one collapsed router must not end the close-up."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
    reach = 3 * (high - low)
    return [value for value in ordered if low - reach <= value <= high + reach]


def _ticks(low: float, high: float, most: int) -> tuple[list[float], int]:
    """Return at most about `most` round values in a range, and the decimals they need."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [step * i + 0.0 for i in range(first, last + 1)], max(0, -math.floor(math.log10(step) + 1e-9))
