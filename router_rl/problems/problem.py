"""The protocol of a problem: what is decided, in which environment, and how a policy is scored.

A problem holds data, an environment and one or more *cases* (settings that methods are compared under, such
as compute weights or loads). Methods, studies, exports and reports use this protocol only, so that every
problem has every feature of the toolkit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from envs import Core
from experts import InputError, OutcomeTable

from ..routing import Router, TextFeatures
from .measure import Measurement
from .objective import Objective

__all__ = ["ActionPolicy", "Case", "FigureData", "Policy", "Problem", "ProblemCard"]

SplitName = str  # "train", "validation" or "test"
Self = TypeVar("Self", bound="Problem")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting that methods are compared under.

    Attributes:
        label: its name in tables, such as `compute weight 0.1`; distinct within a problem.
        values: its numbers by name; they become columns of `results.json`.
        objective: the trade-off that it is scored by, where the problem has one for each case.
    """

    label: str
    values: Mapping[str, float] = field(hash=False)
    objective: Objective | None = None


@runtime_checkable
class Policy(Protocol):
    """What acts in an environment. A `Router` is one, and so is every exported policy."""

    def start(self, core: Core) -> None:
        """Prepare for the episodes of a core, before its first observation."""
        ...

    def act(self, observation: Tensor) -> Tensor:
        """Actions [B] or [B, k] of observations [B, O]."""
        ...


@dataclass(kw_only=True)
class ActionPolicy:
    """A policy that is a function of the observation alone.

    Attributes:
        actions: observations [B, O] to actions [B] or [B, k].
        module: the module that can be exported, if there is one.
    """

    actions: Callable[[Tensor], Tensor]
    module: nn.Module | None = None

    def start(self, core: Core) -> None:
        """Nothing to prepare."""

    def act(self, observation: Tensor) -> Tensor:
        """The actions of some observations."""
        return self.actions(observation)


@dataclass(frozen=True, kw_only=True)
class FigureData:
    """The data of one figure; `reports` draws it.

    Attributes:
        form: which drawing takes it, such as `cascade_tree` or `queue_timeline`.
        title: the figure's heading.
        note: one sentence on how to read it.
        data: JSON values that the drawing needs.
    """

    form: str
    title: str
    note: str
    data: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The figure as JSON."""
        return {"form": self.form, "title": self.title, "note": self.note, "data": dict(self.data)}


@dataclass(frozen=True, kw_only=True)
class ProblemCard:
    """What a report and `list` say of a problem.

    Attributes:
        name: as after `--env`.
        environment: its id in Gymnasium.
        about: one line.
        source: where the data come from.
        experts: their names.
        options: every option by name, as JSON.
        facts: numbers about the data, as JSON.
        notes: sentences that every output must carry.
        utility: what is maximised, in words, such as `quality - compute weight x compute`; captions use it.
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
        name: as after `--env`.
        environment: the id of its Gymnasium environment.
        about: one line for `list`.
        options_type: the frozen dataclass of its options.
        always: names of methods that every comparison holds, such as bounds and the best single expert.
        rival: the method that differences are taken to, beside the best on validation; None: only the latter.
        objective_fields: fields of `Objective` that it uses; other values than the defaults are errors.
        compared_weights: compute weights of a comparison that names none, one case each.
        trained_weights: compute weights of a training run that names none.
        needs_table: whether it is made of an outcome table.
        scores_training_rows: whether `evaluate` takes the split `train`.

    Attributes:
        options: an instance of `options_type`.
        table: the `OutcomeTable`, or None where the problem has none.
        cases: the settings that methods are compared under.
        rule: the `Selection` of its routers, or None where they have none in common.
        text: the pipeline that makes features of prompts, if there is one.
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

    options: Any
    table: Any
    cases: tuple[Case, ...]
    rule: Any = None
    text: TextFeatures | None = None

    def __init__(
        self, table: Any = None, objective: Any = None, *, options: Any = None, **changes: Any
    ) -> None:
        """Start with nothing computed; the arguments are those of every problem.

        Args:
            table: an outcome table, where the problem is made of one.
            objective: what to maximise; a sequence makes one case each, where cases are compute weights.
            options: an instance of `options_type`; its defaults if None.
            changes: fields of the options, in place of those of `options`.
        """
        self.cache: dict[Any, Any] = {}

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts."""
        experts: tuple[str, ...] = self.table.experts
        return experts

    @property
    def case(self) -> Case:
        """The only case of a problem that has one.

        Raises:
            InputError: it has several.
        """
        if len(self.cases) != 1:
            labels = [case.label for case in self.cases]
            raise InputError("problem.cases", labels, "one case is needed", "use problem.at(case)")
        return self.cases[0]

    def at(self: Self, case: Case) -> Self:
        """The same problem with one of its cases; what was computed before is shared."""
        part = self.copied()
        part.cases = (case,)
        return part

    def copied(self: Self) -> Self:
        """A shallow copy that shares the cache, unlike one made for another process."""
        part = object.__new__(type(self))
        for name, value in self.__dict__.items():
            setattr(part, name, value)
        return part

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """A value that is made once for all parts of this problem in this process.

        Args:
            key: hashable; all that the value depends on beside the problem's data and options.
            make: called when the value is not there.
        """
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def __getstate__(self) -> dict[str, Any]:
        """The state that is sent to another process: without what can be computed again."""
        return self.__dict__ | {"cache": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @abstractmethod
    def digest(self) -> str:
        """A digest of the data and of the options; trials are keyed by it."""

    @abstractmethod
    def core(self, split: SplitName, case: Case, *, lanes: int, seed: int) -> Core:
        """The environment of a case on the rows of a split, B lanes wide."""

    @abstractmethod
    def evaluate(
        self, policy: Any, split: SplitName, case: Case | None = None, *, seed: int = 0
    ) -> Measurement:
        """Score a policy on a split, on episodes that do not depend on the policy.

        Args:
            policy: a policy of this problem.
            split: `validation` or `test`; some problems can score `train` too.
            case: the case; the only one if None.
            seed: of a stochastic policy's draws.
        """

    def figures(self, policy: Any, case: Case) -> Sequence[FigureData]:
        """The data of this policy's figures in a report; none by default."""
        return ()

    @abstractmethod
    def describe(self) -> ProblemCard:
        """What the report and `list` say."""

    def finish(self, policy: Any) -> Any:
        """Complete a fitted policy before it is saved: a router of prompts gets its text pipeline."""
        if self.text is not None and isinstance(policy, Router):
            policy.text = self.text
        return policy

    def parity_rows(self) -> OutcomeTable | None:
        """Rows that an export of a router is checked on; made rows if None."""
        return None
