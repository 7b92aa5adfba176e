"""Charts of quality against cost: all methods and single experts, and a close-up of the learned routers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from .chart_theme import colour
from .drawing import Drawing, drawing, values
from .frontier_points import Span, close_up, expert_points, method_points, padded
from .number_format import amount
from .report_series import Series
from .results_table import CostUnit, cost_unit_of

__all__ = ["cost_axis", "frontier_drawings"]

_HEIGHT = 400
_LOG_FROM = 20.0  # ratio of the largest to the smallest cost from which the axis is logarithmic
_COMPUTE = CostUnit(label="compute (1 = most expensive expert)", short="compute", per_compute=1.0)
_SHOWN = "!datum.method || indexof(shown, datum.method) >= 0"
_WHEEL = "wheel![event.shiftKey]"  # without a key, the page scrolls
_MOUSE = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"


def frontier_drawings(results: Mapping[str, Any], series: Sequence[Series]) -> list[Drawing]:
    """The charts; none where no point is known.

    Args:
        results: the content of `results.json`, schema 2.
        series: the methods, see `series_of`.
    """
    unit = cost_unit_of(results) or _COMPUTE
    hull = [(unit.per_compute * x, y) for x, y in results.get("zero_frontier") or []]
    learned = [one.name for one in series if one.family in ("rl", "gate") and one.rows and one.leading]
    experts = list(expert_points(results.get("singles") or [], hull, unit))
    methods = [point for one in series for point in method_points(one, unit)]
    points = sorted(experts + methods, key=lambda point: -point["rank"])
    if not points and not hull:
        return []
    closest = [point for point in methods if point["method"] in learned]
    near = close_up(closest) if closest else None
    shown = [one.name for one in series if one.leading]
    title = "All methods and single experts" if experts else "All methods"
    charts = [_drawing(points, hull, shown, unit, title, frame=near, unnamed=learned if near else ())]
    if near is not None:
        others = [one.name for one in series if one.name not in learned]
        title = "Close-up of the learned routers"
        charts.append(_drawing(points, hull, shown, unit, title, within=near, unnamed=others))
    return charts


def cost_axis(costs: Sequence[float], title: str, domain: Span | None = None) -> alt.X:
    """A horizontal axis of costs in the field `cost`, logarithmic where they differ much.

    Args:
        costs: at least one.
        title: with the unit; ` (log scale)` is added on a logarithmic axis.
        domain: the two ends; None for all costs.
    """
    if min(costs) > 0 and max(costs) / min(costs) >= _LOG_FROM:
        low, high = domain or (min(costs) / 1.3, max(costs) * 1.3)
        scale = alt.Scale(type="log", domain=[max(low, min(costs) / 1.3), high], nice=False)
        title += " (log scale)"
    else:
        scale = alt.Scale(domain=list(domain or (0.0, 1.08 * max(costs) or 1.0)), nice=False)
    return alt.X(
        "cost:Q", scale=scale, title=title, axis=alt.Axis(format="~s" if max(costs) >= 1e4 else "~g")
    )


def _drawing(
    points: Sequence[dict[str, Any]],
    hull: Sequence[Span],
    shown: Sequence[str],
    unit: CostUnit,
    title: str,
    *,
    frame: tuple[Span, Span] | None = None,
    within: tuple[Span, Span] | None = None,
    unnamed: Sequence[str] = (),
) -> Drawing:
    """One chart.

    Args:
        points: the methods' cases and the experts, in the order in which names take their places.
        hull: the zero router's points.
        shown: methods that are shown from the start.
        unit: of the costs.
        title: heading.
        frame: a part to outline, as its horizontal and its vertical span.
        within: the part to show; None shows all.
        unnamed: methods without a name beside their marks.
    """
    short = unit.label if unit is _COMPUTE else f"{unit.label}; compute 1 = {amount(unit.per_compute)}"
    costs = [point["cost"] for point in points] + [x for x, _ in hull]
    qualities = [point["quality"] for point in points] + [y for _, y in hull]
    domain = alt.Scale(domain=list(padded(qualities, 0.08) if within is None else within[1]), nice=False)
    across = cost_axis(costs, short, None if within is None else within[0])
    up = alt.Y("quality:Q", scale=domain, title="quality")
    rows = [point | {"label": ""} if point.get("method") in unnamed else point for point in points]
    layers = [*_beneath(hull, frame, across, up), *_marks(rows, unit, across, up)]
    chart: Any = alt.layer(*layers).add_params(alt.param(name="shown", value=list(shown)))
    columns = {"name": "Router", "case": "Case", "quality_text": "Quality"}
    columns |= {} if unit is _COMPUTE else {"cost_text": unit.label}
    columns["compute_text"] = "Compute"
    cells = [[row[name] for name in columns] for row in rows]
    description = f"{title}: quality against {unit.label}. The table below has the numbers."
    return drawing(chart, description, list(columns.values()), cells, title=title, height=_HEIGHT, keyed=True)


def _beneath(
    hull: Sequence[Span], frame: tuple[Span, Span] | None, across: alt.X, up: alt.Y
) -> Iterator[alt.Chart]:
    """The zero router's line and the outline of the close-up."""
    if hull:
        zero = alt.Chart(values([{"cost": x, "quality": y} for x, y in hull]))
        yield zero.mark_line(color=colour("soft"), strokeDash=[5, 4], clip=True).encode(x=across, y=up)
    if frame is not None:
        (left, right), (low, high) = frame
        box = alt.Chart(values([{"cost": left, "right": right, "quality": low, "high": high}]))
        outline = box.mark_rect(fill=None, stroke=colour("soft"), strokeDash=[1, 3], clip=True)
        yield outline.encode(x=across, x2="right:Q", y=up, y2="high:Q")


def _marks(
    rows: Sequence[Mapping[str, Any]], unit: CostUnit, across: alt.X, up: alt.Y
) -> Iterator[alt.Chart]:
    """Lines, intervals, points and names."""
    base = alt.Chart(values(rows)).encode(x=across, y=up)
    ticked = base.transform_filter(f"datum.method && ({_SHOWN})").encode(color=alt.Color("ink:N", scale=None))
    yield ticked.mark_line(clip=True, strokeWidth=1.6).encode(detail="method:N", order="compute:Q")
    bars = ticked.mark_rule(clip=True, opacity=0.5)
    if any(row.get("quality_low") is not None for row in rows):
        yield bars.encode(y="quality_low:Q", y2="quality_high:Q")
    if any(row.get("cost_low") is not None for row in rows):
        yield bars.encode(x="cost_low:Q", x2="cost_high:Q")
    points = base.mark_point(clip=True, size=64, filled=True, strokeWidth=1.2).encode(
        fill=alt.Fill("fill:N", scale=None),
        stroke=alt.Stroke("edge:N", scale=None),
        shape=alt.Shape("shape:N", scale=None),
        opacity=alt.condition(_SHOWN, alt.value(1), alt.value(0.2)),
        description="words:N",
        tooltip=[
            alt.Tooltip("name:N", title="router"),
            alt.Tooltip("case:N", title="case"),
            alt.Tooltip("quality_text:N", title="quality"),
            alt.Tooltip("cost_text:N", title=unit.label),
            alt.Tooltip("compute_text:N", title="compute"),
        ],
    )
    zoom = alt.selection_interval(name="zoom", bind="scales", zoom=_WHEEL, translate=_MOUSE)
    yield points.add_params(zoom).properties(name="points")
    yield base.mark_text().encode(text="label:N").properties(name="names")
