"""A scorer of experts with queues: what a request will likely earn with each, less what it costs others.

The index of expert e for a request of value v and a deadline of d seconds is `terms . weights`, with the
terms

    quality    v * predicted quality
    compute    -predicted compute
    lateness   -v * max(0, expected wait + predicted service - d) / d
    wait       -expected wait, in the pool's mean service times
    jobs       -requests at the expert for each of its replicas
    pace       -predicted compute * (1 - compute left for each request left / budget); 0 without a budget

so that weights of 0 give the simpler rules: least expected wait, join the shortest queue, a static gate. To
it is added what a policy has learned: `prices`, one for each product of something of the expert (its terms,
its queue, the server time the request would take) and something of the moment (1, the pace of arrivals, all
that wait, the request's value, the budget). The experts share the prices; prices of 0 leave the index.

The expected wait takes service times as if they had no memory: with every replica taken and w requests
waiting, `floor(w / batch) + 1` batches end before this one begins, one each `batch time / replicas`; where
the expert is down, a mean repair is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["PRICES", "TERMS", "QueueParts", "QueueScorer"]

TERMS = ("quality", "compute", "lateness", "wait", "jobs", "pace")
_OWN, _MOMENT = 12, 6
_AHEAD, _SHORT = -1.0, 4.0  # how far the pace may be off: twice the budget left, or three times it overspent
PRICES = _OWN * _MOMENT


class QueueParts(NamedTuple):
    """A scorer's inputs, taken apart.

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


