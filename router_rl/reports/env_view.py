"""A comparison on an environment at the terminal and as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .table_format import FAMILIES, signed

__all__ = ["columns_of", "env_markdown", "env_view"]

# Not shown as columns of their own: they have one already, or would only repeat it.
_KNOWN = {"utility_mean", "validation_utility_mean", "fit_seconds_mean"}
_WIDTH = 81  # of a terminal, and the space behind its last column


def columns_of(results: dict[str, Any]) -> list[str]:
    """Names of the parts and facts that summaries hold, without `_mean`."""
    names = dict.fromkeys(name for row in results["summary"] for name in row if name.endswith("_mean"))
    return [name.removesuffix("_mean") for name in names if name not in _KNOWN]


def env_view(results: dict[str, Any]) -> Group:
    """The table of a comparison: for each case, its methods by falling utility.

    Args:
        results: the content of `results.json` of `compare_env`.
    """
    parts = columns_of(results)
    body = [(title, [_cells(row, parts) for row in rows]) for title, rows in _cases(results)]
    names = ["method", "kind", "utility", "vs rival", *parts]
    lines = [names, *(cells for _, found in body for cells in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = sum(total <= _WIDTH for total in itertools.accumulate(width + 1 for width in widths))
    tables: list[Text | Table] = []
    for title, found in body:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for name, width in zip(names[:shown], widths, strict=False):
            justify = "left" if name in names[:2] else "right"
            table.add_column(name, justify=justify, no_wrap=True, width=width)
        for cells in found:
            table.add_row(*cells[:shown], style="dim" if cells[1] == FAMILIES["bound"] else None)
        tables += [Text(""), Text(title, style="bold underline"), table]
    rivals = dict.fromkeys(row[field]["method"] for row in results["summary"] for field in _fields(row))
    caption = (
        f"Mean of {len(results['seeds'])} seeds ± half the 95% interval, on test. vs rival: paired "
        f"difference to {', '.join(rivals) or 'nobody'}; ▲ ▼: its interval lies above, below zero."
    )
    return Group(*tables, "", Text(caption, style="dim"))


def env_markdown(results: dict[str, Any], title: str) -> str:
    """The comparison as a section of a document.

    Fit times are left out: on a machine that does other work they mislead.

    Args:
        results: the content of `results.json` of `compare_env`.
        title: of the section.
    """
    parts = columns_of(results)
    names = [
        "method",
        "kind",
        "utility",
        "95% interval",
        "minus rival",
        "95% interval",
        "minus best rival",
        "95% interval",
        *parts,
    ]
    lines = [f"### {title}", "", f"{len(results['seeds'])} seeds, {results['tries']} tries, test rows.", ""]
    for case, rows in _cases(results):
        lines += [f"{case}:", "", "| " + " | ".join(names) + " |", "|---|---|" + "---:|" * (len(names) - 2)]
        for row in rows:
            cells = [
                row["method"],
                FAMILIES[row["family"]],
                f"{row['utility_mean']:.4f}",
                _range(row["utility_ci95"]),
            ]
            for field in ("paired_difference_to_rival", "paired_difference_to_best_rival"):
                found = row[field]
                cells += (
                    ["", ""]
                    if found is None
                    else [signed(found["mean"]), " to ".join(map(signed, found["ci95"]))]
                )
            cells += [_number(row.get(f"{name}_mean"), 4) for name in parts]
            lines.append("| " + " | ".join(cells) + " |")
        best = next(
            (
                row["paired_difference_to_best_rival"]
                for row in rows
                if row["paired_difference_to_best_rival"]
            ),
            None,
        )
        lines += ["", *([f"Best rival on validation: {best['method']}.", ""] if best else [])]
    return "\n".join(lines)


def _cases(results: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for case in results["cases"]:
        rows = [row for row in results["summary"] if row["case"] == case["label"]]
        yield case["label"], sorted(rows, key=lambda row: (row["family"] != "bound", -row["utility_mean"]))


def _cells(row: dict[str, Any], parts: list[str]) -> list[str]:
    half = (row["utility_ci95"][1] - row["utility_ci95"][0]) / 2.0
    values = [_number(row.get(f"{name}_mean")) for name in parts]
    return [
        row["method"],
        FAMILIES[row["family"]],
        f"{row['utility_mean']:.3f} ±{half:.3f}",
        _marked(row),
        *values,
    ]


def _fields(row: dict[str, Any]) -> list[str]:
    """The first difference that a row has, to the named rival or else to the best."""
    names = ("paired_difference_to_rival", "paired_difference_to_best_rival")
    return [name for name in names if row[name] is not None][:1]


def _marked(row: dict[str, Any]) -> str:
    for field in _fields(row):
        low, high = row[field]["ci95"]
        mark = "▲" if low > 0 else "▼" if high < 0 else "\u00a0"  # kept where a space would be stripped
        return f"{signed(row[field]['mean'], 3)} {mark}"
    return ""


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" if abs(value) < 1_000.0 else f"{value:.3g}"


def _range(ci95: list[float]) -> str:
    return f"{ci95[0]:.4f} to {ci95[1]:.4f}"
