"""Service times from a decision log: latencies of each expert, fitted to the lengths of its answers.

The latency of expert e is modelled as

    latency = (base + per_in x tokens_in + per_out x tokens_out) x noise,    base, per_in, per_out >= 0

by non-negative least squares (Lawson and Hanson 1974) on its answers; the noise is drawn from the ratios of
latency to fit, so that the spread of the latencies is kept. An answer that was not given has the length of
the logged one, times the ratio of the two experts' mean lengths. Without token counts the latency of another
query is a draw from the expert's latencies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from envs import QueueUnits
from experts import InputError, OutcomeTable
from experts.table.decision_log import DecisionLog

__all__ = [
    "LatencyModel",
    "fitted_latencies",
    "latency_notes",
    "logged_latencies",
    "others_in_flight",
    "table_latencies",
]

_MIN_ROWS = 10  # answers with token counts from which the lengths are used
_LEAST_S = 1e-6
_ALONE = 0.5  # other requests in flight up to which an expert counts as idle


class LatencyModel(NamedTuple):
    """The latency of one expert.

    Attributes:
        base: seconds of every request.
        per_in: seconds for each token of the prompt.
        per_out: seconds for each token of the answer.
        length: mean tokens of its answers; NaN if not known.
        noise: [M] float64, ratios of its latencies to the fit.
    """

    base: float
    per_in: float
    per_out: float
    length: float
    noise: np.ndarray

    def seconds(self, tokens_in: np.ndarray, tokens_out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return latencies [T] float64, above 0, of answers with token counts [T] float64."""
        fit = self.base + self.per_in * tokens_in + self.per_out * tokens_out
        return np.maximum(fit, _LEAST_S) * rng.choice(self.noise, len(fit))


def fitted_latencies(log: DecisionLog) -> tuple[LatencyModel, ...]:
    """Return the latency model of every expert.

    Args:
        log: with latencies.

    Raises:
        InputError: an expert has no answer with a latency.
    """
    models: list[LatencyModel] = []
    tokens_in, tokens_out = _tokens(log)
    latency = _latencies(log)
    for expert, name in enumerate(log.experts):
        known = (log.action == expert) & (latency > 0)
        if not known.any():
            problem = f"has no answer of {name} with a latency"
            raise InputError("log", f"{len(log)} decisions", problem, "leave the expert out, or log longer")
        lengths = tokens_out[known]
        mean = float(np.nanmean(lengths)) if np.isfinite(lengths).any() else float("nan")
        rows = known & np.isfinite(tokens_in) & np.isfinite(tokens_out)
        seconds = latency[rows if rows.sum() >= _MIN_ROWS else known]
        if rows.sum() >= _MIN_ROWS:
            measured = np.stack([np.ones(rows.sum()), tokens_in[rows], tokens_out[rows]], axis=1)
            scale = measured.max(axis=0).clip(min=1.0)
            weights = nnls(measured / scale, seconds)[0] / scale
            noise = seconds / np.maximum(measured @ weights, _LEAST_S)
            base, per_in, per_out = map(float, weights)
            models.append(LatencyModel(base, per_in, per_out, mean, noise))
        else:
            models.append(LatencyModel(float(seconds.mean()), 0.0, 0.0, mean, seconds / seconds.mean()))
    return tuple(models)


def logged_latencies(log: DecisionLog, queries: DecisionLog, seed: int = 0) -> np.ndarray:
    """Return the latency of every expert on logged queries: as measured, or by its model.

    Args:
        log: the decisions that the models are fitted to.
        queries: T of them.
        seed: of the noise.

    Returns:
        [T, N] float64 seconds, above 0.

    Raises:
        InputError: an expert has no answer with a latency.
    """
    models, rng = fitted_latencies(log), np.random.default_rng(seed)
    tokens_in, tokens_out = (_filled(values) for values in _tokens(queries))
    own_length = np.array([model.length for model in models])[queries.action]
    result = np.empty((len(queries), len(models)))
    for expert, model in enumerate(models):
        ratio = model.length / own_length
        length = tokens_out * np.where(np.isfinite(ratio), ratio, 1.0)
        result[:, expert] = model.seconds(tokens_in, length, rng)
    measured, row = _latencies(queries), np.arange(len(queries))
    known = measured > 0
    result[row[known], queries.action[known]] = measured[known]
    return result


