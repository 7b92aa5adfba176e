"""Watch live outcomes for drift: an expert that became better, worse, dearer or cheaper than it was.

For each expert, and for quality and cost apart, a two-sided CUSUM (Page 1954) of standardised residuals

    up_t = max(0, up_{t-1} + z_t - k),    down_t = max(0, down_{t-1} - z_t - k),    z = (x - mean) / deviation

runs over the decisions it took, in order. Mean and deviation are those of a reference: what the expert did on
the table's rows that the router sends to it, or on all rows for decisions drawn against the router
(exploration). It alarms above a limit that streams drawn from the reference itself, of the same length and as
unsure of the mean as the reference leaves one, cross so rarely that the whole call raises a false alarm with
the probability asked for.

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

_SLACK = 0.25  # k: half of the smallest shift worth telling, in deviations
_STREAMS = 1000
_FEWEST = 20  # rows of a reference
_CHOSEN = 0.5  # a decision less likely than this was exploration
_KINDS = ("quality", "cost")


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One alarm.

    Attributes:
        expert: whose outcomes changed.
        kind: `quality` or `cost`.
        decision: how many decisions of the log had been seen, this one among them.
        query_id: of that decision.
        expected: mean that the reference promises for the expert's decisions.
        seen: mean of the decisions since the sum last was zero, where the change most likely began.
        since: how many decisions of the log came before those.
    """

    expert: str
    kind: str
    decision: int
    query_id: str
    expected: float
    seen: float
    since: int

    def to_json(self) -> dict[str, Any]:
        """As printed by `--json`."""
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
    """Say which experts no longer do what the table says, at the first decision that shows it.

    Args:
        router: takes the decisions; it tells which rows of the table are its experts' reference.
        table: rows with features, such as the validation split.
        log: decisions in the order they were taken.
        false_alarms: probability that a log without drift raises any alarm, in (0, 1).
        compute_weight: for a router that has it as an input.
        seed: of the simulated streams.

    Returns:
        at most one alarm an expert and kind, by decision.

    Raises:
        InputError: the probability is none, or the log's experts are not the table's.
        RouterError: the table is another router's.
    """
    if not 0.0 < false_alarms < 1.0:
        raise InputError("false_alarms", false_alarms, "is no probability", "use a number such as 0.01")
    if log.experts != table.experts:
        raise InputError(
            "log", list(log.experts), "has other experts than the table", "give the run's own log"
        )
    router.check_pool(table.experts, 0 if table.features is None else table.features.shape[1])
    state = None if compute_weight is None else torch.full((len(table), 1), compute_weight)
    with torch.inference_mode():
        choice = router(torch.tensor(table.features), state).experts[:, 0].cpu().numpy()
    watched = [expert for expert in range(len(log.experts)) if (log.action == expert).any()]
    share = false_alarms / (len(watched) * len(_KINDS))
    found: list[Drift] = []
    for expert in watched:
        rows = np.flatnonzero(log.action == expert)
        explored = log.propensity[rows] < _CHOSEN
        own = choice == expert
        for kind in _KINDS:
            outcome = np.asarray(getattr(table, kind)[:, expert], dtype=np.float64)
            chosen = outcome[own] if own.sum() >= _FEWEST else outcome
            alarm = _first_alarm(
                np.asarray(getattr(log, kind)[rows], dtype=np.float64),
                explored,
                chosen,
                outcome,
                share,
                np.random.default_rng([seed, expert, _KINDS.index(kind)]),
            )
            if alarm is not None:
                at, since, expected, seen = alarm
                found.append(
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
    return sorted(found, key=lambda drift: drift.decision)


def cusum(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two sums [..., T] over standardised residuals z [..., T].

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
    chosen: np.ndarray,
    everywhere: np.ndarray,
    share: float,
    rng: np.random.Generator,
) -> tuple[int, int, float, float] | None:
    """Where the sums first cross their limit, where the change began, what was expected and what was seen."""
    mean = np.where(explored, everywhere.mean(), chosen.mean())
    deviation = np.where(explored, _deviation(everywhere), _deviation(chosen))
    streams = np.where(
        explored,
        rng.choice(everywhere, (_STREAMS, len(values))),
        rng.choice(chosen, (_STREAMS, len(values))),
    )
    # The reference is a sample too: its mean is off by about a deviation over the root of its rows.
    rows = np.where(explored, len(everywhere), len(chosen))
    off = rng.standard_normal((_STREAMS, 1)) / np.sqrt(rows)
    calm_up, calm_down = cusum((streams - mean) / deviation + off)
    highest = np.maximum(calm_up.max(axis=1), calm_down.max(axis=1))
    limit = _tail(highest, share)
    up, down = cusum((values - mean) / deviation)
    crossed = np.flatnonzero(np.maximum(up, down) > limit)
    if len(crossed) == 0:
        return None
    at = int(crossed[0])
    zeros = np.flatnonzero((up if up[at] > limit else down)[:at] == 0.0)
    since = int(zeros[-1]) + 1 if len(zeros) else 0
    return at, since, float(mean[since : at + 1].mean()), float(values[since : at + 1].mean())


def _tail(highest: np.ndarray, share: float) -> float:
    """The limit a share of maxima exceeds; by an exponential tail where streams are too few to show it."""
    known = max(share, 10.0 / len(highest))
    limit = float(np.quantile(highest, 1.0 - known))
    if share >= known:
        return limit
    excess = highest[highest > limit] - limit
    return limit + float(excess.mean()) * float(np.log(known / share))


def _deviation(values: np.ndarray) -> float:
    """Standard deviation; of an outcome that never varied a hundredth of its size."""
    return float(values.std()) or 0.01 * abs(float(values.mean())) or 0.01
