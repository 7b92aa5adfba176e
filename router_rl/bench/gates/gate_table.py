"""The gates' timings as Markdown, and as tables at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group

from ..table_layout import Sheet, as_markdown, as_tables

__all__ = ["gates_markdown", "gates_view"]


def gates_markdown(found: Mapping[str, Any]) -> str:
    """What `bench router` found, as Markdown."""
    return as_markdown(_sheets(found))


def gates_view(found: Mapping[str, Any]) -> Group:
    """What `bench router` found, for a terminal."""
    return as_tables(_sheets(found))


def _sheets(found: Mapping[str, Any]) -> Iterator[Sheet]:
    for threads in found["plan"]["threads"]:
        yield _gates(found, threads)
        yield _dispatch(found, threads)
    yield _goals(found)


def _gates(found: Mapping[str, Any], threads: int) -> Sheet:
    cells = [cell for cell in found["gates"] if cell["threads"] == threads]
    names = [name for name in cells[0]["forms"] if name != "bare"]
    rows: list[Sequence[str]] = [
        (
            cell["model"],
            f"{cell['rows']:,}",
            _microseconds(cell["forms"]["bare"]["microseconds"]),
            *(f"{cell['forms'][name]['ratio']:.2f}" for name in names),
        )
        for cell in cells
    ]
    spread = max(
        timing["quartiles"][1] - timing["quartiles"][0] for cell in cells for timing in cell["forms"].values()
    )
    absent = "".join(f" Not timed: {form} (needs {lacks})." for form, lacks in found["absent"].items())
    note = (
        f"float32, {_threads(threads)}; median of {found['plan']['rounds']} rounds, each form compared with "
        f"the bare one of the same round; quartiles are at most {spread:.2f} apart. bare: nn.Linear and "
        f"torch.topk. module: Gate, run by torch; aoti: compiled. Below 1 is faster than bare.{absent}"
    )
    title = f"Time over bare linear + topk, {_threads(threads)}"
    return Sheet(title, ("model", "rows", "bare, µs", *names), rows, note)


def _dispatch(found: Mapping[str, Any], threads: int) -> Sheet:
    rows: list[Sequence[str]] = [
        (
            cell["model"],
            f"{cell['rows']:,}",
            _microseconds(cell["mask"]["microseconds"]),
            _microseconds(cell["sorted"]["microseconds"]),
            f"{1 / cell['sorted']['ratio']:.1f}",
        )
        for cell in found["dispatch"]
        if cell["threads"] == threads
    ]
    note = (
        "Rows to their experts and back, weighted; an expert multiplies by a number, so that the moving is "
        "timed."
    )
    columns = ("model", "rows", "mask an expert, µs", "sorted, µs", "times faster")
    return Sheet(f"Dispatch, {_threads(threads)}", columns, rows, note)


def _goals(found: Mapping[str, Any]) -> Sheet:
    rows: list[Sequence[str]] = [
        (
            goal["goal"],
            f"≤ {goal['limit']:g}",
            f"{goal['met_at']} of {goal['cells']}",
            f"{goal['worst']:.2f} ({goal['at']})",
        )
        for goal in found["goals"]
    ]
    return Sheet("Goals", ("ratio", "goal", "met at", "worst"), rows)


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
