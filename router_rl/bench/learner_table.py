"""The measurements of training speed as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group

from .table_layout import TextTable, as_view

__all__ = ["bench_view", "learner_tables"]


def bench_view(measured: Mapping[str, Any]) -> Group:
    """The measurements of `bench`, for a terminal.

    Args:
        measured: what `bench` returned.
    """
    return as_view(learner_tables(measured))


def learner_tables(measured: Mapping[str, Any]) -> Iterator[TextTable]:
    """The measurements of `bench` as tables: learners, transitions, scaling.

    Args:
        measured: what `bench` returned.
    """
    for table in measured["tables"]:
        yield _learners(table, measured["plan"])
    if measured["transitions"]:
        yield _transitions(measured["transitions"])
    if measured["scaling"]:
        yield _scaling(measured["scaling"])


def _learners(table: Mapping[str, Any], plan: Mapping[str, Any]) -> TextTable:
    throughput = {row["learner"]: row for row in table["throughput"]}
    bare, sb3 = throughput["bare"]["median"], throughput["sb3_ppo"]["median"]
    rows: list[Sequence[str]] = []
    for name, row in throughput.items():
        low, high = row["quartiles"]
        rows.append(
            (
                name,
                f"{row['median'] / 1000:.3g}",
                f"{low / 1000:.3g} to {high / 1000:.3g}",
                f"{row['median'] / bare:.2g}",
                f"{row['median'] / sb3:.3g}",
            )
        )
    title = f"{table['table']}, {table['threads']} thread{'s' if table['threads'] > 1 else ''}"
    ratio = table["exact_pg_over_bare"]
    low, high = ratio["quartiles"]
    note = (
        f"{table['train']} training queries, {table['features']} features, {table['experts']} experts, "
        f"scorer {table['scorer']}; median of {plan['repeats']} repeats, each learner with its own "
        f"validations. exact_pg in turns with the bare loop, {plan['pairs']} times: {ratio['median']:.2f} "
        f"(quartiles {low:.2f} to {high:.2f}) of its throughput; target {ratio['goal']:g}, "
        f"{'met' if ratio['met'] else 'not met'}."
    )
    columns = ("method", "1,000 decisions/s", "quartiles", "x bare loop", "x SB3 PPO")
    return TextTable(title, columns, rows, note)


def _transitions(cores: Sequence[Mapping[str, Any]]) -> TextTable:
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
        f"Thousands per second on one thread with {cores[0]['lanes']} lanes and random actions; observations "
        "and resets are included. SB3 PPO trains through the VecEnv with 64 lanes."
    )
    columns = ("environment", "1,000 transitions/s", "quartiles", "target", "", "SB3 PPO")
    return TextTable("Transitions through the batched environments", columns, rows, note)


def _scaling(sizes: Sequence[Mapping[str, Any]]) -> TextTable:
    rows: list[Sequence[str]] = []
    for size in sizes:
        seconds, counts = size["seconds"], (f"{size['queries']:,}", str(size["experts"]))
        if seconds is None:
            rows.append((*counts, "not finished", "", "", ""))
            continue
        memory = size["peak_mib"] - size["before_mib"]
        rows.append(
            (
                *counts,
                f"{seconds:.2f}",
                f"{1e6 * seconds / size['queries']:.1f}",
                f"{memory:.0f}",
                f"{2**20 * memory / size['queries'] / (size['experts'] + 64) / 4:.1f}",
            )
        )
    note = (
        "exact_pg for one epoch on one thread, 64 memory-mapped features, batches of 256, a 64-64 network. "
        "Memory is the peak minus what the process held before the table. The last column is that memory "
        "over the size of the features and one float32 per outcome; it stays flat if memory grows linearly."
    )
    columns = ("queries", "experts", "s", "µs/query", "MiB", "x table size")
    return TextTable("One epoch by table size", columns, rows, note)
