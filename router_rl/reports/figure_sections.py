"""The figures of a comparison as sections of the report, drawn; forms that are unknown become a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from .figures.registry import SUMMARY_FORMS, TOGETHER, find_drawing
from .results_table import columns_of

__all__ = ["FigureSection", "figure_sections"]

_FIRST_AND_LAST = {"rl": 0, "bound": 2}  # in the order of figures
_OPEN = 4  # drawings of a section that are shown without a click


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureSection:
    """Drawings of one form and title.

    Attributes:
        title: the heading.
        note: how to read them.
        shown: the method (None: several in one picture) and the SVG of each drawing, whose text is escaped.
        more: those that are shown after a click.
    """

    title: str
    note: str
    shown: Sequence[tuple[str | None, Markup]]
    more: Sequence[tuple[str | None, Markup]] = ()


def figure_sections(results: Mapping[str, Any]) -> tuple[list[FigureSection], list[str]]:
    """Every section with a drawing, and a sentence for every form that cannot be drawn.

    Args:
        results: the content of `results.json`, schema 2.
    """
    sections = _of_summary(results)
    order = _method_order(results["summary"])
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for figure in results.get("figures") or []:
        groups.setdefault((figure["form"], figure["title"]), []).append(figure)
    unknown: dict[str, list[str]] = {}
    for (form, title), figures in groups.items():
        figures = sorted(figures, key=lambda figure: order.get(figure["method"], len(order)))
        draw = find_drawing(form)
        if draw is None:
            unknown.setdefault(form, []).extend(figure["method"] for figure in figures)
            continue
        traces = {figure["method"]: figure["data"] for figure in figures}
        drawings: list[tuple[str | None, str]]
        if form in TOGETHER:
            drawings = [(None, draw(traces))]
        else:
            drawings = [(method, draw({method: data})) for method, data in traces.items()]
        drawings = [(method, svg) for method, svg in drawings if svg]
        if drawings:
            sections.append(_section(title, figures[0]["note"], drawings))
    sentences = [
        f"This release cannot draw figures of the form {form!r} ({', '.join(dict.fromkeys(methods))}); their "
        "data is in results.json."
        for form, methods in unknown.items()
    ]
    return sections, sentences


def _section(title: str, note: str, drawings: Sequence[tuple[str | None, str]]) -> FigureSection:
    safe = [(method, Markup(svg)) for method, svg in drawings]
    return FigureSection(title=title, note=note, shown=safe[:_OPEN], more=safe[_OPEN:])


def _of_summary(results: Mapping[str, Any]) -> list[FigureSection]:
    """Drawings that need only the summary."""
    sections: list[FigureSection] = []
    names = {column.name for column in columns_of(results)}
    for value, (form, title, note) in SUMMARY_FORMS.items():
        rows = [row for row in results["summary"] if row.get(value) is not None]
        draw = find_drawing(form)
        if draw is None or not rows or "quality" not in names:
            continue
        svg = draw(rows)
        if svg:
            sections.append(_section(title, note, [(None, svg)]))
    return sections


def _method_order(summary: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Each method's place: RL first, bounds last, and otherwise by falling mean utility."""
    utility: dict[str, list[float]] = {}
    family: dict[str, str] = {}
    for row in summary:
        utility.setdefault(row["method"], []).append(row["utility_mean"] or 0.0)
        family[row["method"]] = row["family"]

    def key(method: str) -> tuple[int, float]:
        return _FIRST_AND_LAST.get(family[method], 1), -fmean(utility[method])

    return {method: place for place, method in enumerate(sorted(utility, key=key))}
