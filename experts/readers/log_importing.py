"""Import of other servers' logs as decision logs, with a report of what they have and what they lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..io.atomic import writable_file
from ..io.errors import InputError
from ..io.progress import track
from ..table.decision_log import DecisionLog
from .files import records, result_files
from .log_formats import LOG_FORMATS, find_log_format
from .outcome import text
from .served import LogReader, Served

__all__ = ["import_log"]

_NUMBERS = ("at", "latency_s", "tokens_in", "tokens_out", "cost", "quality")


def import_log(
    source: Path | str,
    out: Path | str,
    *,
    format_name: str = "auto",
    expert_column: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write another server's log as a decision log, oldest request first; the source is not changed.

    Args:
        source: a Parquet, CSV, JSON Lines or JSON file, gzipped or not, or a folder of them.
        out: the Parquet file to write.
        format_name: a key of `LOG_FORMATS`, or `auto`.
        expert_column: column that names the expert; None: the format's own.
        progress: show progress on stderr.

    Returns:
        the format, the decisions, facts about each expert, the rows left out by reason, and what the log
        lacks.

    Raises:
        InputError: names the file, the row, the column and the fix; nothing was written.
    """
    files = result_files(Path(source))
    name = find_log_format(format_name, files)
    reader, left_out = LOG_FORMATS[name], Counter[str]()
    out = writable_file("out", out)
    column = expert_column or reader.expert
    rows = list(track(_requests(files, reader, column, left_out), "reading requests", None, shown=progress))
    if not rows:
        reasons = ", ".join(f"{count} rows: {reason}" for reason, count in left_out.items())
        fix = "give a longer log, or --expert-column"
        raise InputError("source", str(source), f"has no requests ({reasons or 'no rows'})", fix)
    rows.sort(key=lambda row: row.at)
    log = _log_of(rows)
    log.write(out)
    return {
        "written": str(out),
        "format": name,
        "decisions": len(log),
        "seconds": float(rows[-1].at - rows[0].at),
        "experts": {expert: _facts(log, at) for at, expert in enumerate(log.experts)},
        "left_out": dict(left_out),
        "lacks": reader.lacks,
    }


def _requests(
    files: Sequence[Path], reader: LogReader, column: str, left_out: Counter[str]
) -> Iterator[Served]:
    for file in files:
        for number, row in enumerate(records(file)):
            served = reader.read(row, text(row.get(column)), f"{file}: row {number}")
            if isinstance(served, str):
                left_out[served] += 1
            else:
                yield served


def _log_of(rows: Sequence[Served]) -> DecisionLog:
    experts = sorted({row.expert for row in rows})
    ids = {expert: at for at, expert in enumerate(experts)}
    numbers: dict[str, Any] = {
        name: np.array([_number(getattr(row, name)) for row in rows], dtype=np.float64) for name in _NUMBERS
    }
    return DecisionLog(
        experts=tuple(experts),
        query_id=np.array([row.query for row in rows], dtype=object),
        action=np.array([ids[row.expert] for row in rows]),
        propensity=np.full(len(rows), np.nan),
        status=np.array([row.status for row in rows], dtype=object),
        session=np.array([row.session for row in rows], dtype=object),
        cost_unit="usd",
        **numbers,
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _facts(log: DecisionLog, expert: int) -> dict[str, Any]:
    """Return an expert's number of decisions and failures, and its mean cost, latency and quality."""
    rows = log.action == expert
    assert log.latency_s is not None
    answered = rows & log.answered
    return {
        "decisions": int(rows.sum()),
        "failed": int((rows & log.failed).sum()),
        "cost": _mean(log.cost[answered]),
        "latency_s": _mean(log.latency_s[answered]),
        "median_latency_s": _mean(log.latency_s[answered], np.median),
        "quality": _mean(log.quality[rows]),
    }


def _mean(values: np.ndarray, of: Callable[[np.ndarray], Any] = np.mean) -> float | None:
    """Return the mean of the known values; None if there is none."""
    known = values[np.isfinite(values)]
    return float(of(known)) if len(known) else None
