"""A comparison at the terminal: what to use, a table that fits 80 columns, and the verdict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .certainty import certainty_of
from .inputs_note import inputs_note
from .results_table import (
    Column,
    Reference,
    by_case,
    capitalised,
    columns_of,
    cost_unit_of,
    difference_of,
    references_of,
)
from .table_format import MARKS, best_of, family_name, footnote, marked, outcome_of, signed

__all__ = ["results_view"]

_WIDTH = 80
_STYLES = {"rl": "cyan", "gate": "yellow", "baseline": "dim", "bound": "dim italic"}
_OUTCOME_STYLES = {"better": "green", "worse": "red", "same": ""}
_LEFT_ALIGNED = 2  # columns: the method and its family


def results_view(results: dict[str, Any]) -> Group:
    """The recommendation, then for each case its methods by decreasing utility, then verdict and warnings.

    Columns that do not fit 80 characters are left out; `report.html` has them all.

    Args:
        results: the content of `results.json`, schema 2; with `reused`, how many trials an earlier run left.
    """
    references = references_of(results)
    reference = references[0] if references else None
    columns = columns_of(results)
    names = ["method", "family", "utility", *([f"vs {reference.role}"] if reference is not None else [])]
    fixed = len(names)
    names += [column.term.short for column in columns]
    body = [
        (label, rows, [_cells(row, reference, columns, best_of(rows)) for row in rows])
        for label, rows in by_case(results)
    ]
    every = [cells for _, _, rows in body for cells in rows]
    widths = [max([len(name), *(len(cells[at]) for cells in every)]) for at, name in enumerate(names)]
    ends = itertools.accumulate(width + 1 for width in widths)
    shown = sum(end <= _WIDTH + 1 for end in ends)  # the space behind the last column may stick out
    tables: list[Text | Table] = []
    for label, rows, cells in body:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for at, (name, width) in enumerate(zip(names[:shown], widths, strict=False)):
            justify = "left" if at < _LEFT_ALIGNED else "right"
            table.add_column(name, justify=justify, no_wrap=True, width=width)
        for row, line in zip(rows, cells, strict=True):
            table.add_row(*line[:shown], style="dim" if row["family"] == "bound" else None)
        tables += [Text(""), Text(capitalised(label), style="bold underline"), table]
    left_out = [column.term.label for column in columns[max(0, shown - fixed) :]]
    dagger = footnote(results["summary"])
    small = [_caption(results, reference), *([f"In the report: {', '.join(left_out)}."] if left_out else [])]
    return Group(
        *_recommendation(results),
        *tables,
        "",
        *(Text(line, style="dim") for line in [*small, *([dagger] if dagger else [])]),
        "",
        *(Text(sentence) for sentence in results["verdict"]),
        *(Text(f"* {warning}", style="yellow") for warning in results["warnings"]),
        *(Text(f"Note: {note}", style="yellow") for note in results["notes"]),
        *_reused(results),
    )


def _recommendation(results: dict[str, Any]) -> list[Text]:
    recommendation = results.get("recommendation")
    if not recommendation:
        return []
    lines = certainty_of(recommendation)
    if recommendation.get("router") and not recommendation.get("expert") and results.get("out"):
        lines.append(f"Export it: train_router.py export {results['out']} --out router")
    return [Text(""), Text(recommendation["sentence"], style="bold"), *map(Text, lines)]


def _reused(results: dict[str, Any]) -> list[Text]:
    """How many trials an earlier run of the same command left."""
    reused = results.get("reused") or 0
    return [Text(f"{reused} trial{'s' * (reused != 1)} reused from the earlier run.")] if reused else []


def _cells(
    row: dict[str, Any], reference: Reference | None, columns: Sequence[Column], best: str | None
) -> list[Text]:
    bold = row["method"] == best
    star = " *" if row.get("collapsed") or row.get("below_best_single") else ""
    cells = [
        Text(marked(row) + star, style="bold" if bold else ""),
        Text(
            family_name(row["family"], bool(row.get("full_information"))),
            style=_STYLES.get(row["family"], ""),
        ),
        _spread(f"{row['utility_mean']:.3f}", row["utility_ci95"], bold=bold),
    ]
    if reference is not None:
        cells.append(_compared(row, reference))
    return cells + [Text(column.text(column.value(row))) for column in columns]


def _compared(row: dict[str, Any], reference: Reference) -> Text:
    """The difference to the reference, with its mark; the reference's role for the reference itself."""
    if reference.holds(row):
        return Text(f"{reference.role}  ", style="dim")
    difference = difference_of(row, reference)
    if difference is None:
        return Text("")
    text = _spread(signed(difference["mean"], 3), difference["ci95"])
    outcome = outcome_of(difference["ci95"])
    if row["family"] == "bound" or outcome == "same":
        return text.append("\u00a0\u00a0")  # kept where spaces would be stripped
    return text.append(
        f" {MARKS[outcome]}", style="dim" if row.get("extra_inputs") else _OUTCOME_STYLES[outcome]
    )


def _spread(mean: str, ci95: Sequence[float], *, bold: bool = False) -> Text:
    half = f"±{(ci95[1] - ci95[0]) / 2:.3f}".replace("±0.", "±.")
    return Text(mean, style="bold" if bold else "").append(half, style="dim not bold")


def _caption(results: dict[str, Any], reference: Reference | None) -> str:
    utility, seeds = results["problem"].get("utility"), len(results["seeds"])
    queries = ((results.get("table_facts") or {}).get("queries") or {}).get("test")
    on = "test rows" if queries is None else f"{queries} test queries"
    sentences = [f"Utility = {utility}." if utility else ""]
    sentences.append(
        f"Mean on {on} of {seeds} seed{'s' * (seeds != 1)} ± half the 95% CI; bold: the best, except bounds."
    )
    if reference is not None:
        names = ", ".join(dict.fromkeys(reference.methods.values()))
        sentences.append(f"vs {reference.role}: paired difference to {names}; ▲ ▼: its 95% CI excludes 0.")
    note = inputs_note(results)
    if note is not None:
        sentences.append(f"Inputs of a call: {note}.")
    unit = cost_unit_of(results)
    if unit is not None:
        sentences.append(f"Compute 1 = the most expensive expert: {unit.text(1.0)}.")
    if any(row["family"] == "bound" for row in results["summary"]):
        sentences.append("A bound uses information that no router has, such as the outcomes.")
    return " ".join(sentence for sentence in sentences if sentence)
