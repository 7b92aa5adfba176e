"""The units of the queueing environment, measured on the training rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experts import OutcomeTable

from .outcomes import compute_scale
from .queueing_config import QueueingConfig
from .request_lengths import Lengths
from .service_time import service_times

__all__ = ["QueueUnits", "ServerUnits"]


class ServerUnits(NamedTuple):
    """What usual requests take at model servers, seconds; of one expert.

    Attributes:
        first: to the first token, with the server idle.
        token: for each further token, with the server idle.
        token_full: for each further token, at `seats` requests.
        seats: requests that the server works on at once at its capacity.
        answer: mean tokens of an answer.
        prompt: for each token of a prompt.
    """

    first: float
    token: float
    token_full: float
    seats: float
    answer: float
    prompt: float


class QueueUnits(NamedTuple):
    """The units of compute, time and load.

    Attributes:
        compute: cost of one unit of compute.
        service: [N] mean service time of each expert, seconds; of model servers at an idle server.
        batch_service: [N] mean seconds of a full batch, which takes as long as its longest request; of model
            servers, seconds a request at capacity.
        servers: [N], of model servers; empty for queues.
    """

    compute: float
    service: tuple[float, ...]
    batch_service: tuple[float, ...]
    servers: tuple[ServerUnits, ...] = ()

    @classmethod
    def of(cls, table: OutcomeTable, config: QueueingConfig, lengths: Lengths | None = None) -> QueueUnits:
        """The units of a table's rows.

        Args:
            table: the rows.
            config: the options.
            lengths: of the requests; required for model servers.

        Raises:
            InputError: a list of the servers' options does not have length N.
        """
        if config.servers != "queue":
            assert lengths is not None
            measure = _engines if config.servers == "continuous" else _apis
            servers, capacity = measure(config, lengths.means())
            service = [each.first + each.token * (each.answer - 1.0) for each in servers]
            return cls(
                compute_scale(table), tuple(service), tuple(float(1.0 / pace) for pace in capacity), servers
            )
        times = np.sort(service_times(table), axis=0)
        # The distribution of the longest of `batch` draws.
        below = np.linspace(0.0, 1.0, len(times) + 1) ** config.batch
        longest = np.diff(below) @ times * (1.0 + config.batch_slope * (config.batch - 1))
        return cls(compute_scale(table), tuple(times.mean(axis=0).tolist()), tuple(longest.tolist()))

    @property
    def mean_service(self) -> float:
        """Mean service time over the experts, seconds: the unit of deadlines and outages."""
        return float(np.mean(self.service))


def _engines(config: QueueingConfig, means: np.ndarray) -> tuple[tuple[ServerUnits, ...], list[float]]:
    """Units and requests a second of engines, for mean tokens of prompts and answers [N, 2]."""
    each = {name: np.array(value) for name, value in config.continuous.of(len(means)).items()}
    prompt, answer = means.T
    held = prompt + answer / 2.0  # tokens of a sequence, on average
    seats = np.minimum(each["max_seqs"], np.maximum(each["kv_tokens"] / held, 1.0))
    alone, full = (
        each["step_s"] + count * (each["sequence_s"] + each["context_s"] * held) for count in (1.0, seats)
    )
    first = each["step_s"] * np.ceil(prompt / each["chunk"]) + each["prefill_s"] * prompt
    seconds = answer * full / seats + each["prefill_s"] * prompt  # of the engine for each request
    # Prefills of others lengthen the steps, in the proportion of their share of the engine's time.
    slowed = full * seconds / (answer * full / seats)
    columns = (first, alone, slowed, seats, answer, each["prefill_s"])
    return tuple(ServerUnits(*map(float, row)) for row in zip(*columns, strict=True)), list(1.0 / seconds)


def _apis(config: QueueingConfig, means: np.ndarray) -> tuple[tuple[ServerUnits, ...], list[float]]:
    """Units and requests a second of APIs, for mean tokens of prompts and answers [N, 2]."""
    each = {name: np.array(value) for name, value in config.api.of(len(means)).items()}
    prompt, answer = means.T
    with np.errstate(divide="ignore"):
        limits = [each["requests_per_minute"]]
        for name, tokens in (("input_per_minute", prompt), ("output_per_minute", answer)):
            limits.append(np.where(each[name] > 0, each[name] / tokens, np.inf))
    pace = np.min(limits, axis=0) / 60.0 * (1.0 - each["failure_rate"])  # repeats count too
    slow = 1.0 + each["straggler_rate"] * (each["straggler_slowdown"] - 1.0)
    fails = each["failure_rate"] * (each["failure_s"] + each["backoff_s"])
    first = fails + slow * (each["first_s"] + each["prefill_s"] * prompt)
    token = slow * each["token_s"]
    seats = pace * (first + token * (answer - 1.0))  # in flight at capacity
    columns = (first, token, token, seats, answer, each["prefill_s"])
    return tuple(ServerUnits(*map(float, row)) for row in zip(*columns, strict=True)), list(pace)
