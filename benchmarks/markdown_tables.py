"""Tables of measurements as Markdown, as the documents hold them."""

from __future__ import annotations

from collections.abc import Iterable

from router_rl.bench.table_layout import TextTable

__all__ = ["as_markdown"]


def as_markdown(tables: Iterable[TextTable]) -> str:
    """The tables as Markdown, each under its title and above its note."""
    lines: list[str] = []
    for table in tables:
        lines += [f"### {table.title}", ""]
        lines += [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += ["", *([table.note, ""] if table.note else [])]
    return "\n".join(lines)
