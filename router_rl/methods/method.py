"""A method: `fit(problem, hyperparameters, run) -> policy`. Agents, gates and baselines are all methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sklearn.model_selection import ParameterGrid, ParameterSampler

from experts import InputError, OutcomeTable

from ..problems.measure import Measurement
from ..problems.problem import Case
from ..routing import Selection
from .checkpoint import Checkpoint
from .training_loop import Callback, Snapshot

__all__ = ["Bound", "Family", "Fit", "Method", "NoHyperparameters", "Run"]

Family = Literal["rl", "gate", "baseline", "bound"]


@dataclass(frozen=True, kw_only=True)
class NoHyperparameters:
    """The hyperparameters of a method that has none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The circumstances of one fit.

    Attributes:
        seed: of everything random.
        callback: is passed a `Snapshot` after every validation measurement and, where there are none, as
            the fit advances.
        checkpoint: where the fit's state is kept, so that an interrupted one resumes.
        validate_every: training queries between two validation measurements; None: the method's own.
        messages: sentences of the method about what it made; the last one is reported.
    """

    seed: int = 0
    callback: Callback | None = None
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(None, {}))
    validate_every: int | None = None
    messages: list[str] = field(default_factory=list)

    def report(self, step: int, total: int, message: str, validation: Measurement | None = None) -> None:
        """Pass on how far the fit is.

        Args:
            step, total: in the method's own unit.
            message: what was done last.
            validation: the policy measured on validation, where that was done.
        """
        if self.callback is not None:
            best = float("nan") if validation is None else validation.means()["utility"]
            snapshot = Snapshot(step=step, total=total, validation=validation, best=best, message=message)
            self.callback(snapshot)


Fit = Callable[[Any, Any, Run], Any]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to get a policy of a problem.

    Attributes:
        name: as on the command line.
        family: `rl`, `gate` or `baseline`.
        fit: problem, hyperparameters and run to a policy, in evaluation mode. The problem has one case,
            unless the method amortizes.
        hyperparameters: the frozen dataclass of its hyperparameters; its defaults are the first trial.
        space: values to try for some of them, chosen on validation.
        about: one line for `list`.
        amortizes: one fit serves all cases of a problem.
        selections: names of the selection rules it can learn; empty: every one.
        needs: optional columns of the table, such as `group`, that it cannot do without.
        warm_starts_from: its hyperparameters, and a gate's name and hyperparameters, to the hyperparameters
            of the fit that starts from that gate; a comparison lets it start from the gate that validation
            picks. None: it starts from none.
        holds_budget: its fit keeps to a budget itself, or has nothing to choose; for other gates and
            baselines the compute weight is searched.
    """

    name: str
    family: Family
    fit: Fit
    hyperparameters: type = NoHyperparameters
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    about: str = ""
    amortizes: bool = False
    selections: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    warm_starts_from: Callable[[Any, str, Any], Any] | None = None
    holds_budget: bool = False

    def learns(self, rule: Selection) -> bool:
        """Whether it can learn a selection rule; where experts choose there is no policy to train."""
        return (not self.selections or rule.name in self.selections) and (rule.causal or self.family != "rl")

    def require(self, rule: Selection) -> None:
        """Raise InputError unless it can learn this selection rule."""
        if not self.learns(rule):
            fits = " or ".join(self.selections) or "hard or topk"
            reason = f"{self.name} cannot learn this selection rule"
            raise InputError("problem.select", rule.name, reason, f"use {fits}, or another method")

    def missing(self, table: OutcomeTable) -> list[str]:
        """The columns it needs that a table lacks."""
        return [name for name in self.needs if getattr(table, name) is None]

    def candidates(self, n_trials: int) -> list[Any]:
        """The hyperparameters to try: the defaults, then distinct seeded draws from the space.

        Args:
            n_trials: how many; fewer where the space is smaller.
        """
        default = self.hyperparameters()
        if not self.space or n_trials <= 1:
            return [default]
        size = min(n_trials, len(ParameterGrid(dict(self.space))))
        drawn = [
            self.hyperparameters(**values)
            for values in ParameterSampler(dict(self.space), size, random_state=0)
        ]
        return [default, *(each for each in drawn if each != default)][:n_trials]

    def configure(self, values: Mapping[str, Any]) -> Any:
        """Hyperparameters with some values changed.

        Raises:
            InputError: a hyperparameter is unknown; names the known ones.
        """
        known = asdict(self.hyperparameters())
        for name in values:
            if name not in known:
                fix = f"use one of {', '.join(known)}" if known else "it has none"
                raise InputError(f"method.{name}", values[name], f"{self.name} has no such field", fix)
        return self.hyperparameters(**values)


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What no policy can reach, or reaches only with knowledge that no policy has.

    Attributes:
        name: as on the command line.
        measure: problem, case and split to what it earns.
        about: one line for `list`.
    """

    name: str
    measure: Callable[[Any, Case, str], Measurement]
    about: str = ""
    family: Family = "bound"
