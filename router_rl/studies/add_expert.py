"""Add an expert to a router from its answers to a few queries of the old table.

The new expert's outcomes on the other queries are estimated (`problems/newcomer.py`), and the run's own
method is fitted again, with its hyperparameters and seed, to the table with one more expert. No expert is
asked again. So the result is a router like any other: every method, selection rule, mask, price and export
format works as before.

Compute is measured in units of the most expensive expert. If that is the new one, weights and budgets are
converted, so that a dollar keeps its price.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experts import InputError, OutcomeTable
from experts.readers.probes import Probes
from experts.table.missing_outcomes import require_complete

from ..methods.training_loop import Callback
from ..problems.extended_table import extended
from ..problems.newcomer import Answers, Newcomer, Pool, newcomer
from ..problems.newcomer_prior import estimated_variances
from ..problems.objective import Objective
from ..problems.probe_choice import next_probes, value_of_information
from ..problems.prompt_features import featurised
from ..problems.query_regions import query_regions
from ..problems.routing.folding import for_objective
from ..problems.routing.problem import RoutingProblem
from ..problems.routing.router_measurement import RouterMeasurement, measure
from .newcomer_gain import Gain, expected_gain
from .rebuilt_problem import rebuilt_problem
from .runs import TrainedRun, train_run

__all__ = ["Added", "Extension", "add_expert"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Added:
    """The result of adding an expert.

    Attributes:
        run: the new run.
        table: its table, with the new expert's measured and estimated outcomes.
        gain: what the new expert is expected to add.
        open_value: utility per query that more probes could add at most.
    """

    run: TrainedRun
    table: OutcomeTable
    gain: Gain
    open_value: float


class Extension:
    """A run and its table, about to get a new expert.

    Args:
        run: a run of the routing problem with full feedback.
        table: the table that it was trained on.
        probes: answers of the new expert; None before it was asked.

    Raises:
        InputError: the run or the table cannot be extended.
    """

    def __init__(self, run: TrainedRun, table: OutcomeTable, probes: Probes | None = None) -> None:
        require_complete(table, "adding an expert")
        self.run = run
        self._router = run.router  # an error if there is none, before anything is fitted
        self.problem = rebuilt_problem(run, table)
        _check(self.problem)
        self.table = table
        self.probes = probes
        features = self.problem.table.features
        assert features is not None
        region, regions = query_regions(table, features)
        self._pool = Pool(quality=table.quality, cost=table.cost, region=region, regions=regions)
        # Test rows measure the result, so nothing is learned from the existing experts' outcomes on them.
        self._known = np.flatnonzero(self.problem.table.split != "test")
        part = self._pool.take(self._known)
        self._variances = estimated_variances(part.quality, part.region, regions).widened()

    def newcomer(self) -> Newcomer:
        """Return what is known about the new expert on every row of the table."""
        answers = Answers.none()
        if self.probes is not None:
            answers = Answers(rows=self.probes.rows, quality=self.probes.quality, cost=self.probes.cost)
        return newcomer(self._pool, answers, self._variances)

    def suggested(self, count: int) -> np.ndarray:
        """Return rows to ask the new expert next, [count] int64, best first; never test rows."""
        return next_probes(self.newcomer(), self._rival(), self._price(), self._known, count)

    def open_value(self, new: Newcomer) -> float:
        """Return the utility per query that more probes could add at most."""
        return value_of_information(new, self._rival(), self._price())

    def measured_before(self) -> RouterMeasurement:
        """Return what the run's router earns on the test rows."""
        return self._measured(np.flatnonzero(self.problem.table.split == "test"))

    def _rival(self) -> np.ndarray:
        """Return the utility of the run's router in each region, [G] float64; elsewhere its mean."""
        utility = self._measured(self._known).utility.astype(np.float64)
        region, regions = self._pool.region[self._known], self._pool.regions
        count = np.bincount(region, minlength=regions)
        total = np.bincount(region, weights=utility, minlength=regions)
        return np.where(count > 0, total / np.maximum(count, 1), utility.mean())

    def _price(self) -> float:
        objective = self._objective()
        return 0.0 if objective.budget is not None else objective.compute_weight / self.run.scale

    def _objective(self) -> Objective:
        return self.problem.objectives[_middle(self.problem)]

    def _measured(self, rows: np.ndarray) -> RouterMeasurement:
        table, text = self.table.take(rows), self._router.text
        if table.features is None and text is not None:
            table = featurised(table, text)
        objective = self._objective()
        router = for_objective(self._router, objective)
        return measure(router, table, objective, self.run.scale, seed=self.run.facts["seed"])


def add_expert(extension: Extension, out: Path | str, callback: Callback | None = None) -> Added:
    """Fit the run's method to the table with the new expert, and write a run folder with the table.

    Args:
        extension: the run, its table and the new expert's answers.
        out: the run folder; the table is `table.parquet` in it.
        callback: is called with every snapshot of the fit.

    Raises:
        InputError: there are no answers, or the method or the folder cannot be used.
    """
    probes, facts = extension.probes, extension.run.facts
    assert probes is not None
    new = extension.newcomer()
    table = extended(extension.table, probes.expert, new)
    old = extension.problem
    unit = RoutingProblem(table, old.objectives, options=old.options)
    factor = unit.scale / extension.run.scale
    problem = unit.with_objective(*(_converted(each, factor) for each in old.objectives))
    run = train_run(
        problem,
        facts["method"],
        out,
        seed=facts["seed"],
        hyperparameters=facts["hyperparameters"],
        callback=callback,
    )
    table.write(Path(out) / "table.parquet")
    after = problem.evaluate(run.router, "test", problem.cases[_middle(problem)], seed=facts["seed"])
    rows = np.flatnonzero(problem.table.split == "test")
    gain = expected_gain(extension.measured_before(), after, (extension.run.scale, problem.scale), new, rows)
    return Added(run=run, table=table, gain=gain, open_value=extension.open_value(new))


def _converted(objective: Objective, factor: float) -> Objective:
    """Return an objective for a unit of compute that is larger by a factor."""
    caps: dict[str, Any] = {
        name: None if value is None else value / factor
        for name, value in (("budget", objective.budget), ("max_cost", objective.max_cost))
    }
    return replace(objective, compute_weight=objective.compute_weight * factor, **caps)


def _middle(problem: RoutingProblem) -> int:
    return (len(problem.cases) - 1) // 2


def _check(problem: RoutingProblem) -> None:
    """Raise InputError if a problem's routers cannot get another expert."""
    options = problem.options
    if options.feedback != "full":
        reason = "the outcomes of one expert per query do not say how a new one compares"
        raise InputError("problem.feedback", options.feedback, reason, "use a run with full feedback")
    if options.tree is not None:
        reason = "names the experts, and the new one is not among them"
        raise InputError("problem.tree", options.tree, reason, "train again with a tree that has it")
    if problem.table.probabilities is not None and problem.rule.k != 1:
        reason = "mixes class probabilities, which are not estimated for a new expert"
        raise InputError("problem.select", problem.rule.name, reason, "use a run that selects one expert")
