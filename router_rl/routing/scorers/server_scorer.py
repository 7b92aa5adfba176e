"""A scorer of language model servers: engines with continuous batching, or rate-limited APIs.

The index of expert e for a request of value v is `terms . weights`, as for queues, with the terms

    quality    v * predicted quality
    compute    -predicted compute
    lateness   -v * max(0, expected finish - deadline) / deadline
    first      -v * max(0, expected first token - its deadline) / its deadline; 0 without one
    wait       -expected wait, in the pool's mean service times
    jobs       -requests at the expert for each of its seats
    pace       as for queues

A policy adds learned `prices`, one for each product of a quantity of the expert and a quantity that all
share.

The expected wait of an engine that is full (no seat free, or 95% of its cache in use) is the time in which it
works off the requests that wait and one more; else the prefill of the tokens ahead. The expected wait of an
API is the time until its fullest token bucket has room for a mean request. A token takes longer the more
seats are taken, in proportion. A learned `LatencyCorrection` can multiply the expected times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple, get_type_hints

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from .latency_correction import LatencyCorrection
from .queue_scorer import QueueParts, QueueScorer
from .scorer import StandardisingScorer

__all__ = ["SERVER_TERMS", "Expected", "ServerConstants", "ServerParts", "ServerScorer"]

SERVER_TERMS = ("quality", "compute", "lateness", "first", "wait", "jobs", "pace")
_AHEAD, _SHORT = -1.0, 4.0  # clamps of the pace, as for queues
_FULL = 0.95  # share of the cache
_SHARED = ("gap", "repair", "budget")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConstants:
    """Constants of the experts' servers; [N] each, but for the last three.

    Attributes:
        service: seconds of a mean request at an idle server.
        drain: seconds a request at capacity.
        seats: requests that a server works on at once at its capacity.
        first: seconds to the first token of a mean request at an idle server.
        prompt: mean tokens of a prompt.
        prompt_s: seconds for each token of a prompt.
        token_s: seconds for each further token, with the server idle.
        full_token_s: seconds for each further token, with all seats taken.
        refill_s: seconds in which an empty token bucket fills; 0 for engines.
        need: share of the fullest bucket that a mean request needs; 0 for engines.
        gap: mean seconds between arrivals.
        repair: mean seconds an expert is down.
        budget: mean compute allowed for a request; 0 where there is no budget.
    """

    service: tuple[float, ...]
    drain: tuple[float, ...]
    seats: tuple[float, ...]
    first: tuple[float, ...]
    prompt: tuple[float, ...]
    prompt_s: tuple[float, ...]
    token_s: tuple[float, ...]
    full_token_s: tuple[float, ...]
    refill_s: tuple[float, ...]
    need: tuple[float, ...]
    gap: float
    repair: float
    budget: float = 0.0

    @property
    def mean_service(self) -> float:
        """Mean of `service` over the experts, in seconds."""
        return sum(self.service) / len(self.service)

    def check(self, experts: int) -> None:
        """Check the constants.

        Args:
            experts: N.

        Raises:
            RouterError: a constant is outside its range, or is not given for every expert.
        """
        for each in fields(self):
            values = getattr(self, each.name)
            if each.name in _SHARED:
                continue
            least = 0.0 if each.name in ("refill_s", "need", "first", "prompt_s") else 1e-12
            if len(values) != experts or not all(value >= least for value in values):
                raise RouterError(f"ServerConstants.{each.name} must be {experts} numbers, one an expert")
        if not (self.gap > 0.0 and self.repair >= 0.0):
            raise RouterError("ServerConstants: gap must be above 0, and repair 0 or more")


class ServerParts(NamedTuple):
    """A server scorer's inputs by name.

    Attributes:
        queues: the parts that queues have too.
        used: [T, N], share of the cache, or of the fullest limit, that is used.
        ahead: [T, N], tokens of prompts that are not computed yet.
        recent_first: [T, N], running mean of the seconds to the first token.
        recent_token: [T, N], running mean of the seconds per further token.
        tokens: [T, 1], of the prompt.
        first_deadline: [T, 1] seconds; 0 for none.
    """

    queues: QueueParts
    used: Tensor
    ahead: Tensor
    recent_first: Tensor
    recent_token: Tensor
    tokens: Tensor
    first_deadline: Tensor


class Expected(NamedTuple):
    """What a request can expect of each server, [T, N] seconds each."""

    wait: Tensor
    first: Tensor
    finish: Tensor


class ServerScorer(QueueScorer):
    """An index of predictions and expected times of model servers, and learned prices.

    Args:
        inputs: D + 7 N + 8.
        experts: N.
        constants: of the experts' servers.
        latency_hidden: width of the network that corrects expected times; 0: they are not corrected.

    Raises:
        RouterError: a constant is outside its range, or is not given for every expert.
    """

    kind: ClassVar[str] = "servers"
    term_names: ClassVar[tuple[str, ...]] = SERVER_TERMS
    _table: Tensor
    prices_shape: ClassVar[tuple[int, int]] = (16, 7)

    def __init__(  # pyright: ignore[reportMissingSuperCall] (that of queues has other constants)
        self, inputs: int, experts: int, constants: ServerConstants, latency_hidden: int = 0
    ) -> None:
        constants.check(experts)
        if latency_hidden < 0:
            raise RouterError(f"latency_hidden={latency_hidden} must be 0 or more")
        self.features = inputs - 7 * experts - 8
        StandardisingScorer.__init__(self, inputs, experts, self.features)
        self.server = constants
        self.register_buffer("weights", torch.zeros(len(self.term_names)))
        self.register_buffer("prices", torch.zeros(self.prices_shape[0] * self.prices_shape[1]))
        self.estimate = nn.Linear(self.features, 3 * experts)  # quality, compute, service seconds
        self.latency_hidden = latency_hidden
        self.latency = LatencyCorrection(experts, latency_hidden) if latency_hidden else None
        table = [
            getattr(constants, each.name) for each in fields(ServerConstants) if each.name not in _SHARED
        ]
        self.register_buffer("_table", torch.tensor(table, dtype=torch.float32), persistent=False)
        self.register_buffer(
            "_seconds", torch.tensor(constants.service, dtype=torch.float32), persistent=False
        )

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """The types of the fields of `spec`: those of the shape and of the constants."""
        return {"inputs": int, "experts": int, "latency_hidden": int, **get_type_hints(ServerConstants)}

    @classmethod
    def from_spec(cls, arguments: Mapping[str, Any]) -> ServerScorer:
        """Build an untrained scorer from the fields of `spec`; the constants stand beside the shape.

        Args:
            arguments: `inputs`, `experts`, `latency_hidden` if it is not 0, and the fields of
                `ServerConstants`.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()
        }
        own = ("inputs", "experts", "latency_hidden")
        shape = {name: values.pop(name) for name in own if name in values}
        return cls(**shape, constants=ServerConstants(**values))

    def spec(self) -> dict[str, Any]:
        """The scorer's shape and the constants of its servers as JSON."""
        constants = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.server).items()}
        shape = {"kind": self.kind, "inputs": self.inputs, "experts": self.experts}
        if self.latency_hidden:
            shape["latency_hidden"] = self.latency_hidden
        return {**shape, **constants}

    def server_parts(self, x: Tensor) -> ServerParts:
        """Split inputs [T, D + 7 N + 8] by name."""
        n = self.experts
        *queues, used, ahead, first, token, tokens, deadline = x.float().split(
            [self.features, n, n, n, 1, 1, 2, 2, n, n, n, n, 1, 1], dim=-1
        )
        return ServerParts(QueueParts(*queues), used, ahead, first, token, tokens, deadline)

    def terms(self, x: Tensor) -> Tensor:
        """The index's terms [T, N, 7] of inputs [T, D + 7 N + 8]; each is better when larger."""
        return self._all(x)[0]

    def scores(self, x: Tensor, prices: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + 7 N + 8] at other prices, [112] or [T, 112] float32."""
        terms, own, moment = self._all(x)
        price = prices.unflatten(-1, self.prices_shape) @ moment.unsqueeze(-1)
        return terms @ self.weights + (own @ price).squeeze(-1)

    def priced(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The index [T, N], and the priced quantities [T, N, 112], of inputs [T, D + 7 N + 8]."""
        terms, own, moment = self._all(x)
        products = own.unsqueeze(-1) * moment.unsqueeze(-2).unsqueeze(-2)
        return terms @ self.weights, products.flatten(-2)

    def expected(self, parts: ServerParts) -> Expected:
        """What requests can expect of each server: wait, time to the first token, time to the last."""
        plain = self.computed(parts)
        if self.latency is None:
            return plain
        factor = self.latency(self.latency_quantities(parts)).exp()
        first = self.least_first(plain) * factor[..., 0]
        wait = (plain.wait + first - plain.first).clamp(min=0.0)
        return Expected(wait, first, first + (plain.finish - plain.first) * factor[..., 1])

    def least_first(self, expected: Expected) -> Tensor:
        """The expected time to the first token [T, N] that is corrected: above 0."""
        return expected.first.clamp(min=1e-3 * self.server.mean_service)

    def latency_quantities(self, parts: ServerParts) -> Tensor:
        """What a `LatencyCorrection` reads of each server, [T, N, 8]."""
        _, _, seats, _, prompt, prompt_s, token_s, *_ = self._table
        unit = self.server.mean_service
        columns = (
            (parts.queues.waiting / seats).log1p(),
            (parts.queues.taken / seats).clamp(max=4.0),
            parts.queues.down,
            parts.used.clamp(-1.0, 4.0),
            (parts.ahead * prompt_s / unit).log1p(),
            (parts.recent_first / unit).log1p(),
            (parts.recent_token / token_s).log1p(),
            (parts.tokens / prompt).clamp(min=1e-3).log(),
        )
        return torch.stack(columns, dim=-1)

    def computed(self, parts: ServerParts) -> Expected:
        """The same from the constants alone, before any correction."""
        _, drain, seats, first, prompt, prompt_s, token_s, full_token_s, refill_s, need = self._table
        queues = parts.queues
        limited = refill_s > 0
        full = ~limited & ((queues.taken >= seats) | (parts.used > _FULL))
        wait = torch.where(full, (queues.waiting + 1.0) * drain, parts.ahead * prompt_s)
        wait = wait + (parts.used + need - 1.0).clamp(min=0.0) * refill_s + queues.down * self.server.repair
        _, _, service = self._predictions(queues.features)
        first_token = wait + (first + prompt_s * (parts.tokens - prompt)).clamp(min=0.0)
        slower = 1.0 + (full_token_s / token_s - 1.0) * (queues.taken / seats).clamp(max=1.0)
        return Expected(wait, first_token, first_token + (service - first).clamp(min=0.0) * slower)

    def _all(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The terms [T, N, 7], the quantities of each expert [T, N, 16], and those of all [T, 7]."""
        parts, constants = self.server_parts(x), self.server
        queues, unit = parts.queues, constants.mean_service
        _, _, seats, _, prompt, prompt_s, token_s, *_ = self._table
        quality, compute, _ = self._predictions(queues.features)
        wait, first, finish = self.expected(parts)
        late = (finish - queues.deadline).clamp(min=0.0) / queues.deadline.clamp(min=1e-9)
        has_first = parts.first_deadline > 0
        first_over = (first - parts.first_deadline).clamp(min=0.0) * has_first
        first_late = first_over / parts.first_deadline.clamp(min=1e-9)
        short = torch.zeros_like(queues.value)
        if constants.budget:
            short = (1.0 - queues.budget[:, :1] / constants.budget).clamp(_AHEAD, _SHORT)
        waits, value = wait / unit, queues.value
        terms = (
            value * quality,
            -compute,
            -value * late,
            -value * first_late,
            -waits,
            -(queues.waiting + queues.taken) / seats,
            -compute * short,
        )
        own = (
            value * quality,
            -compute,
            (-value * late).clamp(min=-4.0),
            (-value * first_late).clamp(min=-4.0),
            -waits.clamp(max=8.0),
            waits.log1p(),
            (queues.waiting / seats).clamp(max=20.0),
            (queues.taken / seats).clamp(max=4.0),
            queues.down,
            parts.used.clamp(-1.0, 4.0),
            (parts.ahead * prompt_s / unit).clamp(max=8.0),
            (finish / unit).clamp(max=10.0),
            (finish > queues.deadline).float(),
            (first_over > 0).float(),
            (parts.recent_first / unit).clamp(max=8.0),
            (parts.recent_token / token_s).clamp(max=8.0),
        )
        pace = (queues.gaps / constants.gap).clamp(min=1e-4).log().clamp(-4.0, 4.0)
        crowd = ((queues.waiting + queues.taken).sum(dim=-1, keepdim=True) / seats.sum()).log1p()
        spare = (queues.budget[:, :1] - constants.budget).clamp(-1.0, 1.0)
        size = (parts.tokens / prompt.mean()).clamp(min=1e-3).log().clamp(-4.0, 4.0)
        moment = torch.cat([torch.ones_like(crowd), pace, crowd, value - 1.0, spare, size], dim=-1)
        return torch.stack(terms, dim=-1), torch.stack(own, dim=-1), moment
