"""The measurements as Markdown, and as tables at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group

from .table_layout import Sheet, as_markdown, as_tables

__all__ = ["bench_view", "markdown"]


def markdown(found: Mapping[str, Any]) -> str:
    """What `bench` found, as Markdown."""
    return as_markdown(_sheets(found))


def bench_view(found: Mapping[str, Any]) -> Group:
    """What `bench` found, for a terminal."""
    return as_tables(_sheets(found))


def _sheets(found: Mapping[str, Any]) -> Iterator[Sheet]:
    limit = found["plan"]["limit"]
    for table in found["tables"]:
        yield _learners(table, limit, found["plan"])
        yield _goals(table)
    if found["transitions"]:
        yield _transitions(found["transitions"])
    if found["scaling"]:
        yield _scaling(found["scaling"])


def _learners(table: Mapping[str, Any], limit: float, plan: Mapping[str, Any]) -> Sheet:
    pace = {row["learner"]: row for row in table["pace"]}
    reach = {row["learner"]: row for row in table["reach"]}
    bare, sb3 = pace["bare"]["median"], pace["sb3_ppo"]["median"]
    rows: list[Sequence[str]] = []
    for name, row in pace.items():
        own = reach.get(name)
        if own is None:
            rest = ("", "", "")
        else:
            sign = "≥ " if own["at_least"] else ""
            speedup = "" if own["speedup"] is None else f"{sign}{own['speedup']:.3g}"
            spread = " to ".join(_seconds(value, limit) for value in own["quartiles"])
            rest = (_seconds(own["median"], limit), spread, speedup)
        rows.append(
            (
                name,
                f"{row['median'] / 1000:.3g}",
                f"{row['median'] / bare:.2g}",
                f"{row['median'] / sb3:.3g}",
                *rest,
            )
        )
    title = f"{table['table']}, {table['threads']} thread{'s' if table['threads'] > 1 else ''}"
    note = (
        f"{table['train']} training queries, {table['features']} features, {table['experts']} experts, "
        f"scorer {table['scorer']}; median of {plan['repeats']}. The reference is a validation utility of "
        f"{table['reference']:.4f}: best single expert {table['best_single']:.4f}, tuned exact_pg "
        f"{table['tuned']:.4f}; all measure it every {plan['every']} decisions, on the clock. The last "
        "column is over the faster of the two SB3 PPOs on a DummyVecEnv. `>`: stopped, or its budget ended."
    )
    columns = ("learner", "k dec/s", "/ bare", "/ SB3", "s to ref.", "quartiles", "times faster")
    return Sheet(title, columns, rows, note)


def _goals(table: Mapping[str, Any]) -> Sheet:
    rows: list[Sequence[str]] = []
    for goal in table["goals"]:
        found = "not measured" if goal["found"] is None else f"{goal['found']:.3g}"
        rows.append(
            (
                goal["goal"],
                f"≥ {goal['target']:g}",
                ("≥ " if goal["at_least"] and goal["found"] is not None else "") + found,
                "met" if goal["met"] else "not met",
            )
        )
    return Sheet("Goals", ("ratio", "goal", "found", ""), rows)


def _transitions(cores: Sequence[Mapping[str, Any]]) -> Sheet:
    rows: list[Sequence[str]] = []
    for row in cores:
        low, high = row["quartiles"]
        rows.append(
            (
                row["env"],
                f"{row['per_second'] / 1000:.3g}",
                f"{low / 1000:.3g} to {high / 1000:.3g}",
                f"≥ {row['goal'] / 1000:g}",
                "met" if row["met"] else "not met",
                f"{row['sb3_ppo_per_second'] / 1000:.3g}",
            )
        )
    note = (
        f"Thousands a second, one thread, {cores[0]['lanes']} lanes, random actions, observations and new "
        "episodes among them; SB3 PPO trains through the VecEnv, 64 lanes."
    )
    columns = ("env", "k transitions/s", "quartiles", "goal", "", "SB3 PPO")
    return Sheet("Transitions through the batched cores", columns, rows, note)


def _scaling(cells: Sequence[Mapping[str, Any]]) -> Sheet:
    rows: list[Sequence[str]] = []
    for cell in cells:
        seconds, size = cell["seconds"], (f"{cell['queries']:,}", str(cell["experts"]))
        if seconds is None:
            rows.append((*size, "not finished", "", "", ""))
            continue
        memory = cell["peak_mib"] - cell["before_mib"]
        rows.append(
            (
                *size,
                f"{seconds:.2f}",
                f"{1e6 * seconds / cell['queries']:.1f}",
                f"{memory:.0f}",
                f"{2**20 * memory / cell['queries'] / (cell['experts'] + 64) / 4:.1f}",
            )
        )
    note = (
        "exact_pg for one epoch, one thread, 64 memory-mapped features, batches of 256, 64-64 network; "
        "memory is the peak over what the process held before there was a table. The last column is that "
        "memory over the table's features and one float32 an outcome: flat if memory grows in a line."
    )
    columns = ("queries", "experts", "s", "µs/query", "MiB", "over table")
    return Sheet("One epoch by size of table", columns, rows, note)


def _seconds(value: float | None, limit: float) -> str:
    return f"> {limit:g}" if value is None else f"{value:.3g}"
