"""The protocol of a problem: its data, environment and cases, and how a policy is evaluated.

A problem has one or more *cases*: settings under which methods are compared, such as compute weights or
loads. Methods, studies, exports and reports use only this protocol, so that every problem has every feature
of the toolkit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from envs import Core
from experts import DecisionLog, InputError, OutcomeTable
from experts.table.missing_outcomes import require_complete

from ..routing import POLICIES, Router, TextFeatures
from .data_digest import rows_digest
from .log_table import estimated_table, logged_text
from .measure import Measurement
from .objective import Objective

__all__ = ["ActionPolicy", "Case", "FigureData", "Policy", "Problem", "ProblemCard"]

_SPARSE_FIX = "use --env routing, which estimates them, or import with --missing rows or --missing experts"

SplitName = str  # "train", "validation", "tuning" or "test"
Self = TypeVar("Self", bound="Problem")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting under which methods are compared.

    Attributes:
        label: name in tables, such as `compute weight 0.1`; distinct within a problem.
        values: numbers by name, which become columns of `results.json`.
        objective: objective of the case, if the problem has one per case.
    """

    label: str
    values: Mapping[str, float] = field(hash=False)
    objective: Objective | None = None


@runtime_checkable
class Policy(Protocol):
    """Acts in an environment. Routers and exported policies implement this protocol."""

    def start(self, core: Core) -> None:
        """Prepare for the episodes of a core, before its first observation."""
        ...

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [B] or [B, k] for observations [B, O]."""
        ...


@dataclass(kw_only=True)
class ActionPolicy:
    """A policy that depends only on the observation.

    Attributes:
        actions: maps observations [B, O] to actions [B] or [B, k].
        module: the module to export, if there is one.
    """

    actions: Callable[[Tensor], Tensor]
    module: nn.Module | None = None

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [B] or [B, k] for observations [B, O]."""
        return self.actions(observation)


