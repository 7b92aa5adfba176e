"""Tables of measurements, and their view in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table

__all__ = ["TextTable", "as_view"]


class TextTable(NamedTuple):
    """Rows of text under a title; the first column is aligned left, the others right.

    Attributes:
        title: above the table.
        columns: their headers.
        rows: one text for each column.
        note: below the table.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]]
    note: str = ""


def as_view(tables: Iterable[TextTable]) -> Group:
    """The tables with their notes, as rich renders them in a terminal."""
    parts: list[Any] = []
    for each in tables:
        table = Table(title=each.title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for index, column in enumerate(each.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in each.rows:
            table.add_row(*row)
        parts += ["", table, *([each.note] if each.note else [])]
    return Group(*parts)
