"""One compact Markdown table of a finished comparison: a row a method, a column a case.

    python benchmarks/overview.py runs/rules

A cell is the utility, and in brackets its paired difference to the case's rival with the 95% CI. Prints what
`results.json` of the folder has; the report beside it has every column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse

from experts.io.escaping import markdown_text
from experts.io.json_file import read_json
from router_rl.reports.markdown import about_sentence
from router_rl.reports.results_table import Reference, by_case, capitalised, difference_of, references_of
from router_rl.reports.table_format import MARKS, family_name, footnote, marked, outcome_of, signed


def main(folder: Path) -> None:
    """Print the table.

    Args:
        folder: of the comparison.
    """
    results = read_json("folder", folder / "results.json", dict[str, Any], fix="give a comparison's folder")
    print("\n".join([f"### {folder.name}", "", *overview(results)]))


def overview(results: dict[str, Any]) -> list[str]:
    """Lines of the table, with what was compared above and the verdict below it.

    Args:
        results: the content of `results.json`.
    """
    reference, cases = references_of(results)[0], list(by_case(results))
    cells: dict[str, dict[str, str]] = {}
    first: dict[str, dict[str, Any]] = {}
    for label, rows in cases:
        for row in rows:
            first.setdefault(row["method"], row)
            cells.setdefault(row["method"], {})[label] = _cell(row, reference)
    labels = [label for label, _ in cases]
    lines = [markdown_text(about_sentence(results)), ""]
    lines += [
        f"| method | family | {' | '.join(map(capitalised, labels))} |",
        "|---|---|" + "---|" * len(labels),
    ]
    for method, row in first.items():
        family = family_name(row["family"], bool(row.get("full_information")))
        own = [cells[method].get(label, "") for label in labels]
        lines.append(f"| {' | '.join([markdown_text(marked(row)), family, *own])} |")
    named = len(set(reference.methods.values())) == 1
    rival = (
        f"{reference.name}, the rival" if named else "the case's rival, the best other method on tuning rows"
    )
    lines += ["", f"In brackets: minus {rival}; ▲ ▼ where the 95% CI excludes 0."]
    note = footnote(results["summary"])
    lines += [*([markdown_text(note)] if note else []), ""]
    return lines + [f"- {markdown_text(sentence)}" for sentence in results["verdict"]]


def _cell(row: dict[str, Any], reference: Reference) -> str:
    """The utility, and its difference to the rival."""
    utility = f"{row['utility_mean']:.4f}"
    if reference.holds(row):
        return f"{utility} (rival)"
    difference = difference_of(row, reference)
    if difference is None:
        return utility
    outcome = outcome_of(difference["ci95"])
    mark = "" if outcome == "same" else f" {MARKS[outcome]}"
    interval = " to ".join(map(signed, difference["ci95"]))
    return f"{utility} ({signed(difference['mean'])}, {interval}){mark}"


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
