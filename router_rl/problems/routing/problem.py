"""What every method is given, and how it makes the router it will train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from envs import Outcomes, compute_scale
from experts import InputError, OutcomeTable
from experts.io.errors import unknown_name

from ...routing import (
    ConstantScorer,
    KNNScorer,
    LinearScorer,
    MLPScorer,
    PricedScorer,
    Router,
    Scorer,
    Selection,
    StateInput,
)
from ..cross_fitting import Fold
from ..logged_feedback import LogConfig, impute
from ..objective import Objective
from ..out_of_fold import Readouts

__all__ = ["ScorerConfig", "Task"]

_CHUNK = 65_536  # rows in float64 together, so that memory-mapped features never stand in memory whole


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """The shape of the scorer that trained methods share.

    Attributes:
        kind: `linear` (folds into a stock gate) or `mlp`.
        hidden: widths of the MLP's hidden layers.
    """

    kind: Literal["linear", "mlp"] = "mlp"
    hidden: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "mlp"):
            raise InputError("scorer.kind", self.kind, "unknown", "use linear or mlp")
        if any(width < 1 for width in self.hidden):
            raise InputError("scorer.hidden", list(self.hidden), "a width is not positive", "use 1 or more")

    def __str__(self) -> str:
        return "linear" if self.kind == "linear" else f"mlp({', '.join(map(str, self.hidden))})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Training and validation rows, the objective, and the form the router must have.

    Attributes:
        train: rows to learn from; under bandit feedback their outcomes are estimates.
        validation: rows to choose settings and checkpoints on, likewise; the test rows are not here.
        asked: the training rows as they are, for a learner that chooses for itself and reads the outcome of
            what it chose, no other; under bandit feedback once a row.
        objective: what to maximise.
        rule: logits to experts; the same for training and export.
        scorer: the shape of a trained scorer.
        observe_load: whether a stateful learner sees the window's load.
        scale: the unit of compute, in the table's cost unit; a price, and the same under any feedback.
        device: where training happens.
        readouts: which of the features estimate the experts' quality; None if none do.
        compiled: whether scorers run through `torch.compile` while they train on the device.
        log: how the log was made that the estimates come from; None: all outcomes are known.
    """

    train: OutcomeTable
    validation: OutcomeTable
    asked: OutcomeTable
    objective: Objective
    rule: Selection
    scorer: ScorerConfig
    observe_load: bool
    scale: float
    device: torch.device
    log: LogConfig | None = None
    readouts: Readouts | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        self._check_affordable()

    @classmethod
    def of(
        cls,
        table: OutcomeTable,
        objective: Objective,
        rule: Selection,
        *,
        scorer: ScorerConfig | None = None,
        observe_load: bool | None = None,
        device: torch.device | str = "cpu",
        feedback: str = "full",
        log: LogConfig | None = None,
        readouts: Readouts | None = None,
        compiled: bool = False,
    ) -> Task:
        """Take a task from a table with its splits.

        Args:
            table: an outcome table with features.
            objective: what to maximise.
            rule: the selection rule.
            scorer: the shape of a trained scorer.
            observe_load: whether stateful learners see the window's load; None: where it is charged for.
            device: where training happens.
            feedback: `full`, or `bandit`: of each row only the outcome of one expert, chosen by a log.
            log: how the log is made and read under bandit feedback; uniform if None.
            readouts: which of the features estimate the experts' quality, of the training rows.
            compiled: whether scorers run through `torch.compile` while they train on the device.

        Raises:
            InputError: the table has no features or lacks a split, too little of it is affordable, or the
                feedback is unknown or not for the rule.
            RouterError: the rule needs more experts than there are.
        """
        if table.features is None:
            raise InputError(
                "table", table.source, "has no features to route on", "add a `features` column to it"
            )
        rule.check(len(table.experts))
        if feedback not in ("full", "bandit"):
            raise unknown_name("feedback", feedback, ("full", "bandit"))
        if feedback == "bandit" and rule.k != 1:
            problem = f"a log has one expert a query, {rule.name} chooses {rule.k}"
            raise InputError("feedback", feedback, problem, "use hard or hierarchical selection")
        asked = table.part("train")
        train, validation = asked, table.part("validation")
        log = None if feedback == "full" else log or LogConfig()
        if log is not None:
            train, validation = impute(asked, validation, log)
        return cls(
            train=train,
            validation=validation,
            asked=asked,
            objective=objective,
            rule=rule,
            scorer=scorer or ScorerConfig(),
            observe_load=objective.load_weight > 0 if observe_load is None else observe_load,
            scale=compute_scale(asked),
            device=torch.device(device),
            log=log,
            readouts=readouts,
            compiled=compiled,
        )

    @property
    def feedback(self) -> str:
        """`full` or `bandit`."""
        return "full" if self.log is None else "bandit"

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that every output made from this task must carry."""
        if self.log is None:
            return ()
        return (
            "bandit feedback: of each training and validation query one expert's outcome is known, drawn "
            f"evenly with probability {self.log.epsilon:g} (log seed {self.log.seed}); the others are "
            "estimated. Test rows are measured in full",
        )

    def with_objective(self, objective: Objective) -> Task:
        """The same task under another objective."""
        return replace(self, objective=objective)

    def parts(self, folds: Sequence[Fold]) -> Iterator[tuple[Task, OutcomeTable]]:
        """The task with a fold of its training rows away, and the rows of that fold, in turn.

        Args:
            folds: rows seen and held out; those of the readouts where there are any, which are then as they
                are with the fold away. So nothing in the task has seen the rows that come with it.
        """
        for fold, (seen, held) in enumerate(folds):
            train, asked, readouts = self.train, self.asked, self.readouts
            if readouts is not None:
                assert train.features is not None
                train = asked = replace(train, features=readouts.features(train.features, fold))
                readouts = readouts.take(seen)
            part = replace(self, train=train.take(seen), asked=asked.take(seen), readouts=readouts)
            yield part, train.take(held)

    def outcomes(self) -> Outcomes:
        """The training rows on the device."""
        return Outcomes.of(self.train, self.scale, self.device)

    def asked_outcomes(self) -> Outcomes:
        """The training rows as they are, for a learner that reads only the outcomes of what it chose."""
        return Outcomes.of(self.asked, self.scale, self.device)

    def new_router(self, seed: int, *, observe_load: bool = False, kind: str | None = None) -> Router:
        """An untrained router whose scorer standardises features as the training rows need.

        Args:
            seed: of the initial weights.
            observe_load: whether its second input is the window's load.
            kind: `linear`, `mlp` or `constant`; the task's own kind if None.
        """
        assert self.train.features is not None
        experts = len(self.train.experts)
        state = _load_state(experts, self.objective.window) if observe_load else ()
        inputs = self.train.features.shape[1] + sum(part.size for part in state)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outputs = self.rule.outputs(experts)
            scorer: ConstantScorer | LinearScorer | MLPScorer
            if kind == "constant":
                scorer = ConstantScorer(inputs, outputs)
            elif (kind or self.scorer.kind) == "linear":
                scorer = LinearScorer(inputs, outputs)
            else:
                scorer = MLPScorer(inputs, outputs, self.scorer.hidden)
        return self.wrap(scorer, state)

    def wrap(self, scorer: Scorer, state: Sequence[StateInput] = ()) -> Router:
        """A router on the task's device with this scorer, told how to standardise the training features.

        Args:
            scorer: of the features and the state.
            state: what the router's second input holds.
        """
        assert self.train.features is not None
        if isinstance(scorer, LinearScorer | MLPScorer | KNNScorer | PricedScorer):
            # A weight of the objective is no feature: it is taken as it is.
            seen = () if isinstance(scorer, PricedScorer) else state
            scale = [self._state_scale(part.name) for part in seen for _ in range(part.size)]
            _standardise(scorer, self.train.features, scale)
        best_single = int(self.mean_utility().argmax())
        allowed = None if self.objective.limit is None else self.affordable.tolist()
        router = Router(
            scorer, self.rule, self.train.experts, state=state, fallback=best_single, allowed=allowed
        )
        return router.to(self.device)

    @property
    def affordable(self) -> np.ndarray:
        """[N] bool: the experts whose mean compute on training rows is within the objective's limit."""
        compute = self.train.cost.mean(axis=0, dtype=np.float64) / self.scale
        return compute <= (self.objective.limit or float("inf"))

    def mean_compute(self) -> np.ndarray:
        """Mean compute [N] float64 of each expert on training and validation rows."""
        cost = np.concatenate([self.train.cost, self.validation.cost])
        return cost.mean(axis=0, dtype=np.float64) / self.scale

    def _state_scale(self, name: str) -> float:
        """What brings a part of the state to the size of a standardised feature."""
        if name != "load":
            return 1.0
        # Chance moves a balanced window's counts over W by about sqrt(1 / (N W)). The quarter was measured:
        # at full size agents that sample settle for following the window's noise.
        return len(self.train.experts) * float(self.objective.window) ** 0.5 / 4.0

    def mean_utility(self) -> np.ndarray:
        """Mean utility [N] float64 of each expert on training and validation rows; load is not charged.

        Experts that the limit forbids, or that alone would break the budget, are worth -10,000.
        """
        quality = np.concatenate([self.train.quality, self.validation.quality])
        compute = self.mean_compute()
        utility = self.objective.utility(
            quality.mean(axis=0, dtype=np.float64), compute, np.zeros_like(compute)
        )
        within = compute <= (self.objective.budget or float("inf"))
        return np.where(self.affordable & within, utility, -1e4)

    def _check_affordable(self) -> None:
        """Raise InputError where the limit or the budget leaves no decision to take."""
        limit, budget = self.objective.limit, self.objective.budget
        if limit is None and budget is None:
            return
        compute = self.train.cost.mean(axis=0, dtype=np.float64) / self.scale
        cheapest = int(compute.argmin())
        least = f"{self.train.experts[cheapest]}, takes {compute[cheapest]:.4g}"
        wanted = min(self.rule.sizes(len(compute)))
        if limit is not None and self.affordable.sum() < wanted:
            problem = f"leaves {self.affordable.sum()} experts where {wanted} must run; the cheapest, {least}"
            raise InputError("objective.limit", limit, problem, "raise the limit")
        if budget is not None and np.sort(compute)[:wanted].sum() > budget:
            problem = f"cannot be met: the cheapest expert, {least}, and a decision runs {wanted}"
            raise InputError("objective.budget", budget, problem, "raise the budget")


def _load_state(experts: int, window: int) -> tuple[StateInput, ...]:
    meaning = (
        f"decisions each expert has taken since the last window of {window} began, divided by {window}; "
        "a decision that runs k experts counts 1/k for each; start anew from zeros after every window"
    )
    return (StateInput("load", experts, meaning),)


def _standardise(
    scorer: LinearScorer | MLPScorer | KNNScorer | PricedScorer,
    features: np.ndarray,
    state_scale: list[float],
) -> None:
    mean = features.mean(axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for first in range(0, len(features), _CHUNK):
        square += ((features[first : first + _CHUNK] - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(square / len(features))
    # A feature that (nearly) never varies carries nothing and must not be blown up.
    scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
    shift = np.concatenate([mean, np.zeros(len(state_scale))])
    scale = np.concatenate([scale, np.array(state_scale)])
    scorer.shift.copy_(torch.from_numpy(shift))
    scorer.scale.copy_(torch.from_numpy(scale))
