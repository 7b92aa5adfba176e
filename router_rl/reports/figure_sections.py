"""Sections of the report with the figures of a comparison; an unknown form of figure becomes a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .drawing import Drawing
from .figures.registry import SUMMARY_FORMS, find_drawing
from .report_series import Series
from .results_table import columns_of

__all__ = ["FigureSection", "figure_sections", "method_order"]

_FIRST_AND_LAST = {"rl": 0, "bound": 2}  # in the order of figures


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureSection:
    """Charts of one form and title.

    Attributes:
        title: the heading.
        note: how to read them.
        drawings: the charts, at least one.
        methods: those in the charts, for the key.
    """

    title: str
    note: str
    drawings: Sequence[Drawing]
    methods: Sequence[str]


def figure_sections(
    results: Mapping[str, Any], series: Sequence[Series]
) -> tuple[list[FigureSection], list[str]]:
    """Every section with a chart, and a sentence for every form that cannot be drawn.

    Args:
        results: the content of `results.json`, schema 2.
        series: the methods' colours and shapes, of `series_of`.
    """
    looks = {one.name: one for one in series}
    sections = _of_summary(results, looks)
    order = method_order(results["summary"])
    places = {method: place for place, method in enumerate(order)}
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for figure in results.get("figures") or []:
        groups.setdefault((figure["form"], figure["title"]), []).append(figure)
    unknown: dict[str, list[str]] = {}
    for (form, title), figures in groups.items():
        figures = sorted(figures, key=lambda figure: places.get(figure["method"], len(order)))
        draw = find_drawing(form)
        if draw is None:
            unknown.setdefault(form, []).extend(figure["method"] for figure in figures)
            continue
        traces = {figure["method"]: figure["data"] for figure in figures}
        sections += _section(title, figures[0]["note"], draw(traces, looks), list(traces))
    sentences = [
        f"This release cannot draw figures of the form {form!r} ({', '.join(dict.fromkeys(methods))}); their "
        "data is in results.json."
        for form, methods in unknown.items()
    ]
    return sections, sentences


def _section(
    title: str, note: str, drawings: Sequence[Drawing], methods: Sequence[str]
) -> list[FigureSection]:
    section = FigureSection(title=title, note=note, drawings=drawings, methods=methods)
    return [section] if drawings else []


def _of_summary(results: Mapping[str, Any], looks: Mapping[str, Series]) -> list[FigureSection]:
    """Charts that need only the summary."""
    sections: list[FigureSection] = []
    names = {column.name for column in columns_of(results)}
    for value, (form, title, note) in SUMMARY_FORMS.items():
        rows = [row for row in results["summary"] if row.get(value) is not None]
        draw = find_drawing(form)
        if draw is not None and rows and "quality" in names:
            methods = list(dict.fromkeys(row["method"] for row in rows))
            sections += _section(title, note, draw(rows, looks), methods)
    return sections


def method_order(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """The methods: RL first, bounds last, and otherwise by decreasing mean utility.

    Args:
        summary: of `results.json`.
    """
    utility: dict[str, list[float]] = {}
    family: dict[str, str] = {}
    for row in summary:
        utility.setdefault(row["method"], []).append(row["utility_mean"] or 0.0)
        family[row["method"]] = row["family"]

    def key(method: str) -> tuple[int, float]:
        return _FIRST_AND_LAST.get(family[method], 1), -fmean(utility[method])

    return sorted(utility, key=key)
