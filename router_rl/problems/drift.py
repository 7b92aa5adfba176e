"""Detect drift in live outcomes: experts whose quality or cost differs from the outcome table.

For each expert, and separately for quality and cost, a two-sided CUSUM (Page 1954) of standardised residuals

    up_t = max(0, up_{t-1} + z_t - k),    down_t = max(0, down_{t-1} - z_t - k),    z = (x - mean) / deviation

runs over the expert's decisions in order. Mean and deviation are those of a reference: the expert's outcomes
on the table's rows that the router sends to it, or on all rows for decisions that deviate from the router
(exploration). An alarm is raised above a threshold from simulated streams: they are sampled from the
reference, have the same length, and include the uncertainty of the reference's mean. The threshold keeps the
probability of any false alarm in the whole call at the requested level.

Source: Page, Continuous Inspection Schemes, https://doi.org/10.1093/biomet/41.1-2.100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from experts import DecisionLog, InputError, OutcomeTable
from experts.table.missing_outcomes import require_complete

from ..routing import Router

__all__ = ["Drift", "monitor", "monitor_log"]

_SLACK = 0.25  # k: half of the smallest shift of interest, in standard deviations
_STREAMS = 1000
_MIN_ROWS = 20  # of a reference
_GREEDY = 0.5  # decisions with a lower propensity were exploration
_KINDS = ("quality", "cost")


@dataclass(frozen=True, kw_only=True)
class Drift:
    """An alarm: an expert's outcomes differ from the reference.

    Attributes:
        expert: name of the expert.
        kind: `quality` or `cost`.
        decision: position of the alarm in the log, from 1.
        query_id: query of that decision.
        expected: mean expected from the reference over the decisions since `since`.
        seen: observed mean over these decisions.
        since: number of decisions of the log before the estimated change point.
    """

    expert: str
    kind: str
    decision: int
    query_id: str
    expected: float
    seen: float
    since: int

    def to_json(self) -> dict[str, Any]:
        """Return the alarm as JSON."""
        return asdict(self)


def monitor(
    router: Router,
    table: OutcomeTable,
    log: DecisionLog,
    *,
    false_alarms: float = 0.01,
    compute_weight: float | None = None,
    seed: int = 0,
) -> list[Drift]:
    """Detect experts whose outcomes drifted away from the table.

    Args:
        router: the router that made the decisions; it selects the reference rows of each expert.
        table: rows with features, such as the validation split.
        log: decisions in chronological order.
        false_alarms: probability of any alarm on a log without drift, in (0, 1).
        compute_weight: for a router with the compute weight as an input.
        seed: seed of the simulated streams.

    Returns:
        at most one alarm per expert and kind, by decision.

    Raises:
        InputError: `false_alarms` is out of range, the log's experts are not the table's, or outcomes are
            missing from the table.
        RouterError: the table has other experts or features than the router.
    """
    _check_rate("false_alarms", false_alarms)
    if log.experts != table.experts:
        raise InputError(
            "log", list(log.experts), "has other experts than the table", "give the run's own log"
        )
    require_complete(table, "the search for drift")
    router.check_pool(table.experts, 0 if table.features is None else table.features.shape[1])
    state = None if compute_weight is None else torch.full((len(table), 1), compute_weight)
    with torch.inference_mode():
        choice = router(torch.tensor(table.features), state).experts[:, 0].cpu().numpy()
    streams = _streams(log, np.arange(len(log)))
    alarms: list[Drift | None] = []
    for expert, kind, rows in streams:
        outcome = np.asarray(getattr(table, kind)[:, expert], dtype=np.float64)
        own = outcome[choice == expert]
        reference = _Reference(own if len(own) >= _MIN_ROWS else outcome, outcome)
        alarms.append(_drift(log, (expert, kind), rows, reference, false_alarms / len(streams), seed))
    return _in_order(alarms)


def monitor_log(
    log: DecisionLog, *, reference: float = 0.5, false_alarms: float = 0.01, seed: int = 0
) -> list[Drift]:
    """Detect experts whose outcomes drifted away from those in the earlier part of the log.

    Choices of the router are compared with earlier choices of the router, other decisions (exploration, or
    without a propensity) with earlier ones of their kind. An expert with fewer than 20 earlier outcomes is
    not watched.

    Args:
        log: decisions in chronological order.
        reference: fraction of the decisions, the first ones, that the others are compared with.
        false_alarms: probability of any alarm on a log without drift, in (0, 1).
        seed: seed of the simulated streams.

    Returns:
        at most one alarm per expert and kind, by decision.

    Raises:
        InputError: a number is out of range, or no expert has enough outcomes.
    """
    _check_rate("false_alarms", false_alarms)
    _check_rate("reference", reference)
    start = round(reference * len(log))
    earlier = {(expert, kind): rows for expert, kind, rows in _streams(log, np.arange(start))}
    later = _streams(log, np.arange(start, len(log)))
    watched = [each for each in later if len(earlier.get(each[:2], ())) >= _MIN_ROWS]
    if not watched:
        problem = f"has no expert with {_MIN_ROWS} outcomes in its first {start} decisions, and later ones"
        raise InputError("log", f"{len(log)} decisions", problem, "log longer, or give --table")
    alarms: list[Drift | None] = []
    for expert, kind, rows in watched:
        before = earlier[expert, kind]
        outcome = np.asarray(getattr(log, kind)[before], dtype=np.float64)
        explored = _explored(log, before)
        parts = [outcome[~explored], outcome[explored]]
        known = _Reference(*(part if len(part) >= _MIN_ROWS else outcome for part in parts))
        alarms.append(_drift(log, (expert, kind), rows, known, false_alarms / len(watched), seed))
    return _in_order(alarms)


class _Reference(NamedTuple):
    """Outcomes [M] float64 that an expert's are compared with: of the router's choices, and of the others."""

    chosen: np.ndarray
    explored: np.ndarray


def _check_rate(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise InputError(name, value, "is not between 0 and 1", "use a number such as 0.01")


def _streams(log: DecisionLog, among: np.ndarray) -> list[tuple[int, str, np.ndarray]]:
    """Return each expert, kind of outcome, and the rows among the given ones that have it; none is empty."""
    streams: list[tuple[int, str, np.ndarray]] = []
    for expert in range(len(log.experts)):
        for kind in _KINDS:
            known = (log.action[among] == expert) & ~np.isnan(getattr(log, kind)[among])
            if known.any():
                streams.append((expert, kind, among[known]))
    return streams


def _explored(log: DecisionLog, rows: np.ndarray) -> np.ndarray:
    """Return which decisions were not the router's own choice, or are not known to be."""
    return ~(log.propensity[rows] >= _GREEDY)


