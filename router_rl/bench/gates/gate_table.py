"""The measurements of the gate benchmark as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group

from ..table_layout import TextTable, as_view

__all__ = ["gate_tables", "gates_view"]


def gates_view(measured: Mapping[str, Any]) -> Group:
    """The measurements of `bench_gates`, for a terminal.

    Args:
        measured: what `bench_gates` returned.
    """
    return as_view(gate_tables(measured))


def gate_tables(measured: Mapping[str, Any]) -> Iterator[TextTable]:
    """The measurements of `bench_gates` as tables: gates and dispatch for each number of threads, and goals.

    Args:
        measured: what `bench_gates` returned.
    """
    for threads in measured["plan"]["threads"]:
        yield _gates(measured, threads)
        yield _dispatch(measured, threads)
    yield _goals(measured)


def _gates(measured: Mapping[str, Any], threads: int) -> TextTable:
    gates = [gate for gate in measured["gates"] if gate["threads"] == threads]
    names = [name for name in gates[0]["forms"] if name != "bare"]
    rows: list[Sequence[str]] = [
        (
            gate["model"],
            f"{gate['rows']:,}",
            _microseconds(gate["forms"]["bare"]["microseconds"]),
            *(f"{gate['forms'][name]['ratio']:.2f}" for name in names),
        )
        for gate in gates
    ]
    spread = max(
        timing["quartiles"][1] - timing["quartiles"][0] for gate in gates for timing in gate["forms"].values()
    )
    absent = "".join(f" Not timed: {form} (needs {needed})." for form, needed in measured["absent"].items())
    note = (
        f"float32, {_threads(threads)}; median of {measured['plan']['rounds']} rounds of the time divided by "
        f"that of `bare` in the same round; quartiles are at most {spread:.2f} apart. bare: nn.Linear and "
        f"torch.topk. module: Gate in eager torch; layer: routing.py of the vLLM, SGLang and transformers "
        f"exports; aoti: compiled by AOTInductor. Below 1 is faster than bare.{absent}"
    )
    title = f"Time divided by that of linear + topk, {_threads(threads)}"
    return TextTable(title, ("model", "rows", "bare, µs", *names), rows, note)


def _dispatch(measured: Mapping[str, Any], threads: int) -> TextTable:
    rows: list[Sequence[str]] = [
        (
            dispatch["model"],
            f"{dispatch['rows']:,}",
            _microseconds(dispatch["mask"]["microseconds"]),
            _microseconds(dispatch["sorted"]["microseconds"]),
            f"{1 / dispatch['sorted']['ratio']:.1f}",
        )
        for dispatch in measured["dispatch"]
        if dispatch["threads"] == threads
    ]
    note = (
        "Dispatch to the experts and weighted combination. An expert only multiplies by a number, so that "
        "the time is the dispatch's."
    )
    columns = ("model", "rows", "mask per expert, µs", "sorted, µs", "speedup")
    return TextTable(f"Dispatch, {_threads(threads)}", columns, rows, note)


def _goals(measured: Mapping[str, Any]) -> TextTable:
    rows: list[Sequence[str]] = [
        (
            goal["goal"],
            f"≤ {goal['limit']:g}",
            f"{goal['met_at']} of {goal['measurements']}",
            f"{goal['worst']:.2f} ({goal['at']})",
        )
        for goal in measured["goals"]
    ]
    return TextTable("Goals", ("ratio", "target", "met at", "worst"), rows)


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
