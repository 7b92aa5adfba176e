"""`evaluate`: evaluate a trained router on a table or a decision log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experts import InputError

from ..reports.terminal import evaluation_view
from .command import Command
from .values import integers_in

__all__ = ["COMMAND", "evaluate"]


def evaluate(
    run: Path,
    *,
    table: str | None = None,
    log: str | None = None,
    split: str = "test",
    placement: list[int] | int | str | None = None,
    prices: str | None = None,
    on: str | None = None,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Evaluate a trained router on a table or a log, beside random, the best single expert and the oracle.

    Args:
        run: the run folder; for a log also the folder of an exported router.
        table: a Parquet file or the name of an embedded source, with the run's experts and features.
        log: a Parquet file of decisions (query_id, expert, propensity, quality, cost, and features if no
            table has them), or the URL of a log of `serve`: gives IPS, SNIPS and doubly robust estimates,
            beside the true value if a table has it.
        split: rows of the table to evaluate on; a log without a table is used whole.
        placement: device of each expert, such as 0,0,1,1, to report the load by device.
        prices: litellm, or a YAML table of US dollars per million tokens: evaluates at these prices. A router
            of priced_pg uses them, others decide as before.
        on: date of the prices, such as 2024-07-01; the latest if null.
        allow_leakage: accept prompts that are in two splits; every output then says so.
    """
    from experts import DecisionLog, open_table, read_prices

    from ..routing import Router
    from ..studies.evaluate_log import evaluate_log, evaluate_router_log
    from ..studies.evaluate_table import evaluate_run
    from ..studies.repricing import reprice_run
    from .log_source import log_file
    from .run_or_router import run_or_router

    if table is None and log is None:
        raise InputError("table", None, "there are no rows to evaluate on", "give --table, --log or both")
    about_rows = {"split": (split, "test"), "placement": (placement, None)}
    _check_used(table, about_rows | {"allow_leakage": (allow_leakage, False)})
    if on is not None and prices is None:
        raise InputError("on", on, "is the date of prices, and there are none", "give --prices")
    trained = run_or_router(run)
    rows = None if table is None else open_table(table, allow_leakage=allow_leakage)
    if isinstance(trained, Router):
        if log is None or prices is not None:
            problem = "is an exported router, which has no objective to evaluate a table by"
            raise InputError("run", str(run), problem, "give the run folder of `train`, or --log alone")
        with log_file(log) as path:
            decisions = DecisionLog.read(path, trained.experts)
        return evaluate_router_log(run, trained, decisions, None if rows is None else rows.part(split))
    if prices is not None:
        if rows is None:
            raise InputError("prices", prices, "there is no table to price", "give --table")
        trained, rows = reprice_run(trained, rows, read_prices(prices, rows.experts, on))
    devices = None if placement is None else integers_in("placement", placement, "0,0,1,1")
    measured = {} if rows is None else evaluate_run(trained, rows, split, devices)
    if log is None:
        return measured
    with log_file(log) as path:
        decisions = DecisionLog.read(path, trained.router.experts)
    return evaluate_log(trained, decisions, None if rows is None else rows.part(split)) | measured


def _check_used(table: str | None, given: dict[str, tuple[Any, Any]]) -> None:
    """Raise InputError if there is no table, and an option about its rows differs from its default."""
    for name, (value, default) in given.items():
        if table is None and value != default:
            raise InputError(name, value, "is about the rows of a table, and there is none", "give --table")


COMMAND = Command(
    run=evaluate,
    view=evaluation_view,
    positional=(("run", Path, "a run folder of `train`, or an exported router"),),
)
