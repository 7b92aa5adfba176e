"""Routing: one decision per query under any selection rule, scored by quality, compute and load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from envs import Outcomes, RoutingCore, compute_scale
from experts import InputError, OutcomeTable
from experts.table.splitting import SPLITS

from ...routing import ConstantScorer, LinearScorer, MLPScorer, Router, Scorer, Selection, StateInput
from ..completed_table import completed
from ..cross_fitting import Fold
from ..data_digest import digest_of, table_digest
from ..device import device_named
from ..logged_feedback import LogConfig, impute
from ..objective import Objective
from ..options import options_as_json, with_changes
from ..out_of_fold import OutOfFold
from ..problem import Case, Problem, ProblemCard
from ..prompt_features import with_features
from ..selection_rules import selection
from ..tuning_rows import with_tuning_rows
from .folding import for_objective
from .objective_cases import check_affordable, check_objectives, objective_case
from .router_measurement import RouterMeasurement, Rows, measure_rows
from .routing_options import RoutingOptions, ScorerConfig
from .sparse_table import check_complete, sparse_notes
from .standardisation import mean_over, standardisation

__all__ = ["RoutingProblem"]


class RoutingProblem(Problem):
    """Select the expert, or experts, that answer each query.

    Args:
        table: outcome table with a split, and with features or prompts. Training outcomes may be missing.
        objective: objective to maximise; several make one case each.
        select: selection rule or its name; overrides `options.select`.
        options: the other options; the defaults if None.
        out_of_fold: which of the table's own features are out-of-fold predictions; computed here for a table
            of prompts.
        changes: fields of `RoutingOptions` to change.

    Attributes:
        train: training rows; under bandit feedback their outcomes are estimates. So are missing ones of a
            sparse table (`completed_table.py`).
        validation: rows for selecting hyperparameters and checkpoints, likewise.
        logged: training rows with true outcomes, for a learner that reads only the outcome of its own choice;
            under bandit feedback, once per row. Missing outcomes are NaN.
        objectives: one per case.
        rule: selection rule, the same in training and export.
        scorer: shape of a trained scorer.
        observe_load: whether a stateful learner observes the window's load.
        scale: unit of compute, in the table's cost unit: mean cost of the most expensive expert on training
            rows.
        device: device of the training.
        text: pipeline that computes features from prompts; None if the table has features.
        out_of_fold: see Args.
        log: how the decision log is simulated; None under full feedback.

    Raises:
        InputError: the table has neither features nor prompts, or no split, too few experts are within the
            maximum cost or the budget, outcomes of other than training rows are missing, or an option is
            invalid.
        RouterError: the rule needs more experts than there are.
    """

    name: ClassVar[str] = "routing"
    environment: ClassVar[str] = "RouterRL/Routing-v0"
    about: ClassVar[str] = "decide once per query which experts answer it"
    options_type: ClassVar[type] = RoutingOptions
    compared_weights: ClassVar[tuple[float, ...]] = (0.02, 0.1, 0.4)
    always: ClassVar[tuple[str, ...]] = (
        *("random", "best_single", "zero_router", "oracle"),
        *("knn", "kernel", "cluster", "guarded_knn", "ridge", "boosted_trees"),
        *("group_label", "inferred_group"),
    )
    objective_fields: ClassVar[tuple[str, ...]] = (
        *("compute_weight", "load_weight", "window", "budget", "max_cost"),
    )

    scores_training_rows: ClassVar[bool] = True
    measures_rows: ClassVar[bool] = True
    learns_from_log: ClassVar[bool] = True
    takes_sparse: ClassVar[bool] = True

    table: OutcomeTable
    rule: Selection

    def __init__(
        self,
        table: OutcomeTable,
        objective: Objective | Sequence[Objective] | None = None,
        select: str | Selection | None = None,
        *,
        options: RoutingOptions | None = None,
        out_of_fold: OutOfFold | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(table)
        if isinstance(select, str):
            changes["select"] = select
        self.options: RoutingOptions = with_changes(options or RoutingOptions(), changes)
        if not isinstance(select, Selection):
            self.options.check_used()
        objective = Objective() if objective is None else objective
        self.objectives = (objective,) if isinstance(objective, Objective) else tuple(objective)
        check_objectives(self.objectives, self.options.scorer)
        feedback = self.options.feedback
        check_complete(table, feedback)
        featured = with_features(with_tuning_rows(table), self.options.features, feedback=feedback)
        self.table, self.text = featured.table, featured.text
        self.out_of_fold = featured.out_of_fold or out_of_fold
        self.logged = self.table.part("train")
        self.train, self.validation = completed(self.logged), self.table.part("validation")
        self.tuning = self.table.part("tuning")
        self.rule = selection(
            select if isinstance(select, Selection) else self.options.select,
            self.train,
            k=self.options.k,
            tree=self.options.tree,
            feedback=feedback,
        )
        if feedback == "bandit" and self.rule.k != 1:
            reason = f"a log has one expert per query, {self.rule.name} selects {self.rule.k}"
            raise InputError("problem.feedback", feedback, reason, "use hard or hierarchical selection")
        self.scorer: ScorerConfig = self.options.scorer
        self.compile = self.options.compile
        self.device = device_named(self.options.device)
        self.log: LogConfig | None = None if feedback == "full" else self.options.log
        if self.log is not None:
            known = self.logged, self.validation, self.tuning
            self.train, self.validation, self.tuning = impute(*known, config=self.log)
        self.scale = compute_scale(self.logged)
        self.cases = tuple(objective_case(each) for each in self.objectives)
        for each in self.objectives:
            self._check_affordable(each)

    @property
    def objective(self) -> Objective:
        """The objective of the first case."""
        return self.objectives[0]

    @property
    def observe_load(self) -> bool:
        """Whether a stateful learner observes the window's load."""
        wanted = self.options.observe_load
        return self.objective.load_weight > 0 if wanted is None else wanted

    @property
    def included(self) -> tuple[str, ...]:
        """Names of methods that every comparison includes; under bandit feedback, bandits are among them."""
        bandits = ("linucb", "thompson") if self.feedback == "bandit" else ()
        return (*self.always, *bandits)

    @property
    def feedback(self) -> str:
        """`full` or `bandit`."""
        return self.options.feedback

    @property
    def missing_outcomes(self) -> tuple[int, int]:
        """How many training outcomes are missing, and of how many."""
        rows = self.logged
        return self.cached("missing outcomes", lambda: (rows.missing, rows.quality.size))

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages that every output of this problem must show."""
        notes = self.table.notes + sparse_notes(*self.missing_outcomes)
        if self.log is not None:
            notes += (
                "bandit feedback: training and validation queries have the outcome of one expert, which is "
                f"uniformly random with probability {self.log.epsilon:g} (log seed {self.log.seed}); the "
                "others are estimated. Test rows have all outcomes",
            )
        first = self.objective
        if first.budget is not None:
            notes += (
                f"compute is free within a budget of {first.budget:g} per query on average: utility is "
                "quality minus load, and every method searches its own compute weight",
            )
        if first.max_cost is not None:
            notes += (f"experts that cost more than {first.max_cost:g} on average are never selected",)
        return notes

    def at(self, case: Case) -> RoutingProblem:
        """Return the same problem with one of its cases."""
        assert case.objective is not None
        return self.with_objective(case.objective)

    def with_objective(self, *objectives: Objective) -> RoutingProblem:
        """Return the same problem under other objectives."""
        for each in objectives:
            self._check_affordable(each)
        return self.replaced(objectives=objectives, cases=tuple(objective_case(each) for each in objectives))

    def replaced(self, **attributes: Any) -> RoutingProblem:
        """Return a copy with some attributes replaced, such as `train`, without checks."""
        part = self.copied()
        for name, value in attributes.items():
            setattr(part, name, value)
        if set(attributes) - {"objectives", "cases"}:
            part.cache = {}
        return part

    def digest(self) -> str:
        """Return a digest of the outcomes and options."""
        options = options_as_json(self.options) | {
            "select": self.rule.spec(),
            "observe_load": self.observe_load,
        }
        return digest_of(table_digest(self.table), {name: options[name] for name in sorted(options)})

    def core(self, split: str, case: Case, *, lanes: int, seed: int) -> RoutingCore:
        """Return the environment on the rows of a split; lane i samples queries with seed + i."""
        assert case.objective is not None
        config = case.objective.config(k=self.rule.k, observe_load=self.observe_load)
        return RoutingCore(Outcomes.of(self.rows(split), self.scale, self.device), config, lanes, seed)

    def evaluate(
        self, policy: Router, split: str, case: Case | None = None, *, seed: int = 0
    ) -> RouterMeasurement:
        """Route every row of a split once, greedily; a conditioned router gets the case's weights.

        Args:
            policy: a router over the table's experts.
            split: `train`, `validation`, `tuning` or `test`.
            case: the case; the only one if None.
            seed: random seed of a stochastic router.

        Raises:
            RouterError: the router has other experts or another feature size than the table.
        """
        objective = (case or self.case).objective
        assert objective is not None
        table = self.rows(split)
        router = for_objective(policy, objective)
        router.check_pool(table.experts, table.features.shape[1] if table.features is not None else 0)
        device = next(router.parameters()).device
        rows = self.cached(("rows", split, device), lambda: Rows.of(table, self.scale, device))
        return measure_rows(router, rows, objective, seed)

    def describe(self) -> ProblemCard:
        """Return the description for reports and `list`."""
        features = self.table.features
        assert features is not None
        return ProblemCard(
            name=self.name,
            environment=self.environment,
            about=self.about,
            source=self.table.source,
            experts=self.table.experts,
            options=options_as_json(self.options),
            facts={
                "queries": {name: int((self.table.split == name).sum()) for name in SPLITS},
                "features": int(features.shape[1]),
                "cost_unit": self.table.cost_unit,
                "compute_unit": self.scale,
            },
            notes=self.notes,
            utility=self._utility_formula(),
        )

    def parity_rows(self) -> OutcomeTable:
        """Return the validation rows."""
        return self.validation

    def folds(self, folds: Sequence[Fold]) -> Iterator[tuple[RoutingProblem, OutcomeTable]]:
        """Yield, for each fold, the problem without the fold's training rows, and those rows.

        Args:
            folds: (fitted rows, held-out rows); those of `out_of_fold` if it is set. Its predictions are then
                replaced by those fitted without the fold, so that nothing in the problem depends on the
                held-out rows.
        """
        for fold, (kept, held_out) in enumerate(folds):
            train, logged, out_of_fold = self.train, self.logged, self.out_of_fold
            if out_of_fold is not None:
                assert train.features is not None
                features = out_of_fold.features(train.features, fold)
                train, logged = train.with_features(features), logged.with_features(features)
                out_of_fold = out_of_fold.take(kept)
            part = self.replaced(train=train.take(kept), logged=logged.take(kept), out_of_fold=out_of_fold)
            yield part, train.take(held_out)

    def outcomes(self) -> Outcomes:
        """Return the training rows on the device."""
        return Outcomes.of(self.train, self.scale, self.device)

    def logged_outcomes(self) -> Outcomes:
        """Return the training rows with true outcomes, for learners that read only their own choices."""
        return Outcomes.of(self.logged, self.scale, self.device)

    def new_router(self, seed: int, *, observe_load: bool = False, kind: str | None = None) -> Router:
        """Return an untrained router whose scorer standardises the features of the training rows.

        Args:
            seed: random seed of the initial weights.
            observe_load: whether its second input is the window's load.
            kind: `linear`, `mlp` or `constant`; the kind of the options if None.
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
                scorer = LinearScorer(inputs, outputs, bias=kind is not None or self.scorer.bias)
            else:
                scorer = MLPScorer(inputs, outputs, self.scorer.hidden)
        return self.wrap(scorer, state)

    def wrap(self, scorer: Scorer, state: Sequence[StateInput] = ()) -> Router:
        """Return a router with this scorer on the problem's device; sets the scorer to standardise features.

        Args:
            scorer: scorer of the features and the state.
            state: parts of the router's second input.
        """
        assert self.train.features is not None
        if scorer.standardises:
            scale = [self._state_scale(part.name) for part in state for _ in range(part.size)]
            scorer.standardise(*standardisation(self.train.features, scale))
        best_single = int(self.mean_utility().argmax())
        allowed = None if self.objective.max_cost is None else self.affordable.tolist()
        router = Router(
            scorer, self.rule, self.train.experts, state=state, fallback=best_single, allowed=allowed
        )
        return router.to(self.device)

    @property
    def affordable(self) -> np.ndarray:
        """Whether each expert's mean compute on training rows is within the maximum cost, [N] bool."""
        compute = self.train.cost.mean(axis=0, dtype=np.float64) / self.scale
        return compute <= (self.objective.max_cost or float("inf"))

    def mean_compute(self) -> np.ndarray:
        """Return the mean compute [N] float64 of each expert on training and validation rows."""
        return mean_over(self.train.cost, self.validation.cost) / self.scale

    def mean_utility(self) -> np.ndarray:
        """Return the mean utility [N] float64 of each expert on training and validation rows, without load.

        Experts above the maximum cost or the budget get -10,000.
        """
        quality, compute = mean_over(self.train.quality, self.validation.quality), self.mean_compute()
        utility = self.objective.utility(quality, compute, np.zeros_like(compute))
        within = compute <= (self.objective.budget or float("inf"))
        return np.where(self.affordable & within, utility, -1e4)

    def rows(self, split: str) -> OutcomeTable:
        """Return the rows of a split; training and validation rows as methods see them."""
        known = {"train": self.train, "validation": self.validation, "tuning": self.tuning}
        return known[split] if split in known else self.table.part(split)

    def _state_scale(self, name: str) -> float:
        """Return the scale of a state input relative to a standardised feature."""
        if name != "load":
            return 1.0
        # Counts over W of a balanced window fluctuate by about sqrt(1 / (N W)). The factor 1/4 is empirical:
        # at full scale, agents that sample actions overfit to these fluctuations.
        return len(self.train.experts) * float(self.objective.window) ** 0.5 / 4.0

    def _check_affordable(self, objective: Objective) -> None:
        """Raise InputError if the maximum cost or the budget leaves no possible decision."""
        if objective.max_cost is not None or objective.budget is not None:
            compute = self.train.cost.mean(axis=0, dtype=np.float64) / self.scale
            check_affordable(objective, self.train.experts, compute, min(self.rule.sizes(len(compute))))

    def _utility_formula(self) -> str:
        objective = self.objective
        formula = "quality" if objective.budget is not None else "quality - compute_weight x compute"
        return f"{formula} - {objective.load_weight:g} x load" if objective.load_weight else formula


def _load_state(experts: int, window: int) -> tuple[StateInput, ...]:
    meaning = (
        f"decisions of each expert since the start of the window of {window}, divided by {window}; "
        "a decision of k experts counts 1/k for each; reset to zeros after every window"
    )
    return (StateInput("load", experts, meaning),)
