"""What every method of the queueing environment is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from envs import QueueingConfig, QueueingCore, QueueUnits, build_queueing
from envs.service_time import service_times
from envs.traces import ARRIVALS, Arrivals, open_arrivals
from experts import InputError, OutcomeTable

from ...methods.baselines.ridge import solve_ridge
from ...routing import Hard, QueueScorer, Router, queue_state_inputs

__all__ = ["QueueTask"]

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class QueueTask:
    """A table, arrivals and a process.

    Attributes:
        table: with features and a split.
        arrivals: `poisson`, `bursts`, or a trace, whose first half trains, next quarter validates and last
            quarter tests.
        test_arrivals: those whose last quarter tests; others than `arrivals` where transfer is tested.
        config: the process.
        units: what compute, deadlines and load are counted in, from the training rows.
        settings: `config` as keyword arguments.
    """

    table: OutcomeTable
    arrivals: Arrivals | str
    test_arrivals: Arrivals | str
    config: QueueingConfig
    units: QueueUnits
    settings: dict[str, Any] = field(repr=False)

    @classmethod
    def of(
        cls,
        table: OutcomeTable,
        arrivals: Arrivals | str = "poisson",
        test_arrivals: Arrivals | str | None = None,
        **settings: Any,
    ) -> QueueTask:
        """Make a task; `settings` are fields of `QueueingConfig`.

        Raises:
            InputError: the table has no features or lacks a split, or a setting does not fit.
        """
        if table.features is None:
            raise InputError("table", table.source, "has no features", "add a `features` column to it")
        for split in ("validation", "test"):
            table.part(split)
        config = QueueingConfig(**settings)
        units = QueueUnits.of(table.part("train"), config)
        config.replicas_of(len(table.experts))
        return cls(
            table=table,
            arrivals=_opened(arrivals),
            test_arrivals=_opened(arrivals if test_arrivals is None else test_arrivals),
            config=config,
            units=units,
            settings=settings,
        )

    def core(self, split: str, lanes: int, seed: int = 0, group: int = 1) -> QueueingCore:
        """The process on the rows and the arrivals of a split."""
        return build_queueing(
            self.table,
            lanes,
            split=split,
            arrivals=self.test_arrivals if split == "test" else self.arrivals,
            units=self.units,
            seed=seed,
            group=group,
            **self.settings,
        )

    def router(self) -> Router:
        """A router by index, its predictions fitted to the training rows, its weights yet to be set."""
        config, table = self.config, self.table
        train = table.part("train")
        assert train.features is not None
        experts = len(table.experts)
        scorer = QueueScorer(
            train.features.shape[1] + 3 * experts + 6,
            experts,
            service=self.units.service,
            batch_service=self.units.batch_service,
            replicas=config.replicas_of(experts).tolist(),
            gap=config.gap(self.units.batch_service),
            repair=config.mean_repair * self.units.second,
            batch=config.batch,
            batch_slope=config.batch_slope,
            budget=config.budget or 0.0,
        )
        features = torch.from_numpy(train.features).double()
        spread = features.std(dim=0, correction=0)
        scorer.shift.copy_(features.mean(dim=0))
        scorer.scale.copy_(torch.where(spread > 1e-6, 1.0 / spread.clamp(min=1e-6), 0.0))
        with torch.no_grad():
            weight, bias = self._predictions(scorer)
            scorer.estimate.weight.copy_(weight)
            scorer.estimate.bias.copy_(bias)
        return Router(scorer, Hard(), table.experts, state=queue_state_inputs(table.experts)).eval()

    def _predictions(self, scorer: QueueScorer) -> tuple[torch.Tensor, torch.Tensor]:
        """Ridge regressions of quality, compute and service, each with its best penalty on validation."""
        (x, y), (seen, wanted) = (self._rows(split, scorer) for split in ("train", "validation"))
        parts = y.chunk(3, dim=1), wanted.chunk(3, dim=1)
        best: list[tuple[torch.Tensor, torch.Tensor]] = []
        for own, aim in zip(*parts, strict=True):
            fits = [solve_ridge(x, own, penalty) for penalty in _PENALTIES]
            errors = [float((seen @ weight.T + bias - aim).square().mean()) for weight, bias in fits]
            best.append(fits[errors.index(min(errors))])
        return torch.cat([weight for weight, _ in best]), torch.cat([bias for _, bias in best])

    def _rows(self, split: str, scorer: QueueScorer) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.table.part(split)
        assert rows.features is not None
        x = (torch.from_numpy(rows.features) - scorer.shift) * scorer.scale
        compute = torch.from_numpy(rows.cost).double() / self.units.compute
        # A service time of another order than the rest would decide the penalty for all; a few are very long.
        service = torch.from_numpy(service_times(rows))
        longest = 10.0 * torch.tensor(self.units.service, dtype=torch.float64)
        y = (torch.from_numpy(rows.quality).double(), compute, torch.minimum(service, longest))
        return x.double(), torch.cat(y, dim=1)


def _opened(arrivals: Arrivals | str) -> Arrivals | str:
    """A trace read once; made arrivals stay a name, since each split has its own."""
    named = isinstance(arrivals, str) and arrivals in ARRIVALS
    return arrivals if named or isinstance(arrivals, Arrivals) else open_arrivals(arrivals)
