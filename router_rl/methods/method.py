"""A method is `fit(problem, hyperparameters, run) -> policy`: agents, gates and baselines are all methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sklearn.model_selection import ParameterGrid, ParameterSampler
from torch import Tensor

from experts import InputError, OutcomeTable
from experts.table.missing_outcomes import missing_text

from ..problems.measure import Measurement
from ..problems.problem import Case, Problem
from ..routing import Router, Selection
from .checkpoint import Checkpoint
from .hyperparameters import NoHyperparameters
from .training_loop import Callback, Snapshot

__all__ = ["Bound", "Family", "Fit", "Method", "NoHyperparameters", "Run"]

Family = Literal["rl", "gate", "baseline", "bound"]
"""What a method learns from.

`rl` learns from the rewards of its own decisions, decision by decision: policy gradients, temporal
differences, policy iteration. `gate` learns from the loss of its mixture. `baseline` has nothing to learn,
fits predictions of the outcomes, or has a few constants that are chosen by mean utility as hyperparameters
are, by a grid or by a random or cross-entropy search. `bound` uses the outcomes of the rows it is evaluated
on. A method of the family `rl` with `full_information` maximises the same objective with the known outcomes
of all experts.
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Seed, callback and checkpoint of one fit.

    Attributes:
        seed: random seed.
        callback: is called with a `Snapshot` after every validation, or as the fit advances.
        checkpoint: stores the state of the fit, so that it can resume.
        validate_every: training queries between two validations; by default the method's own.
        messages: messages that the method adds about the result; the last one is reported.
        facts: facts that the method adds about the result, as JSON. `equals_start` is the name of the method
            that it started from, if its router is that method's router.
    """

    seed: int = 0
    callback: Callback | None = None
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(None, {}))
    validate_every: int | None = None
    messages: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def report(self, step: int, total: int, message: str, validation: Measurement | None = None) -> None:
        """Report the progress of the fit to the callback.

        Args:
            step: progress in the method's unit.
            total: the last step.
            message: what was done last.
            validation: validation result of the current policy, if any.
        """
        if self.callback is not None:
            best = float("nan") if validation is None else validation.means()["utility"]
            snapshot = Snapshot(step=step, total=total, validation=validation, best=best, message=message)
            self.callback(snapshot)


Fit = Callable[[Any, Any, Run], Any]
Refuses = Callable[[Any], "str | None"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to get a policy of a problem.

    Attributes:
        name: name on the command line.
        family: `rl`, `gate` or `baseline`, see `Family`.
        fit: maps problem, hyperparameters and run to a policy in evaluation mode. The problem has one case,
            unless the method amortizes.
        hyperparameters: frozen dataclass of its hyperparameters; the defaults are the first trial.
        space: search space: values of some hyperparameters, selected on validation.
        about: one line for `list`.
        amortizes: whether one fit serves all cases of a problem.
        selections: names of the selection rules it supports; empty: all.
        needs: optional columns of the table that it and its router require, such as `group`.
        trains_on: optional columns of the table that its fit requires, and its router does not.
        warm_starts_from: maps hyperparameters, the name of another method and its hyperparameters to the
            hyperparameters of the fit that starts from that method's router; None if it cannot. A comparison
            passes the non-RL methods in descending order of validation utility, until one can be a start.
            None: the method does not start from another.
        starts: whether another method may start from its router; not if its router draws at random.
        leave_one_out: maps a fitted router to the logits [T, outputs] of the training rows, each without the
            row's own outcome. None: such logits come from cross-fitting.
        full_information: whether it optimises the known outcomes of all experts on training rows, not the
            rewards of its own decisions.
        refuses: maps a problem to the reason why it cannot be fitted to it, or to None; None: it fits any.
        sparse: whether missing training outcomes may be estimated (`router_rl/problems/completed_table.py`).
            Not for a learner that reads the outcome of its own choice, or a test of each query's outcomes.
        holds_budget: whether its fit meets a budget itself, or has nothing to choose. For other gates and
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
    trains_on: tuple[str, ...] = ()
    warm_starts_from: Callable[[Any, str, Any], Any] | None = None
    starts: bool = True
    leave_one_out: Callable[[Router], Tensor] | None = None
    full_information: bool = False
    refuses: Refuses | None = None
    sparse: bool = False
    holds_budget: bool = False

    def refusal(self, problem: Problem) -> str | None:
        """Return why it cannot be fitted to a problem, whatever the selection rule, or None if it can."""
        missing, total = problem.missing_outcomes
        if missing and not self.sparse:
            return f"needs every training outcome, and {missing_text(missing, total)}"
        return None if self.refuses is None else self.refuses(problem)

    def learns(self, rule: Selection) -> bool:
        """Return whether it supports a selection rule; RL does not if experts choose queries."""
        return (not self.selections or rule.name in self.selections) and (rule.causal or self.family != "rl")

    def require(self, rule: Selection) -> None:
        """Check that it supports a selection rule.

        Raises:
            InputError: it does not.
        """
        if not self.learns(rule):
            supported = " or ".join(self.selections) or "hard or topk"
            reason = f"{self.name} does not support this selection rule"
            raise InputError("problem.select", rule.name, reason, f"use {supported}, or another method")

    def missing(self, table: OutcomeTable) -> list[str]:
        """Return the columns it needs that a table lacks."""
        return [name for name in (*self.needs, *self.trains_on) if getattr(table, name) is None]

    def candidates(self, n_trials: int) -> list[Any]:
        """Return the hyperparameters of each trial: the defaults, then distinct random samples of the space.

        Args:
            n_trials: number of trials; fewer if the space is smaller.
        """
        default = self.hyperparameters()
        if not self.space or n_trials <= 1:
            return [default]
        size = min(n_trials, len(ParameterGrid(dict(self.space))))
        sampled = [
            self.hyperparameters(**values)
            for values in ParameterSampler(dict(self.space), size, random_state=0)
        ]
        return [default, *(each for each in sampled if each != default)][:n_trials]

    def configure(self, values: Mapping[str, Any]) -> Any:
        """Return the default hyperparameters with some values replaced.

        Args:
            values: values by name.

        Raises:
            InputError: a hyperparameter is unknown; the error lists the known ones.
        """
        known = asdict(self.hyperparameters())
        for name in values:
            if name not in known:
                fix = f"use one of {', '.join(known)}" if known else "it has none"
                raise InputError(
                    f"method.{name}", values[name], f"{self.name} has no such hyperparameter", fix
                )
        return self.hyperparameters(**values)

    def start_values(self, given: Any) -> Any:
        """Return the hyperparameters with which another method's start is fitted.

        Args:
            given: `start_hyperparameters`: an instance, a mapping of a command line or a file, or None for
                the defaults.

        Raises:
            InputError: a hyperparameter is unknown, or they are another method's.
        """
        values = given or self.hyperparameters()
        if isinstance(values, Mapping):
            values = self.configure({str(key): value for key, value in values.items()})
        if not isinstance(values, self.hyperparameters):
            reason = f"are not hyperparameters of {self.name}"
            raise InputError("method.start_hyperparameters", values, reason, "give a mapping of them")
        return values


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An upper bound: it uses the outcomes of the rows it is evaluated on, so it is not a policy.

    Attributes:
        name: name on the command line.
        measure: maps problem, case and split to a measurement.
        about: one line for `list`.
        refuses: maps a problem to the reason why it has no such bound, or to None; None: it never refuses.
        family: `bound`.
    """

    name: str
    measure: Callable[[Any, Case, str], Measurement]
    about: str = ""
    refuses: Refuses | None = None
    family: Family = "bound"

    def refusal(self, problem: Problem) -> str | None:
        """Return why a problem has no such bound, or None if it has."""
        return None if self.refuses is None else self.refuses(problem)
