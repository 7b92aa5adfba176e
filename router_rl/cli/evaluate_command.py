"""`evaluate`: a trained router on a table or a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experts import DecisionLog, InputError, open_table, read_prices

from ..reports.terminal import evaluation_view
from .command import Command
from .values import integers_in

__all__ = ["COMMAND", "evaluate"]


def evaluate(
    run: Path,
    *,
    table: str | None = None,
    log: Path | None = None,
    split: str = "test",
    placement: list[int] | int | str | None = None,
    prices: str | None = None,
    on: str | None = None,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Measure a trained router on a table or a log, beside random, the best single expert and the oracle.

    Args:
        run: the run folder.
        table: a Parquet file or an embedded source's name, with the run's experts and features.
        log: a Parquet file of decisions (query_id, expert, propensity, quality, cost, and features where
            no table has them): IPS, SNIPS and doubly robust estimates, beside the truth where a table has it.
        split: the table's rows to measure on; a log without a table is read whole.
        placement: the device of each expert, such as 0,0,1,1: load is then reported by device too.
        prices: litellm, or a YAML table of US dollars per million tokens: the outcomes at these prices; a
            router of priced_pg is told them, any other decides as before.
        on: the day whose prices count, such as 2024-07-01; the latest if null.
        allow_leakage: accept a prompt that stands in two splits; every output then says so.
    """
    from ..studies.evaluate_log import evaluate_log
    from ..studies.evaluate_table import evaluate_run
    from ..studies.repricing import priced
    from ..studies.runs import read_run

    if table is None and log is None:
        raise InputError("table", None, "there is nothing to measure on", "give --table, --log or both")
    found = read_run(run)
    rows = None if table is None else open_table(table, allow_leakage=allow_leakage)
    if prices is not None:
        if rows is None:
            raise InputError("prices", prices, "there is no table to price", "give --table")
        found, rows = priced(found, rows, read_prices(prices, rows.experts, on))
    devices = None if placement is None else integers_in("placement", placement, "0,0,1,1")
    measured = {} if rows is None else evaluate_run(found, rows, split, devices)
    if log is None:
        return measured
    decisions = DecisionLog.read(log, found.router.experts)
    return evaluate_log(found, decisions, None if rows is None else rows.part(split)) | measured


COMMAND = Command(run=evaluate, view=evaluation_view, positional=(("run", Path, "a run folder of `train`"),))
