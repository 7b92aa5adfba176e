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

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from experts import DecisionLog, InputError, OutcomeTable

from ..routing import Router

__all__ = ["Drift", "monitor"]

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
        InputError: `false_alarms` is out of range, or the log's experts are not the table's.
        RouterError: the table has other experts or features than the router.
    """
    if not 0.0 < false_alarms < 1.0:
        raise InputError("false_alarms", false_alarms, "is not a probability", "use a number such as 0.01")
    if log.experts != table.experts:
        raise InputError(
            "log", list(log.experts), "has other experts than the table", "give the run's own log"
        )
    router.check_pool(table.experts, 0 if table.features is None else table.features.shape[1])
    state = None if compute_weight is None else torch.full((len(table), 1), compute_weight)
    with torch.inference_mode():
        choice = router(torch.tensor(table.features), state).experts[:, 0].cpu().numpy()
    active = [expert for expert in range(len(log.experts)) if (log.action == expert).any()]
    share = false_alarms / (len(active) * len(_KINDS))
    alarms: list[Drift] = []
    for expert in active:
        rows = np.flatnonzero(log.action == expert)
        explored = log.propensity[rows] < _GREEDY
        own = choice == expert
        for kind in _KINDS:
            outcome = np.asarray(getattr(table, kind)[:, expert], dtype=np.float64)
            reference = outcome[own] if own.sum() >= _MIN_ROWS else outcome
            alarm = _first_alarm(
                np.asarray(getattr(log, kind)[rows], dtype=np.float64),
                explored,
                reference,
                outcome,
                share,
                np.random.default_rng([seed, expert, _KINDS.index(kind)]),
            )
            if alarm is not None:
                at, since, expected, seen = alarm
                alarms.append(
                    Drift(
                        expert=log.experts[expert],
                        kind=kind,
                        decision=int(rows[at]) + 1,
                        query_id=str(log.query_id[rows[at]]),
                        expected=expected,
                        seen=seen,
                        since=int(rows[since]),
                    )
                )
    return sorted(alarms, key=lambda drift: drift.decision)


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
    return threshold + float(excess.mean()) * float(np.log(known / share))


def _deviation(values: np.ndarray) -> float:
    """Return the standard deviation; 1% of the mean if the outcome is constant."""
    return float(values.std()) or 0.01 * abs(float(values.mean())) or 0.01
