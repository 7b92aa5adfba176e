"""Answers of a new expert to queries of an existing table, as Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io.errors import InputError
from ..table.outcome_table import OutcomeTable
from ..table.parquet import read_columns
from ..table.splitting import canonical

__all__ = ["Probes", "read_probes"]

_FIX = "ask queries of the table; add-expert --suggest writes some"


@dataclass(frozen=True, eq=False, kw_only=True)
class Probes:
    """What a new expert answered.

    Attributes:
        expert: its name.
        rows: [R] int64, distinct rows of the table.
        quality: [R] float64 in [0, 1].
        cost: [R] float64 >= 0, in the table's cost unit.
    """

    expert: str
    rows: np.ndarray
    quality: np.ndarray
    cost: np.ndarray


def read_probes(path: Path, table: OutcomeTable, expert: str | None = None) -> Probes:
    """Read the answers of one new expert.

    The file has the columns of an outcome table: `query_id`, `quality/<expert>`, `cost/<expert>` and
    optionally `prompt`. Columns of the table's own experts are ignored, so a table that `collect` made of the
    new model and an old one will do. A row belongs to the query with its id; if the prompts differ, or the
    table does not have the id, to the query with its prompt.

    Args:
        path: the file.
        table: the table of the existing experts.
        expert: name of the new expert, if the file has several.

    Raises:
        InputError: the file has no new expert or several, a value is out of range, or a row belongs to no
            query of the table.
    """
    columns = read_columns(path, progress=False, field="probes")
    name = _new_expert(path, columns["experts"], table.experts, expert)
    index = columns["experts"].index(name)
    values = {kind: columns[kind][:, index].astype(np.float64) for kind in ("quality", "cost")}
    for kind, highest in (("quality", 1.0), ("cost", np.inf)):
        wrong = np.flatnonzero(
            ~(np.isfinite(values[kind]) & (values[kind] >= 0.0) & (values[kind] <= highest))
        )
        if len(wrong):
            row = int(wrong[0])
            limits = "[0, 1]" if kind == "quality" else "[0, inf)"
            problem = f"{path}: row {row} is missing or outside {limits}"
            raise InputError(
                f"{kind}/{name}", float(values[kind][row]), problem, "correct it or drop the row"
            )
    unit = columns["cost_unit"]
    if "unknown" not in (unit, table.cost_unit) and unit != table.cost_unit:
        problem = f"{path}: is not the unit of the table, {table.cost_unit}"
        raise InputError("cost_unit", unit, problem, "give costs in the table's unit")
    return Probes(expert=name, rows=_rows(path, columns, table), **values)


def _new_expert(path: Path, named: tuple[str, ...], known: tuple[str, ...], wanted: str | None) -> str:
    new = [name for name in named if name not in known]
    if wanted is not None:
        if wanted not in new:
            problem = f"is no new expert of {path}"
            fix = f"use one of {', '.join(new)}" if new else "all of its experts are in the table"
            raise InputError("expert", wanted, problem, fix)
        return wanted
    if len(new) != 1:
        problem = "all of its experts are in the table" if not new else f"has {len(new)} new experts"
        fix = "add quality/<name> and cost/<name>" if not new else f"give --expert, one of {', '.join(new)}"
        raise InputError("probes", str(path), problem, fix)
    return new[0]


def _rows(path: Path, columns: dict[str, Any], table: OutcomeTable) -> np.ndarray:
    """Return the row of the table that each probe belongs to."""
    by_id = {str(name): row for row, name in enumerate(table.query_id)}
    prompts = columns.get("prompt")
    compared = prompts is not None and table.prompt is not None
    texts: list[str] = [] if not compared else [canonical(each) for each in table.prompt]  # type: ignore[union-attr]
    by_prompt: dict[str, int] = {}
    for row, text in enumerate(texts):
        by_prompt.setdefault(text, row)
    rows: dict[int, int] = {}
    for probe, name in enumerate(columns["query_id"]):
        row = by_id.get(str(name))
        if compared and prompts is not None:
            text = canonical(prompts[probe])
            if text and (row is None or texts[row] != text):
                row = by_prompt.get(text)
        if row is None:
            problem = f"{path}: row {probe} is not a query of the table"
            raise InputError("query_id", str(name), problem, _FIX)
        if row in rows:
            problem = f"{path}: rows {rows[row]} and {probe} are the same query"
            raise InputError("query_id", str(name), problem, "drop one of them")
        rows[row] = probe
    return np.fromiter(rows, dtype=np.int64, count=len(rows))