def _drift(
    log: DecisionLog,
    stream: tuple[int, str],
    rows: np.ndarray,
    reference: _Reference,
    share: float,
    seed: int,
) -> Drift | None:
    """Return the alarm of an expert's outcomes of one kind, if there is one."""
    expert, kind = stream
    alarm = _first_alarm(
        np.asarray(getattr(log, kind)[rows], dtype=np.float64),
        _explored(log, rows),
        *reference,
        share,
        np.random.default_rng([seed, expert, _KINDS.index(kind)]),
    )
    if alarm is None:
        return None
    at, since, expected, seen = alarm
    return Drift(
        expert=log.experts[expert],
        kind=kind,
        decision=int(rows[at]) + 1,
        query_id=str(log.query_id[rows[at]]),
        expected=expected,
        seen=seen,
        since=int(rows[since]),
    )


def _in_order(alarms: Sequence[Drift | None]) -> list[Drift]:
    return sorted((each for each in alarms if each is not None), key=lambda drift: drift.decision)


def cusum(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the upper and lower CUSUM statistics [..., T] of standardised residuals z [..., T].

    >>> up, down = cusum(np.array([1.25, 0.25, -2.25]))
    >>> up.tolist(), down.tolist()
    ([1.0, 1.0, 0.0], [0.0, 0.0, 2.0])
    """
    up, down = np.zeros_like(z), np.zeros_like(z)
    before_up, before_down = np.zeros(z.shape[:-1]), np.zeros(z.shape[:-1])
    for t in range(z.shape[-1]):
        before_up = up[..., t] = np.maximum(0.0, before_up + z[..., t] - _SLACK)
        before_down = down[..., t] = np.maximum(0.0, before_down - z[..., t] - _SLACK)
    return up, down


def _first_alarm(
    values: np.ndarray,
    explored: np.ndarray,
    reference: np.ndarray,
    all_rows: np.ndarray,
    share: float,
    rng: np.random.Generator,
) -> tuple[int, int, float, float] | None:
    """Return the first alarm, the change point, and the expected and observed means since; None if none."""
    mean = np.where(explored, all_rows.mean(), reference.mean())
    deviation = np.where(explored, _deviation(all_rows), _deviation(reference))
    streams = np.where(
        explored,
        rng.choice(all_rows, (_STREAMS, len(values))),
        rng.choice(reference, (_STREAMS, len(values))),
    )
    # The reference is a sample too: its mean has a standard error of a deviation over the root of its rows.
    rows = np.where(explored, len(all_rows), len(reference))
    error = rng.standard_normal((_STREAMS, 1)) / np.sqrt(rows)
    simulated_up, simulated_down = cusum((streams - mean) / deviation + error)
    highest = np.maximum(simulated_up.max(axis=1), simulated_down.max(axis=1))
    threshold = _threshold(highest, share)
    up, down = cusum((values - mean) / deviation)
    crossed = np.flatnonzero(np.maximum(up, down) > threshold)
    if len(crossed) == 0:
        return None
    at = int(crossed[0])
    zeros = np.flatnonzero((up if up[at] > threshold else down)[:at] == 0.0)
    since = int(zeros[-1]) + 1 if len(zeros) else 0
    return at, since, float(mean[since : at + 1].mean()), float(values[since : at + 1].mean())


def _threshold(highest: np.ndarray, share: float) -> float:
    """Return the value that a share of the maxima exceeds; an exponential tail extrapolates small shares."""
    known = max(share, 10.0 / len(highest))
    threshold = float(np.quantile(highest, 1.0 - known))
    if share >= known:
        return threshold
    excess = highest[highest > threshold] - threshold
    scale = (
        float(excess.mean()) if len(excess) else 0.0
    )  # no maximum is above it if the largest ones are equal
    return threshold + scale * float(np.log(known / share))


def _deviation(values: np.ndarray) -> float:
    """Return the standard deviation; 1% of the mean if the outcome is constant."""
    return float(values.std()) or 0.01 * abs(float(values.mean())) or 0.01
