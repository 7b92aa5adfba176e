"""Arrivals and outages from a decision log."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from envs import QueueingConfig, QueueUnits
from envs.traces import Arrivals
from experts import InputError
from experts.table.decision_log import DecisionLog

from .queueing_options import QueueingOptions

__all__ = ["LoggedOutages", "logged_arrivals", "logged_outages", "traffic_notes"]

_LEAST_FAILURES = 2  # in a row; a single failure is a failed request, not an outage


class LoggedOutages(NamedTuple):
    """The outages of all experts together.

    Attributes:
        outages: how many there were.
        mean_up_s: mean seconds between an expert's recovery and its next outage; infinite without outages.
        mean_repair_s: mean seconds of an outage; 0 without outages.
        lone: failures outside of outages, as a fraction of all decisions.
    """

    outages: int
    mean_up_s: float
    mean_repair_s: float
    lone: float

    def simulated(self, options: QueueingOptions, unit: float) -> QueueingOptions:
        """Return options with these outages.

        Args:
            options: the options.
            unit: mean service time in seconds, the unit of outages.
        """
        if not self.outages:
            return options
        return replace(options, mean_up=self.mean_up_s / unit, mean_repair=self.mean_repair_s / unit)


def logged_arrivals(log: DecisionLog) -> Arrivals:
    """Return when requests arrived; a second try of a request is no arrival.

    Args:
        log: with times.

    Raises:
        InputError: the log has no times, or too few.
    """
    if log.at is None:
        fix = "log the time of each decision in a column `at`, in seconds"
        raise InputError("log", f"{len(log)} decisions", "has no times", fix)
    first = np.ones(len(log), dtype=bool)
    if log.previous is not None:
        first = np.array([previous is None for previous in log.previous])
    return Arrivals(name="the log", arrival_s=np.sort(log.at[first & np.isfinite(log.at)]))


def logged_outages(log: DecisionLog) -> LoggedOutages:
    """Return the outages: two or more failures of an expert in a row, until it answers again.

    The end is the time of the next request that it answered, so outages seem longer the fewer requests an
    expert gets.

    Args:
        log: with times and status; without, there are no outages.
    """
    spells: list[float] = []
    within = 0
    failed = log.failed
    at = log.at
    if at is None or not failed.any():
        return LoggedOutages(0, float("inf"), 0.0, float(failed.mean()))
    watched = 0.0
    settled = (failed | log.answered) & np.isfinite(at)
    for expert in range(len(log.experts)):
        rows = np.flatnonzero(settled & (log.action == expert))
        if len(rows) == 0:
            continue
        rows = rows[np.argsort(at[rows], kind="stable")]
        watched += float(at[rows[-1]] - at[rows[0]])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], failed[rows].astype(np.int8), [0]])))
        for first, after in edges.reshape(-1, 2):
            if after - first >= _LEAST_FAILURES:
                within += int(after - first)
                spells.append(float(at[rows[min(after, len(rows) - 1)]] - at[rows[first]]))
    lone = (int(failed.sum()) - within) / len(log)
    total = sum(spells)
    if total <= 0.0:
        return LoggedOutages(0, float("inf"), 0.0, lone)
    repair = total / len(spells)
    up = max((watched - total) / len(spells), repair / 1000.0)  # 0 would mean no outages
    return LoggedOutages(len(spells), up, repair, lone)


def traffic_notes(
    arrivals: Arrivals, outages: LoggedOutages, units: QueueUnits, config: QueueingConfig
) -> list[str]:
    """Return sentences on the arrivals and the outages of a log.

    Args:
        arrivals: of the log.
        outages: of the log.
        units: the service times.
        config: load and replicas.
    """
    gap = float(np.diff(arrivals.arrival_s).mean())
    load = config.load * config.gap(units.batch_service) / gap
    notes = [
        f"arrivals are the log's {len(arrivals.arrival_s)} requests; its own rate, {1.0 / gap:.3g} a second, "
        f"is load {load:.3g}"
    ]
    if outages.outages:
        notes.append(
            f"{outages.outages} outages in the log, of {outages.mean_repair_s:.3g} s on average, one in "
            f"{outages.mean_up_s + outages.mean_repair_s:.3g} s of an expert"
        )
    if outages.lone:
        notes.append(f"failures outside of outages are not simulated: {outages.lone:.2%} of the decisions")
    return notes
