"""A table of measurements, printed as Markdown or at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table

__all__ = ["Sheet", "as_markdown", "as_tables"]


class Sheet(NamedTuple):
    """Rows of text under a title, the first column to the left and the rest to the right."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]]
    note: str = ""


def as_markdown(sheets: Iterable[Sheet]) -> str:
    """The sheets as Markdown."""
    lines: list[str] = []
    for sheet in sheets:
        lines += [f"### {sheet.title}", ""]
        lines += [f"| {' | '.join(sheet.columns)} |", f"|{'---|' * len(sheet.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in sheet.rows]
        lines += ["", *([sheet.note, ""] if sheet.note else [])]
    return "\n".join(lines)


def as_tables(sheets: Iterable[Sheet]) -> Group:
    """The sheets for a terminal."""
    shown: list[Any] = []
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for index, column in enumerate(sheet.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in sheet.rows:
            table.add_row(*row)
        shown += ["", table, *([sheet.note] if sheet.note else [])]
    return Group(*shown)