@dataclass(frozen=True, kw_only=True)
class FigureData:
    """Data of one figure; `reports` draws it.

    Attributes:
        form: type of the figure, such as `cascade_tree` or `queue_timeline`.
        title: heading.
        note: one sentence on how to read the figure.
        data: JSON values that the figure needs.
    """

    form: str
    title: str
    note: str
    data: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the figure as JSON."""
        return {"form": self.form, "title": self.title, "note": self.note, "data": dict(self.data)}


@dataclass(frozen=True, kw_only=True)
class ProblemCard:
    """Description of a problem for reports and `list`.

    Attributes:
        name: name after `--env`.
        environment: Gymnasium id of the environment.
        about: one line.
        source: source of the data.
        experts: names of the experts.
        options: all options by name, as JSON.
        facts: numbers about the data, as JSON.
        notes: messages that every output must show.
        utility: formula of the utility, such as `quality - compute_weight x compute`; used in captions.
    """

    name: str
    environment: str
    about: str
    source: str
    experts: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    utility: str = ""


class Problem(ABC):
    """Data, an environment, and the cases that methods are compared under.

    Class attributes:
        name: name after `--env`.
        environment: Gymnasium id of the environment.
        about: one line for `list`.
        options_type: frozen dataclass of its options.
        always: names of methods that every comparison includes, such as bounds and the best single expert.
        rival: method to compare with, beside the best on validation; None: only the latter.
        objective_fields: fields of `Objective` that it uses; it is an error to set others.
        compared_weights: default compute weights of a comparison, one case each.
        trained_weights: default compute weights of a training run.
        needs_table: whether it needs an outcome table.
        scores_training_rows: whether `evaluate` supports the split `train`.
        measures_rows: whether `evaluate` measures each row of the table's split once, in order.
        learns_from_log: whether estimated outcomes of a decision log are enough.
        takes_sparse: whether training outcomes may be missing from its table.
        observes: what policies read beside the query, such as `queues`.

    Attributes:
        options: an instance of `options_type`.
        table: the `OutcomeTable`, or None.
        cases: the settings under which methods are compared.
        rule: the `Selection` of its routers, or None if they have none in common.
        text: pipeline that computes features from prompts, if there is one.
    """

    name: ClassVar[str]
    environment: ClassVar[str]
    about: ClassVar[str]
    options_type: ClassVar[type]
    always: ClassVar[tuple[str, ...]] = ()
    rival: ClassVar[str | None] = None
    objective_fields: ClassVar[tuple[str, ...]] = ("compute_weight",)
    compared_weights: ClassVar[tuple[float, ...]] = (0.1,)
    trained_weights: ClassVar[tuple[float, ...]] = (0.1,)
    needs_table: ClassVar[bool] = True
    scores_training_rows: ClassVar[bool] = False
    measures_rows: ClassVar[bool] = False
    learns_from_log: ClassVar[bool] = False
    takes_sparse: ClassVar[bool] = False
    observes: ClassVar[tuple[str, ...]] = ()

    options: Any
    table: Any
    cases: tuple[Case, ...]
    rule: Any = None
    text: TextFeatures | None = None

    def __init__(
        self, table: Any = None, objective: Any = None, *, options: Any = None, **changes: Any
    ) -> None:
        """Initialize an empty cache, and check the table. Every problem has these arguments.

        Args:
            table: outcome table, if the problem needs one. It must be complete, unless `takes_sparse`.
            objective: objective to maximise; a sequence makes one case each, if cases are compute weights.
            options: an instance of `options_type`; its defaults if None.
            changes: fields of the options to change.

        Raises:
            InputError: outcomes are missing from the table.
        """
        if isinstance(table, OutcomeTable) and not self.takes_sparse:
            require_complete(table, self.name, _SPARSE_FIX)
        self.cache: dict[Any, Any] = {}

    @classmethod
    def of_log(
        cls,
        log: DecisionLog,
        objective: Any = None,
        *,
        table: OutcomeTable | None = None,
        options: Any = None,
    ) -> Problem:
        """Return the problem of a decision log: outcomes of experts that were not chosen are estimated.

        Args:
            log: with propensities, scores and features.
            objective: as for the problem itself.
            table: outcomes beside the log, for problems that take its traffic alone.
            options: an instance of `options_type`; its defaults if None.

        Raises:
            InputError: the problem needs every outcome, nothing can be learned from the log, or it has no use
                beside a table.
        """
        if not cls.learns_from_log:
            problem = f"is no data of {cls.name}, which needs all outcomes"
            raise InputError(
                "log", f"{len(log)} decisions", problem, "leave --env out, or give --table alone"
            )
        if table is not None:
            fix = "give the table or the log"
            raise InputError("log", f"{len(log)} decisions", "has no use beside a table", fix)
        made = cls(estimated_table(log), objective, options=options)
        made.text = logged_text(log)
        return made

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts."""
        experts: tuple[str, ...] = self.table.experts
        return experts

    @property
    def missing_outcomes(self) -> tuple[int, int]:
        """How many training outcomes are missing, and of how many: (0, 0) without a table."""
        return 0, 0

    @property
    def included(self) -> tuple[str, ...]:
        """Names of methods that every comparison of this problem includes: `always`, unless overridden."""
        return self.always

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a policy reads: `prompt`, and `group` if it is a feature; or `features`; then `observes`."""
        if self.text is not None:
            return (*self.text.inputs, *self.observes)
        return (*(() if self.table is None else ("features",)), *self.observes)

    @property
    def case(self) -> Case:
        """The only case of the problem.

        Raises:
            InputError: the problem has several.
        """
        if len(self.cases) != 1:
            labels = [case.label for case in self.cases]
            raise InputError("problem.cases", labels, "one case is needed", "use problem.at(case)")
        return self.cases[0]

    def at(self: Self, case: Case) -> Self:
        """Return the same problem with one of its cases; cached values are shared."""
        part = self.copied()
        part.cases = (case,)
        return part

    def copied(self: Self) -> Self:
        """Return a shallow copy that shares the cache (pickling drops it)."""
        part = object.__new__(type(self))
        for name, value in self.__dict__.items():
            setattr(part, name, value)
        return part

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return a cached value, computed once per process and shared by all copies of the problem.

        Args:
            key: hashable; identifies the value together with the problem's data and options.
            make: computes the value if it is not cached.
        """
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, without the cache: each process computes its own values."""
        return self.__dict__ | {"cache": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @abstractmethod
    def digest(self) -> str:
        """Return a digest of the data and options; cached trials are keyed by it."""

    def test_rows(self) -> str | None:
        """Return a digest of the test rows, by which results can be paired; None if episodes are measured."""
        return rows_digest(self.table.part("test")) if self.measures_rows else None

    @abstractmethod
    def core(self, split: SplitName, case: Case, *, lanes: int, seed: int) -> Core:
        """Return the batched environment of a case on the rows of a split.

        Args:
            split: `train`, `validation`, `tuning` or `test`.
            case: the case.
            lanes: B, number of parallel environments.
            seed: random seed of the episodes.
        """

    @abstractmethod
    def evaluate(
        self, policy: Any, split: SplitName, case: Case | None = None, *, seed: int = 0
    ) -> Measurement:
        """Evaluate a policy on a split, on episodes that do not depend on the policy.

        Args:
            policy: a policy of this problem.
            split: `validation`, `tuning` or `test`; some problems support `train`.
            case: the case; the only one if None.
            seed: random seed of a stochastic policy.
        """

    def figures(self, policy: Any, case: Case) -> Sequence[FigureData]:
        """Return the data of this policy's figures in a report; none by default."""
        return ()

    @abstractmethod
    def describe(self) -> ProblemCard:
        """Return the description for reports and `list`."""

    def finish(self, policy: Any) -> Any:
        """Return a fitted policy, complete for saving: one on prompts gets the text pipeline.

        Args:
            policy: a router, or a policy whose `module` is exported.
        """
        exported: Any = policy if isinstance(policy, Router) else getattr(policy, "module", None)
        if self.text is not None and isinstance(exported, (Router, *POLICIES.values())):
            exported.text = self.text
        return policy

    def parity_rows(self) -> OutcomeTable | None:
        """Return rows for the parity check of an exported router; random rows are used if None."""
        return None
