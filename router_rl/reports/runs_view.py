"""Training runs and comparisons at the terminal: a list of them, or the differences of two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .number_format import amount
from .results_table import cost_unit_named
from .table_format import signed

__all__ = ["runs_view"]

_STYLES = {"finished": "", "running": "cyan", "interrupted": "yellow", "unreadable": "red"}
_NAMED = 6  # methods of a comparison that are named
_NO_VALUE = "-"
_WIDTHS = (25, 9, 9, 9, 22)  # of a name and of numbers, in 80 columns


def runs_view(result: Mapping[str, Any]) -> Group:
    """What `runs list` or `runs diff` prints, in 80 columns.

    Args:
        result: `runs` and `notes`, or what `difference_of_runs` returns.
    """
    notes = [Text(f"Note: {note}", style="yellow") for note in result["notes"]]
    if "runs" in result:
        return Group(*(part for entry in result["runs"] for part in _entry(entry)), *notes)
    heading = Text(f"A  {result['a']}\nB  {result['b']}")
    return Group(heading, *_facts(result["facts"]), *_results(result["results"]), "", *notes)


def _entry(entry: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the lines of one run or comparison."""
    state = entry["state"]
    title = Text(entry["folder"], style="bold").append(f"  {entry['kind']}, {state}", style="not bold")
    title.stylize(_STYLES[state], len(title) - len(state))
    if entry["error"] is not None:
        yield title.append(f": {entry['error']}", style="not bold")
        return
    if entry["trials"] is not None:
        title.append(f" after {entry['trials']} trials", style="not bold")
    yield title.append(f"  {_minute(entry['when'])}", style="dim not bold")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True, width=len("recommended"))
    table.add_column()
    for name, text in _described(entry):
        table.add_row(name, Text(text))
    yield Padding(table, (0, 0, 0, 2))


def _described(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if entry["problem"] is not None:
        parts = [entry["problem"], *([f"on {entry['table']}"] if entry["table"] else [])]
        yield "data", " ".join(parts) + (f", digest {entry['digest']}" if entry["digest"] else "")
    methods = entry["methods"]
    if methods:
        more = f" and {len(methods) - _NAMED} more" if len(methods) > _NAMED else ""
        yield "method" if len(methods) == 1 else "methods", ", ".join(methods[:_NAMED]) + more
    objective = "; ".join([*([entry["utility"]] if entry["utility"] else []), *entry["cases"]])
    if objective:
        yield "objective", objective
    if entry["recommended"] is not None:
        yield "recommended", " at ".join(entry["recommended"])
    for outcome in entry["outcomes"]:
        if entry["kind"] == "run" or [outcome["method"], outcome["case"]] == list(entry["recommended"] or ()):
            at = f"{outcome['case']}: " if entry["kind"] == "run" and len(entry["outcomes"]) > 1 else ""
            for split in ("validation", "test"):
                means = _means(outcome[split], entry["cost_unit"])
                if means:
                    yield split, at + means
    if entry["versions"]:
        yield "version", ", ".join(f"{name} {version}" for name, version in entry["versions"].items())


def _means(means: Mapping[str, float], cost_unit: str | None) -> str:
    """Utility, quality and the cost in the table's unit, or compute where it has none."""
    texts = [f"{name} {means[name]:.4f}" for name in ("utility", "quality") if name in means]
    unit = cost_unit_named(cost_unit)
    if unit is not None and "cost" in means:
        texts.append(unit.text(means["cost"]))
    elif "compute" in means:
        texts.append(f"compute {means['compute']:.4f}")
    return ", ".join(texts)


def _minute(when: str | None) -> str:
    """A time of ISO 8601 to the minute."""
    return "" if when is None else f"{when[:16].replace('T', ' ')} UTC"


def _facts(facts: Sequence[Mapping[str, Any]]) -> list[Any]:
    """A line for each option, digest and version that differs."""
    if not facts:
        return ["", Text("Options, data and versions are the same.")]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("differs", "A", "B"):
        table.add_column(name, overflow="fold")
    for fact in facts:
        name = fact["name"].replace("_", " ") if "." not in fact["name"] else fact["name"].replace("_", "-")
        table.add_row(Text(name), *(Text(_value(fact[side])) for side in ("a", "b")))
    return ["", table]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _NO_VALUE if value is None else str(value)


def _results(results: Sequence[Mapping[str, Any]]) -> list[Any]:
    """A table of means for each method and case, with differences and intervals."""
    if not results:
        return []
    parts: list[Any] = ["", _numbers([("test results", "A", "B", "B - A", "95% CI")])]
    for result in results:
        lines = [_line(row, result["cost_unit"]) for row in result["means"]]
        parts += [Text(_named(result), style="bold"), _numbers(lines)]
    reasons = dict.fromkeys(result["unpaired"] for result in results if result["unpaired"])
    notes = [f"Not paired by query, so without intervals: {reason}." for reason in reasons]
    seeds = {result["paired_seeds"] for result in results if result["paired_seeds"]}
    if seeds:
        count = f"{' or '.join(map(str, sorted(seeds)))} seed{'s' * (max(seeds) > 1)}"
        notes.append(f"Intervals: bootstrap over test queries and {count}, paired by query.")
    if any(row["difference"] is None for result in results for row in result["means"]):
        notes.append("Utilities of different objectives are not subtracted.")
    return [*parts, "", *(Text(note, style="dim") for note in notes)]


def _numbers(lines: Sequence[Sequence[str]]) -> Table:
    """Lines of a name and numbers, in columns of the same widths in every table."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    for width in _WIDTHS:
        table.add_column(width=width, no_wrap=True, justify="left" if width == _WIDTHS[0] else "right")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _named(result: Mapping[str, Any]) -> str:
    """Method and case, or both of them where they differ."""
    methods, cases = (list(dict.fromkeys(result[name])) for name in ("methods", "cases"))
    return " at ".join(" -> ".join(names) for names in (methods, cases) if any(names))


def _line(row: Mapping[str, Any], cost_unit: str | None) -> list[str]:
    unit = cost_unit_named(cost_unit) if row["name"] == "cost" else None
    low, high = row["ci95"] or (None, None)
    values = (row["a"], row["b"], row["difference"], low, high)
    if unit is None:
        texts = [f"{value:.4f}" if value is not None else "" for value in values[:2]]
        texts += ["" if value is None else signed(value) for value in values[2:]]
    else:
        scaled = [None if value is None else value * unit.per_compute for value in values]
        texts = ["" if value is None else amount(value) for value in scaled[:2]]
        texts += ["" if value is None else f"{'+' * (value > 0.0)}{amount(value)}" for value in scaled[2:]]
    interval = f"{texts[3]} to {texts[4]}" if texts[3] else ""
    return [f"  {unit.label if unit else row['name']}", *texts[:3], interval]