class QueueScorer(nn.Module):
    """An index of predictions and expected waits, and learned prices.

    Args:
        inputs: D + 3 N + 6.
        experts: N.
        service: [N] mean seconds an expert works on a request.
        batch_service: [N] mean seconds of a full batch.
        replicas: [N] servers of each expert.
        gap: mean seconds between arrivals.
        repair: mean seconds an expert is down.
        batch, batch_slope: requests a replica takes together, and how much longer each makes the batch.
        budget: compute that a request may take on average; 0 where there is no budget.
    """

    shift: Tensor
    scale: Tensor
    weights: Tensor
    prices: Tensor
    _seconds: Tensor
    _whole: Tensor
    _servers: Tensor

    def __init__(
        self,
        inputs: int,
        experts: int,
        service: Sequence[float],
        batch_service: Sequence[float],
        replicas: Sequence[int],
        gap: float,
        repair: float,
        batch: int = 1,
        batch_slope: float = 0.0,
        budget: float = 0.0,
    ) -> None:
        super().__init__()
        self.inputs, self.experts = inputs, experts
        self.features = inputs - 3 * experts - 6
        self.service, self.batch_service = tuple(service), tuple(batch_service)
        self.replicas = tuple(replicas)
        self.gap, self.repair, self.budget = gap, repair, budget
        self.batch, self.batch_slope = batch, batch_slope
        self.unit = sum(service) / experts
        self.register_buffer("shift", torch.zeros(self.features))
        self.register_buffer("scale", torch.ones(self.features))
        self.register_buffer("weights", torch.zeros(len(TERMS)))
        self.register_buffer("prices", torch.zeros(PRICES))
        self.estimate = nn.Linear(self.features, 3 * experts)  # quality, compute, service seconds
        self.register_buffer("_seconds", torch.tensor(self.service), persistent=False)
        self.register_buffer("_whole", torch.tensor(self.batch_service), persistent=False)
        self.register_buffer("_servers", torch.tensor(self.replicas).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + 3 N + 6]: utilities, as far as the index goes."""
        return self.scores(x, self.prices)

    def scores(self, x: Tensor, prices: Tensor) -> Tensor:
        """Logits [T, N] at other prices, [72] or a row's own [T, 72]."""
        parts = self.parts(x)
        terms, seconds, wait = self._terms(parts)
        # As `priced` has it, without laying the products out.
        price = prices.unflatten(-1, (_OWN, _MOMENT)) @ self._moment(parts).unsqueeze(-1)
        own = self._own(parts, terms, seconds, wait)
        return terms @ self.weights + (own @ price).squeeze(-1)

    def parts(self, x: Tensor) -> QueueParts:
        """Take inputs [T, D + 3 N + 6] apart."""
        n = self.experts
        return QueueParts(*x.float().split([self.features, n, n, n, 1, 1, 2, 2], dim=-1))

    def terms(self, x: Tensor) -> Tensor:
        """The index's terms [T, N, 6] of inputs [T, D + 3 N + 6]; each is better when larger."""
        return self._terms(self.parts(x))[0]

    def priced(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The index [T, N], and what is priced [T, N, 72], of inputs [T, D + 3 N + 6]."""
        parts = self.parts(x)
        terms, seconds, wait = self._terms(parts)
        own = self._own(parts, terms, seconds, wait).unsqueeze(-1)
        moment = self._moment(parts).unsqueeze(-2).unsqueeze(-2)
        return terms @ self.weights, (own * moment).flatten(-2)

    def folded(self) -> QueueScorer:
        """Return the same function with the standardisation moved into the predictions' layer."""
        from .dense import fold_standardisation  # it lists this scorer with the others

        settings = {name: value for name, value in self.spec().items() if name != "kind"}
        scorer = QueueScorer(**settings)
        scorer.load_state_dict({**self.state_dict(), "shift": scorer.shift, "scale": scorer.scale})
        own = self.estimate
        with torch.no_grad():
            weight, bias = fold_standardisation(own.weight, own.bias, self.shift, self.scale)
            scorer.estimate.weight.copy_(weight)
            scorer.estimate.bias.copy_(bias)
        return scorer

    def spec(self) -> dict[str, Any]:
        """The scorer's shape, and what it knows of the queues, as JSON."""
        return {
            "kind": "queue",
            "inputs": self.inputs,
            "experts": self.experts,
            "service": list(self.service),
            "batch_service": list(self.batch_service),
            "replicas": list(self.replicas),
            "gap": self.gap,
            "repair": self.repair,
            "batch": self.batch,
            "batch_slope": self.batch_slope,
            "budget": self.budget,
        }

    def _terms(self, parts: QueueParts) -> tuple[Tensor, Tensor, Tensor]:
        """The terms [T, N, 6], the service expected [T, N] and the wait expected [T, N], seconds."""
        x = (parts.features - self.shift) * self.scale
        quality, compute, service = self.estimate(x).chunk(3, dim=-1)
        service = torch.maximum(service, 0.05 * self._seconds)
        joins = parts.waiting.remainder(self.batch)  # requests of the batch that it would join
        batches = (parts.waiting - joins) / self.batch + 1.0
        full = parts.taken >= self._servers
        wait = torch.where(full, batches * self._whole / self._servers, 0.0) + parts.down * self.repair
        seconds = service * (1.0 + self.batch_slope * torch.where(full, joins, 0.0))
        late = (wait + seconds - parts.deadline).clamp(min=0.0) / parts.deadline.clamp(min=1e-9)
        jobs = (parts.waiting + parts.taken) / self._servers
        short = torch.zeros_like(parts.value)
        if self.budget:
            short = (1.0 - parts.budget[:, :1] / self.budget).clamp(_AHEAD, _SHORT)
        terms = (
            parts.value * quality,
            -compute,
            -parts.value * late,
            -wait / self.unit,
            -jobs,
            -compute * short,
        )
        return torch.stack(terms, dim=-1), seconds, wait

    def _own(self, parts: QueueParts, terms: Tensor, seconds: Tensor, wait: Tensor) -> Tensor:
        """What is priced of each expert, [T, N, 12], all of the order of 1."""
        waits, unit = wait / self.unit, self.unit
        own = (
            terms[..., 0],
            terms[..., 1],
            terms[..., 2].clamp(min=-4.0),
            -waits.clamp(max=8.0),
            waits.log1p(),
            (parts.waiting / self._servers).clamp(max=20.0),
            parts.taken / self._servers,
            parts.down,
            parts.waiting.remainder(self.batch) / self.batch,
            (seconds / unit).clamp(max=10.0),
            (self._seconds / unit).expand_as(wait),
            (wait + seconds > parts.deadline).float(),
        )
        return torch.stack(own, dim=-1)

    def _moment(self, parts: QueueParts) -> Tensor:
        """What the prices depend on, [T, 6]."""
        pace = (parts.gaps / self.gap).clamp(min=1e-4).log().clamp(-4.0, 4.0)
        crowd = (parts.waiting.sum(dim=-1, keepdim=True) / self._servers.sum()).log1p()
        spare = (parts.budget[:, :1] - self.budget).clamp(-1.0, 1.0)
        return torch.cat([torch.ones_like(crowd), pace, crowd, parts.value - 1.0, spare], dim=-1)
