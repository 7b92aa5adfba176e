"""The summary that `tune` prints: the best hyperparameters, counts of trials, and the next command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts.io.printable import printable

from .table_format import signed

__all__ = ["range_text", "tuning_view"]

_STATES = ("complete", "pruned", "failed", "running")
_LONGEST = 30  # characters of a range
_SHOWN_ERRORS = 3


def tuning_view(result: dict[str, Any]) -> Group:
    """Format the result of `tune`, in 80 columns.

    Args:
        result: the content of `tuning.json`.
    """
    facts = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for name, value in _facts(result):
        facts.add_row(Text(name), Text(printable(value)))
    notes = [Text(f"Note: {printable(note)}", style="yellow") for note in _notes(result)]
    return Group("", facts, "", _hyperparameters(result), "", *notes)


def range_text(dimension: Any) -> str:
    """Return a range of the search space in words.

    Args:
        dimension: as `tuning.json` has it.

    >>> range_text({"low": 0.001, "high": 0.1, "log": True}), range_text(["a", "b"]), range_text([3])
    ('0.001 to 0.1, log', 'a, b', 'fixed')
    """
    if isinstance(dimension, Mapping):
        step = f", step {dimension['step']:g}" if "step" in dimension else ""
        return f"{dimension['low']:g} to {dimension['high']:g}{', log' if dimension.get('log') else ''}{step}"
    if len(dimension) == 1:
        return "fixed"
    text = ", ".join(map(_short, dimension))
    return text if len(text) <= _LONGEST else f"{len(dimension)} values"


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts, best = result["counts"], result["best"]["validation_utility"]
    ended = [f"{counts[name]} {name}" for name in _STATES if counts[name]]
    again = f", {counts['repeated']} with the hyperparameters of another" if counts["repeated"] else ""
    reused = f"; {counts['reused']} reused from earlier commands" if counts["reused"] else ""
    default = result["default_utility"]
    against = "" if default is None else f" ({signed(best - default)} over the defaults, {default:.4f})"
    name = result["problem"]["name"]
    return [
        ("method", result["method"] if name == "routing" else f"{result['method']}, {name}"),
        ("case", result["case"]),
        ("best validation utility", f"{best:.4f}{against}"),
        ("trials", f"{', '.join(ended)}{again}{reused}"),
        ("search", f"{result['sampler']}, {result['pruner']}, seed {result['seed']}"),
        ("study", f"{result['study_name']} in {result['storage']}"),
    ]


def _hyperparameters(result: Mapping[str, Any]) -> Table:
    """Return the best value of each hyperparameter beside its default, range and importance."""
    importance = result["importance"]
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("hyperparameter", no_wrap=True)
    for heading in ("best", "default"):
        table.add_column(heading, justify="right")
    table.add_column("searched")
    if importance:
        table.add_column("importance", justify="right")
    for name, dimension in result["space"].items():
        share = [f"{importance[name]:.0%}" if name in importance else ""] if importance else []
        row = (
            _short(result["hyperparameters"][name]),
            _short(result["defaults"][name]),
            range_text(dimension),
        )
        table.add_row(*(Text(printable(cell)) for cell in (name, *row, *share)))
    return table


def _notes(result: Mapping[str, Any]) -> list[str]:
    counts = result["counts"]
    done = sum(counts[name] for name in ("complete", "pruned", "failed"))
    notes = [f"{error} ({counts['failed']} failed)" for error in result["errors"][:_SHOWN_ERRORS]]
    if counts["running"]:
        notes.append(f"{counts['running']} trials run in other commands, which read and write the same study")
    notes.append(
        f"The best of {done} trials is better on validation rows than it will be on others; `train` measures "
        "it on test rows, which `tune` did not read."
    )
    return notes


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
