"""A comparison as Markdown, for documents: a table for each case, the verdict, the warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experts.io.escaping import markdown_text

from ..problems.statistics import SEEDS_FOR_IQM
from .inputs_note import inputs_note
from .results_table import Column, Reference, by_case, capitalised, columns_of, difference_of, references_of
from .table_format import best_of, family_name, footnote, marked, signed

__all__ = ["about_sentence", "markdown", "table_rows"]


def markdown(results: dict[str, Any], title: str) -> str:
    """The content of `results.json` as a section of a document.

    Fit times are left out: on a machine that does other work they mislead.

    Args:
        results: the content of `results.json`, schema 2, of any problem.
        title: of the section.
    """
    recommendation, note = results.get("recommendation"), footnote(results["summary"])
    lines = [f"### {title}", ""]
    if recommendation:
        lines += [markdown_text(recommendation["sentence"]), ""]
    inputs = inputs_note(results)
    about = [about_sentence(results), *([f"Inputs of a call: {inputs}."] if inputs else [])]
    lines += [*map(markdown_text, about), ""]
    for label, rows in by_case(results):
        lines += [f"{markdown_text(capitalised(label))}:", "", *table_rows(rows, results), ""]
    lines += [markdown_text(note), ""] if note else []
    lines += [f"- {markdown_text(sentence)}" for sentence in results["verdict"]]
    lines += [f"- Warning: {markdown_text(warning)}" for warning in results["warnings"]]
    return "\n".join([*lines, ""])


def table_rows(rows: Sequence[dict[str, Any]], results: dict[str, Any]) -> list[str]:
    """Lines of a Markdown table; bold: the best method that is no bound and has no extra inputs.

    Args:
        rows: of the `summary`, all of one case, in the order to print.
        results: the content of `results.json`; gives the columns.
    """
    references, columns = references_of(results), columns_of(results)
    iqm = _has_iqm(results)
    names = ["method", "family", "utility", "95% CI", *(["IQM"] if iqm else [])]
    for reference in references:
        names += [f"minus {reference.name}", "95% CI"]
    names += [column.term.label for column in columns]
    best = best_of(rows)
    lines = ["| " + " | ".join(map(markdown_text, names)) + " |", "|---|---|" + "---:|" * (len(names) - 2)]
    for row in rows:
        cells = [*_first_cells(row, row["method"] == best, iqm)]
        for reference in references:
            cells += _compared(row, reference)
        cells += [_cell(column, row) for column in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def about_sentence(results: dict[str, Any]) -> str:
    """What was compared, in one sentence.

    Args:
        results: the content of `results.json`.
    """
    problem, facts = results["problem"], results.get("table_facts")
    seeds, trials = len(results["seeds"]), results["n_trials"]
    parts: list[str] = []
    if facts:
        parts.append(
            f"{facts['queries']['test']} test queries, {len(problem['experts'])} experts, best single "
            f"{facts['best_single_quality']:.3f}"
        )
        if facts.get("oracle_quality") is not None:
            parts[-1] += f", oracle {facts['oracle_quality']:.3f}"
    elif problem["experts"]:
        parts.append(f"{len(problem['experts'])} experts")
    if problem.get("utility"):
        parts.append(f"utility = {problem['utility']}")
    if trials is not None:
        parts.append(f"{trials} trial{'s' * (trials != 1)} for every method and case, chosen on validation")
    parts.append(f"{seeds} seed{'s' * (seeds != 1)}; measured on test")
    return f"{'; '.join(parts)}."


def _has_iqm(results: dict[str, Any]) -> bool:
    """Whether the interquartile mean is another number than the mean."""
    known = any(row.get("utility_iqm") is not None for row in results["summary"])
    return known and len(results["seeds"]) >= SEEDS_FOR_IQM


def _first_cells(row: dict[str, Any], bold: bool, iqm: bool) -> list[str]:
    name, utility = markdown_text(marked(row)), f"{row['utility_mean']:.4f}"
    if bold:
        name, utility = f"**{name}**", f"**{utility}**"
    cells = [
        name,
        markdown_text(family_name(row["family"], bool(row.get("full_information")))),
        utility,
        _interval(row["utility_ci95"]),
    ]
    if iqm:
        cells.append("" if row.get("utility_iqm") is None else f"{row['utility_iqm']:.4f}")
    return cells


def _compared(row: dict[str, Any], reference: Reference) -> tuple[str, str]:
    if reference.holds(row):
        return markdown_text(reference.role), ""
    difference = difference_of(row, reference)
    if difference is None:
        return "", ""
    return signed(difference["mean"]), " to ".join(map(signed, difference["ci95"]))


def _cell(column: Column, row: dict[str, Any]) -> str:
    value = column.value(row)
    if value is None or column.name == "cost":
        return column.text(value)
    digits = 2 if column.term.digits == 2 else 4
    return f"{value:.{digits}f}" if abs(value) < 1_000.0 else f"{value:.4g}"


def _interval(ci95: Sequence[float]) -> str:
    low, high = (f"{end:.4f}" for end in ci95)
    return f"{low} to {high}"