def table_latencies(log: DecisionLog, table: OutcomeTable, seed: int = 0) -> np.ndarray:
    """Return the latency of every expert on a table's queries, by the models of a log.

    Args:
        log: decisions among the table's experts.
        table: T queries; its token counts are used where it has them.
        seed: of the noise.

    Returns:
        [T, N] float64 seconds, above 0.

    Raises:
        InputError: an expert has no answer with a latency.
    """
    rng = np.random.default_rng(seed)
    logged_in, _ = _tokens(log)
    usual_in = float(np.nanmean(logged_in)) if np.isfinite(logged_in).any() else 0.0
    result = np.empty((len(table), len(table.experts)))
    for expert, model in enumerate(fitted_latencies(log)):
        usual_out = 0.0 if np.isnan(model.length) else model.length
        tokens_in = _column(table.tokens_in, expert, len(table), usual_in)
        tokens_out = _column(table.tokens_out, expert, len(table), usual_out)
        result[:, expert] = model.seconds(tokens_in, tokens_out, rng)
    return result


def others_in_flight(log: DecisionLog) -> np.ndarray:
    """Return how many other requests each expert had at work when one was sent to it: means, [N] float64.

    Args:
        log: with times and latencies; 0 for experts without any.
    """
    means = np.zeros(len(log.experts))
    latency = np.full(len(log), np.nan) if log.latency_s is None else log.latency_s
    if log.at is None:
        return means
    for expert in range(len(log.experts)):
        rows = (log.action == expert) & np.isfinite(log.at) & np.isfinite(latency)
        if rows.any():
            start = np.sort(log.at[rows])
            end = np.sort(log.at[rows] + latency[rows])
            begun = np.arange(len(start))  # those sent earlier
            means[expert] = float((begun - np.searchsorted(end, start, side="right")).clip(min=0).mean())
    return means


def latency_notes(log: DecisionLog, units: QueueUnits) -> list[str]:
    """Return sentences on the service times, and on experts whose latencies include waiting.

    Args:
        log: where they are from.
        units: the mean service times.
    """
    means = ", ".join(f"{name} {mean:.3g} s" for name, mean in zip(log.experts, units.service, strict=True))
    notes = [f"mean service times, from the log's latencies: {means}"]
    busy = others_in_flight(log)
    loaded = [f"{name} ({busy[at]:.1f})" for at, name in enumerate(log.experts) if busy[at] > _ALONE]
    if loaded:
        notes.append(
            "latencies include waiting for other requests at the same expert; their mean number was "
            f"{', '.join(loaded)}"
        )
    return notes


def _latencies(log: DecisionLog) -> np.ndarray:
    """Return the latencies of whole answers, [T] float64, NaN for others."""
    if log.latency_s is None:
        return np.full(len(log), np.nan)
    return np.where(log.answered, log.latency_s, np.nan)


def _tokens(log: DecisionLog) -> tuple[np.ndarray, np.ndarray]:
    """Return the token counts of prompts and answers, [T] float64 each, NaN where they are not known."""
    unknown = np.full(len(log), np.nan)
    return (
        unknown if log.tokens_in is None else log.tokens_in,
        unknown if log.tokens_out is None else log.tokens_out,
    )


def _column(counts: np.ndarray | None, expert: int, rows: int, usual: float) -> np.ndarray:
    """Return the token counts of an expert, [T] float64, with the usual count where they are not known."""
    if counts is None:
        return np.full(rows, usual)
    own = counts[:, expert].astype(np.float64)
    return np.where(np.isnan(own), usual, own)


def _filled(values: np.ndarray) -> np.ndarray:
    """Return the values with the mean of the known ones in place of NaN; 0 if none is known."""
    known = np.isfinite(values)
    return np.where(known, values, values[known].mean() if known.any() else 0.0)
