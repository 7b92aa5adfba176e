"""A method: `fit(task, settings, seed) -> Router`. Agents, gates and baselines are all methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sklearn.model_selection import ParameterGrid, ParameterSampler

from experts import InputError, OutcomeTable

from ..problems.objective import Objective
from ..problems.routing.problem import Task
from ..routing import Router, Selection
from .checkpoint import Checkpoint
from .training_loop import Watch

__all__ = ["Family", "Fit", "Method", "Run"]

Family = Literal["rl", "gate", "baseline", "bound"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The circumstances of one fit.

    Attributes:
        seed: of everything random in it.
        watch: is told of every validation measurement.
        checkpoint: where its state is kept, so that a kill costs little.
        validate_every: queries trained on between two measurements on validation; None: the method's own.
        remarks: sentences of the method on what it made; the last one stands.
    """

    seed: int = 0
    watch: Watch | None = None
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(None, {}))
    validate_every: int | None = None
    remarks: list[str] = field(default_factory=list)


Fit = Callable[[Task, Any, Run], Router]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to get a router.

    Attributes:
        name: as on the command line.
        family: `rl`, `gate`, `baseline`, or `bound` (not reachable by a router of features).
        fit: task, settings and run to a router in evaluation mode.
        settings: the frozen dataclass of its hyperparameters; its defaults are the first try.
        space: values to try for some of them, chosen on validation.
        about: one line for `list`.
        rules: names of the selection rules it can learn; empty: every one.
        needs: optional columns of the table, such as `group`, that it cannot do without.
        over: settings and objectives that differ in compute weight to the settings of the one fit that
            serves them all, by `Router.at`; None: a fit for each objective.
        improving: its settings, and a gate's name and settings, to the settings of the fit that starts from
            that gate; a comparison lets it start from the gate that validation picks. None: from none.
        holds_budget: its fit sees to a budget itself, or has nothing to choose; for other gates and
            baselines the compute weight is searched.
    """

    name: str
    family: Family
    fit: Fit
    settings: type
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    about: str = ""
    rules: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    over: Callable[[Any, Sequence[Objective]], Any] | None = None
    improving: Callable[[Any, str, Any], Any] | None = None
    holds_budget: bool = False

    def learns(self, rule: Selection) -> bool:
        """Whether it can learn to choose by a rule; where experts choose there is no policy to train."""
        return (not self.rules or rule.name in self.rules) and (rule.causal or self.family != "rl")

    def require(self, rule: Selection) -> None:
        """Raise InputError unless it can learn to choose by this rule."""
        if not self.learns(rule):
            fits = " or ".join(self.rules) or "hard or topk"
            problem = f"{self.name} cannot learn to choose so"
            raise InputError("select", rule.name, problem, f"use {fits}, or another method")

    def missing(self, table: OutcomeTable) -> list[str]:
        """The columns it needs that a table lacks."""
        return [name for name in self.needs if getattr(table, name) is None]

    def candidates(self, tries: int) -> list[Any]:
        """The settings to try: the defaults, then distinct seeded draws from the space.

        Args:
            tries: how many; fewer where the space is smaller.
        """
        default = self.settings()
        if not self.space or tries <= 1:
            return [default]
        size = min(tries, len(ParameterGrid(dict(self.space))))
        drawn = [
            self.settings(**values) for values in ParameterSampler(dict(self.space), size, random_state=0)
        ]
        return [default, *(settings for settings in drawn if settings != default)][:tries]

    def configure(self, values: Mapping[str, Any]) -> Any:
        """Settings with some values changed.

        Raises:
            InputError: a setting is unknown; suggests the known ones.
        """
        known = asdict(self.settings())
        for name in values:
            if name not in known:
                fix = f"use one of {', '.join(known)}" if known else "it has none"
                raise InputError(f"settings.{name}", values[name], f"{self.name} has no such setting", fix)
        return self.settings(**values)
