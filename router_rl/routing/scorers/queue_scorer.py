"""A scorer of experts with queues: the expected utility of a request with each, minus its cost to others.

The index of expert e for a request of value v and a deadline of d seconds is `terms . weights`, with the
terms

    quality    v * predicted quality
    compute    -predicted compute
    lateness   -v * max(0, expected wait + predicted service - d) / d
    wait       -expected wait, in the pool's mean service times
    jobs       -requests at the expert for each of its replicas
    pace       -predicted compute * (1 - compute left for each request left / budget); 0 without a budget

Weights of 0 give the simpler rules: least expected wait, join the shortest queue, a static gate. A policy
adds learned `prices`, one for each product of a quantity of the expert (its terms, its queue, the server time
of the request) and a quantity that all experts share (1, the arrival rate, the requests waiting, the value of
the request, the budget). The experts share the prices; prices of 0 leave the index unchanged.

The expected wait assumes memoryless service times: with every replica taken and w requests waiting,
`floor(w / batch) + 1` batches end before this one begins, one each `batch time / replicas`. Where the expert
is down, the mean time to repair is added.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple, get_type_hints

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from .scorer import StandardisingScorer, fold_standardisation

__all__ = ["PRICES", "TERMS", "QueueConstants", "QueueParts", "QueueScorer"]

TERMS = ("quality", "compute", "lateness", "wait", "jobs", "pace")
_OWN, _MOMENT = 12, 6
_AHEAD, _SHORT = -1.0, 4.0  # clamps of the pace: twice the budget is left, or it is overspent by 3 budgets
PRICES = _OWN * _MOMENT
_PER_EXPERT = ("service", "batch_service", "replicas")  # lists in JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueConstants:
    """Constants of the experts' queues; they are measured, not learned.

    Attributes:
        service: [N] mean seconds an expert works on a request.
        batch_service: [N] mean seconds of a full batch.
        replicas: [N] servers of each expert.
        gap: mean seconds between arrivals.
        repair: mean seconds an expert is down.
        batch: requests a replica takes together.
        batch_slope: share of its time by which each further request lengthens a batch.
        budget: mean compute allowed for a request; 0 where there is no budget.
    """

    service: tuple[float, ...]
    batch_service: tuple[float, ...]
    replicas: tuple[int, ...]
    gap: float
    repair: float
    batch: int = 1
    batch_slope: float = 0.0
    budget: float = 0.0

    @property
    def mean_service(self) -> float:
        """Mean of `service` over the experts, in seconds."""
        return sum(self.service) / len(self.service)

    @property
    def pace(self) -> float:
        """Requests a second that all experts answer with full batches."""
        pairs = zip(self.replicas, self.batch_service, strict=True)
        return self.batch * sum(count / seconds for count, seconds in pairs)

    def check(self, experts: int) -> None:
        """Check the constants.

        Args:
            experts: N.

        Raises:
            RouterError: a constant is outside its range, or is not given for every expert.
        """
        for name in _PER_EXPERT:
            values = getattr(self, name)
            if len(values) != experts or not all(value > 0 for value in values):
                raise RouterError(f"QueueConstants.{name} must be {experts} numbers above 0, one an expert")
        if not (self.batch >= 1 and self.gap > 0.0 and self.repair >= 0.0):
            raise RouterError("QueueConstants: batch must be 1 or more, gap above 0, and repair 0 or more")


class QueueParts(NamedTuple):
    """A queue scorer's inputs by name.

    Attributes:
        features: [T, D].
        waiting, taken, down: [T, N], as the environment counts them.
        deadline: [T, 1] seconds.
        value: [T, 1].
        gaps: [T, 2] seconds.
        budget: [T, 2], compute left for each request left, and the share of requests left.
    """

    features: Tensor
    waiting: Tensor
    taken: Tensor
    down: Tensor
    deadline: Tensor
    value: Tensor
    gaps: Tensor
    budget: Tensor


class QueueScorer(StandardisingScorer):
    """An index of predictions and expected waits, and learned prices.

    Args:
        inputs: D + 3 N + 6.
        experts: N.
        constants: of the experts' queues.

    Raises:
        RouterError: a constant is outside its range, or is not given for every expert.
    """

    kind: ClassVar[str] = "queue"
    term_names: ClassVar[tuple[str, ...]] = TERMS
    prices_shape: ClassVar[tuple[int, int]] = (_OWN, _MOMENT)
    weights: Tensor
    prices: Tensor
    _seconds: Tensor
    _whole: Tensor
    _servers: Tensor

    def __init__(self, inputs: int, experts: int, constants: QueueConstants) -> None:
        constants.check(experts)
        super().__init__(inputs, experts, inputs - 3 * experts - 6)
        self.features = inputs - 3 * experts - 6
        self.constants = constants
        self.register_buffer("weights", torch.zeros(len(self.term_names)))
        self.register_buffer("prices", torch.zeros(self.prices_shape[0] * self.prices_shape[1]))
        self.estimate = nn.Linear(self.features, 3 * experts)  # quality, compute, service seconds
        self.register_buffer("_seconds", torch.tensor(constants.service), persistent=False)
        self.register_buffer("_whole", torch.tensor(constants.batch_service), persistent=False)
        self.register_buffer("_servers", torch.tensor(constants.replicas).float(), persistent=False)

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """The types of the fields of `spec`: those of the shape and of the constants."""
        return {"inputs": int, "experts": int, **get_type_hints(QueueConstants)}

    @classmethod
    def from_spec(cls, arguments: Mapping[str, Any]) -> QueueScorer:
        """Build an untrained scorer from the fields of `spec`; the constants stand beside the shape.

        Args:
            arguments: `inputs`, `experts` and the fields of `QueueConstants`.
        """
        fields: dict[str, Any] = {
            name: tuple(value) if name in _PER_EXPERT else value for name, value in arguments.items()
        }
        shape = {name: fields.pop(name) for name in ("inputs", "experts") if name in fields}
        return cls(**shape, constants=QueueConstants(**fields))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + 3 N + 6]: expected utilities."""
        return self.scores(x, self.prices)

    def scores(self, x: Tensor, prices: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + 3 N + 6] at other prices, [72] or [T, 72] float32."""
        parts = self.parts(x)
        terms, seconds, wait = self._terms(parts)
        # As `priced` computes it, without materialising the products.
        price = prices.unflatten(-1, self.prices_shape) @ self._moment(parts).unsqueeze(-1)
        own = self._own(parts, terms, seconds, wait)
        return terms @ self.weights + (own @ price).squeeze(-1)

    def parts(self, x: Tensor) -> QueueParts:
        """Split inputs [T, D + 3 N + 6] by name."""
        n = self.experts
        return QueueParts(*x.float().split([self.features, n, n, n, 1, 1, 2, 2], dim=-1))

    def terms(self, x: Tensor) -> Tensor:
        """The index's terms [T, N, 6] of inputs [T, D + 3 N + 6]; each is better when larger."""
        return self._terms(self.parts(x))[0]

    def priced(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The index [T, N], and the priced quantities [T, N, 72], of inputs [T, D + 3 N + 6]."""
        parts = self.parts(x)
        terms, seconds, wait = self._terms(parts)
        own = self._own(parts, terms, seconds, wait).unsqueeze(-1)
        moment = self._moment(parts).unsqueeze(-2).unsqueeze(-2)
        return terms @ self.weights, (own * moment).flatten(-2)

    def folded(self) -> QueueScorer:
        """The same function with the standardisation moved into the layer of the predictions."""
        scorer, own = copy.deepcopy(self), self.estimate
        with torch.no_grad():
            scorer.shift.zero_()
            scorer.scale.fill_(1.0)
            weight, bias = fold_standardisation(own.weight, own.bias, self.shift, self.scale)
            scorer.estimate.weight.copy_(weight)
            scorer.estimate.bias.copy_(bias)
        return scorer

    def adapted(self, replicas: Sequence[int], slowdown: Sequence[float]) -> QueueScorer:
        """The same function for experts with other replicas or of other speeds.

        The mean gap between arrivals changes too, so that it is the same load.

        Args:
            replicas: [N], servers of each expert.
            slowdown: [N], seconds of each expert over those of the training; above 0.

        Raises:
            RouterError: there are not N numbers above 0.
        """
        old = self.constants
        factors = [float(factor) for factor in slowdown]
        if len(factors) != self.experts or not all(factor > 0.0 for factor in factors):
            raise RouterError(f"slowdown={factors} must be {self.experts} numbers above 0, one an expert")
        new = replace(
            old,
            replicas=tuple(map(int, replicas)),
            service=tuple(s * f for s, f in zip(old.service, factors, strict=True)),
            batch_service=tuple(s * f for s, f in zip(old.batch_service, factors, strict=True)),
        )
        scorer = QueueScorer(self.inputs, self.experts, replace(new, gap=old.gap * old.pace / new.pace))
        scorer.load_state_dict(self.state_dict())
        with torch.no_grad():
            for parameter in (scorer.estimate.weight, scorer.estimate.bias):
                seconds = parameter[2 * self.experts :]  # after quality and compute
                seconds *= torch.tensor(factors).reshape(-1, *[1] * (parameter.dim() - 1))
        return scorer

    def service(self, features: Tensor) -> Tensor:
        """Predicted seconds [T, N] that each expert works on a request, of features [T, D]."""
        return self._predictions(features.float())[2]

    def spec(self) -> dict[str, Any]:
        """The scorer's shape and the constants of its queues as JSON."""
        constants = asdict(self.constants)
        constants |= {name: list(constants[name]) for name in _PER_EXPERT}
        return {"kind": self.kind, "inputs": self.inputs, "experts": self.experts, **constants}

    def _terms(self, parts: QueueParts) -> tuple[Tensor, Tensor, Tensor]:
        """The terms [T, N, 6], the expected service time [T, N] and the expected wait [T, N], in seconds."""
        queues = self.constants
        quality, compute, service = self._predictions(parts.features)
        joins = parts.waiting.remainder(queues.batch)  # requests in the batch that this one joins
        batches = (parts.waiting - joins) / queues.batch + 1.0
        full = parts.taken >= self._servers
        wait = torch.where(full, batches * self._whole / self._servers, 0.0) + parts.down * queues.repair
        seconds = service * (1.0 + queues.batch_slope * torch.where(full, joins, 0.0))
        late = (wait + seconds - parts.deadline).clamp(min=0.0) / parts.deadline.clamp(min=1e-9)
        jobs = (parts.waiting + parts.taken) / self._servers
        short = torch.zeros_like(parts.value)
        if queues.budget:
            short = (1.0 - parts.budget[:, :1] / queues.budget).clamp(_AHEAD, _SHORT)
        terms = (
            parts.value * quality,
            -compute,
            -parts.value * late,
            -wait / queues.mean_service,
            -jobs,
            -compute * short,
        )
        return torch.stack(terms, dim=-1), seconds, wait

    def _predictions(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted quality, compute and service seconds, [T, N] each."""
        quality, compute, service = self.estimate((features - self.shift) * self.scale).chunk(3, dim=-1)
        return quality, compute, torch.maximum(service, 0.05 * self._seconds)

    def _own(self, parts: QueueParts, terms: Tensor, seconds: Tensor, wait: Tensor) -> Tensor:
        """The quantities of each expert that are priced, [T, N, 12], all of the order of 1."""
        unit = self.constants.mean_service
        waits = wait / unit
        own = (
            terms[..., 0],
            terms[..., 1],
            terms[..., 2].clamp(min=-4.0),
            -waits.clamp(max=8.0),
            waits.log1p(),
            (parts.waiting / self._servers).clamp(max=20.0),
            parts.taken / self._servers,
            parts.down,
            parts.waiting.remainder(self.constants.batch) / self.constants.batch,
            (seconds / unit).clamp(max=10.0),
            (self._seconds / unit).expand_as(wait),
            (wait + seconds > parts.deadline).float(),
        )
        return torch.stack(own, dim=-1)

    def _moment(self, parts: QueueParts) -> Tensor:
        """The quantities that all experts share, [T, 6]."""
        pace = (parts.gaps / self.constants.gap).clamp(min=1e-4).log().clamp(-4.0, 4.0)
        crowd = (parts.waiting.sum(dim=-1, keepdim=True) / self._servers.sum()).log1p()
        spare = (parts.budget[:, :1] - self.constants.budget).clamp(-1.0, 1.0)
        return torch.cat([torch.ones_like(crowd), pace, crowd, parts.value - 1.0, spare], dim=-1)
