"""A comparison as Markdown, for documents: a table for each compute weight, the goal, the warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .table_format import FAMILIES, best_of, footnote, marked, signed

__all__ = ["goal_line", "markdown", "table_rows"]

_COLUMNS = (
    "router",
    "family",
    "utility",
    "95% interval",
    "IQM",
    "minus best gate",
    "95% interval",
    "quality",
    "compute",
    "load CV",
)


def markdown(results: dict[str, Any], title: str) -> str:
    """Write the content of `results.json` as a section of a document.

    Fit times are left out: on a machine that does other work they mislead.

    Args:
        results: what `compare` returns.
        title: of the section.
    """
    facts = results["table_facts"]
    summary = results["summary"]
    seeds = len(results["seeds"])
    iqm = "with fewer than 4 seeds the IQM is the mean" if seeds < 4 else "IQM is the mean of the middle half"
    lines = [
        f"### {title}",
        "",
        f"{facts['queries']['test']} test queries, {len(results['experts'])} experts, best single "
        f"{facts['best_single_quality']:.3f}, oracle {facts['oracle_quality']:.3f}; scorer "
        f"{results['scorer']}, {results['select']} selection, load weight {results['load_weight']:g}; "
        f"{results['tries']} tries for every method and weight, chosen on validation; {seeds} seeds ({iqm}).",
        "",
    ]
    budget = results.get("budget")
    for weight in results["compute_weights"]:
        rows = [row for row in summary if row["compute_weight"] == weight]
        at = f"Compute weight {weight:g}:" if budget is None else f"Within a budget of {budget:g}:"
        lines += [at, "", *table_rows(rows), ""]
    note = footnote(summary)
    lines += [note, ""] if note else []
    lines += [f"- {sentence}" for sentence in results["verdict"]]
    lines += [f"- {goal_line(goal)}" for goal in results["goal"]]
    lines += [f"- Warning: {warning}" for warning in results["warnings"]]
    return "\n".join([*lines, ""])


def table_rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table, by falling utility; bold: the best that sees what all see.

    Args:
        rows: of the `summary`, all under one objective.
    """
    best = best_of(rows)
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|---|" + "---:|" * (len(_COLUMNS) - 2)]
    for row in sorted(rows, key=lambda row: -row["utility_mean"]):
        name, utility = marked(row), f"{row['utility_mean']:.4f}"
        if row["method"] == best:
            name, utility = f"**{name}**", f"**{utility}**"
        cells = [
            name,
            FAMILIES[row["family"]],
            utility,
            _interval(row["utility_ci95"]),
            f"{row['utility_iqm']:.4f}",
            *_compared(row),
            f"{row['quality_mean']:.4f}",
            f"{row['compute_mean']:.4f}",
            f"{row['load_cv_mean']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def goal_line(goal: dict[str, Any]) -> str:
    """One entry of `goal` as a sentence."""
    word = "reached" if goal["reached"] else "not reached"
    at = (
        f"compute weight {goal['compute_weight']:g}" if "budget" not in goal else f"budget {goal['budget']:g}"
    )
    if goal["load_weight"]:
        at += f", load weight {goal['load_weight']:g}"
    return (
        f"Goal at {at} {word}: {goal['rl']} minus {goal['gate']} is {signed(goal['mean'])}, 95% interval "
        f"{' to '.join(map(signed, goal['ci95']))}; the lower end must lie above {goal['margin']:g}."
    )


def _compared(row: dict[str, Any]) -> tuple[str, str]:
    difference = row["paired_difference_to_best_gate"]
    if difference is None:
        return ("best gate" if row["family"] == "gate" else "", "")
    return signed(difference["mean"]), " to ".join(map(signed, difference["ci95"]))


def _interval(ci95: Sequence[float]) -> str:
    low, high = (f"{limit:.4f}" for limit in ci95)
    return f"{low} to {high}"
