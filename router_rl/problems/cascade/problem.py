"""The cascade: ask an expert, read its confidence, then ask another one or return an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from envs.cascade import CascadeConfig, CascadeCore, CascadeTable
from envs.cascade_table import NO_CONFIDENCE
from envs.outcomes import compute_scale
from experts import OutcomeTable
from experts.table.follow_ups import call_of, followed_by, without_follow_ups
from experts.table.splitting import SPLITS

from ...routing import Router
from ..data_digest import digest_of, table_digest
from ..measure import Measurement
from ..objective import Objective
from ..objective_fields import compute_weight_cases
from ..options import options_as_json, with_changes
from ..problem import Case, FigureData, Policy, Problem, ProblemCard
from ..prompt_features import with_features
from ..routing.problem import RoutingProblem
from ..table_facts import table_facts
from ..tuning_rows import with_tuning_rows
from .cascade_data import CascadeData, agreement
from .cascade_episodes import measure_episodes, run_episodes
from .cascade_options import CascadeOptions
from .query_router import AskOnce
from .tree_data import paths_of

__all__ = ["CascadeProblem"]

_WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.4)


class CascadeProblem(Problem):
    """Which experts to ask for a query, one after another, and which answer to return.

    Further samples and verifiers are columns of the table, see `experts/table/follow_ups.py`.

    Args:
        table: an outcome table with a split, with confidences, class probabilities or answers, and with
            features or prompts to make features of.
        objective: what to maximise; several make one case each. None: compute weights 0.02, 0.05, 0.1, 0.2
            and 0.4.
        options: the other options; the defaults if None.
        changes: fields of `CascadeOptions`, in place of those of `options`.

    Attributes:
        scale: the unit of compute, in the table's cost unit: the most expensive expert's mean cost on the
            training rows.
        config: the environment's options; an episode draws the compute weight of one of the cases.
        text: the pipeline that makes features of prompts; None where the table has features.
        out_of_fold: which of the features are cross-fitted predictions of the training rows.

    Raises:
        InputError: the table has neither confidences nor answers, or lacks a split, features cannot be
            made, or an option or an objective does not fit.
    """

    name: ClassVar[str] = "cascade"
    environment: ClassVar[str] = "RouterRL/Cascade-v0"
    about: ClassVar[str] = "ask an expert, read its confidence, ask another one or answer"
    options_type: ClassVar[type] = CascadeOptions
    observes: ClassVar[tuple[str, ...]] = ("confidence",)
    always: ClassVar[tuple[str, ...]] = ("knn", "ridge", "beliefs", "best_single", "random", "oracle")
    rival: ClassVar[str | None] = "thresholds"
    compared_weights: ClassVar[tuple[float, ...]] = _WEIGHTS
    trained_weights: ClassVar[tuple[float, ...]] = _WEIGHTS
    measures_rows: ClassVar[bool] = True

    table: OutcomeTable

    def __init__(
        self,
        table: OutcomeTable,
        objective: Objective | Sequence[Objective] | None = None,
        *,
        options: CascadeOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(table)
        self.options: CascadeOptions = with_changes(options or CascadeOptions(), changes)
        if objective is None:
            objective = [Objective(compute_weight=weight) for weight in _WEIGHTS]
        objectives = (objective,) if isinstance(objective, Objective) else tuple(objective)
        self.cases = compute_weight_cases(CascadeProblem, objectives)
        table = with_tuning_rows(table)
        if self.options.use_features:
            featured = with_features(table, self.options.features)
            self.table, self.text, self.out_of_fold = featured
        else:
            self.table, self.text, self.out_of_fold = _without_features(table), None, None
        self.scale = compute_scale(without_follow_ups(self.table).part("train"))
        for split in SPLITS:
            self.rows(split)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a policy reads: the query, if it observes it, the confidences and which answers agree."""
        read = super().inputs if self.options.use_features else self.observes
        if not self._confident:
            read = tuple(name for name in read if name not in self.observes)
        return (*read, *(("answer",) if self.agreement_beliefs else ()))

    @property
    def agreement_beliefs(self) -> bool:
        """Whether the agreement of answers moves the beliefs."""
        chosen = self.options.agreement_beliefs
        known = self.rows("train").same is not None
        return known and (not self._answers_are_confident if chosen is None else chosen)

    @property
    def _answers_are_confident(self) -> bool:
        """Whether answers have confidences of their own, beside the verdicts of verifiers."""
        if self.table.confidence is None:
            return self._confident
        answers = [call_of(name, self.experts).verifies is None for name in self.experts]
        return bool((self.table.confidence[:, answers] != NO_CONFIDENCE).any())

    @property
    def _confident(self) -> bool:
        return self.table.confidence is not None or self.table.probabilities is not None

    @property
    def weights(self) -> tuple[float, ...]:
        """The compute weight of each case."""
        return tuple(case.values["compute_weight"] for case in self.cases)

    @property
    def config(self) -> CascadeConfig:
        """The environment's options."""
        return CascadeConfig(compute_weights=self.weights, max_experts=self.options.max_experts)

    def rows(self, split: str) -> CascadeTable:
        """Return the rows of a split in the form of the environment."""
        return self.cached(("rows", split), lambda: CascadeTable.of(self.table.part(split), self.scale))

    def data(self, seed: int) -> CascadeData:
        """Return training and validation rows with beliefs, which are fitted once per seed."""

        def fitted() -> CascadeData:
            learned = self.table.take(np.isin(self.table.split, ("train", "validation")))
            rows = self.cached("learned rows", lambda: CascadeTable.of(learned, self.scale))
            same = self.cached("agreement", lambda: agreement(rows))
            believed = self.agreement_beliefs
            return CascadeData.of(rows, self.experts, seed, same, agreement_beliefs=believed)

        return self.cached(("data", seed), fitted)

    def routing(self) -> RoutingProblem:
        """Return the routing problem on the experts' first answers, with the only case's objective."""

        def make() -> RoutingProblem:
            return RoutingProblem(without_follow_ups(self.table), out_of_fold=self.out_of_fold)

        routing = self.cached("routing", make)
        return routing.at(self.case)

    def digest(self) -> str:
        """Return a digest of the outcomes, the features and the options."""
        return digest_of(table_digest(self.table), options_as_json(self.options))

    def core(self, split: str, case: Case | None, *, lanes: int, seed: int) -> CascadeCore:
        """Return the environment on the rows of a split; lane i has the random stream `seed + i`.

        Args:
            split: `train`, `validation`, `tuning` or `test`.
            case: its compute weight; None: an episode draws the compute weight of one of the cases.
            lanes: B.
            seed: of lane 0.
        """
        weights = self.weights if case is None else (case.values["compute_weight"],)
        config = replace(self.config, compute_weights=weights)
        return CascadeCore(self.rows(split), config, lanes, seed=seed)

    def evaluate(
        self, policy: Policy | Router, split: str, case: Case | None = None, *, seed: int = 0
    ) -> Measurement:
        """Run one episode on every query of a split, greedily, with all experts up.

        Args:
            policy: a cascade policy, or a router of the query, which asks one expert.
            split: `train`, `validation`, `tuning` or `test`.
            case: the case; the only one if None.
            seed: of a stochastic router's draws.

        Raises:
            RouterError: a router's experts or feature size are not the table's.
        """
        case = case or self.case
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weight = case.values["compute_weight"]
            return measure_episodes(self._policy(policy), self.rows(split), self.config, weight)

    def figures(self, policy: Policy | Router, case: Case) -> Sequence[FigureData]:
        """Return the tree of asked experts on test queries; nothing if no second expert is asked."""
        rows = self.rows("test")
        queries = torch.arange(rows.outcomes.queries)
        weight = case.values["compute_weight"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            episodes = run_episodes(self._policy(policy), rows, self.config, weight, queries)
        paths = paths_of(episodes, self.experts)
        if all(len(path["asked"]) < 2 for path in paths):
            return ()
        note = (
            "Shares of the test queries. The length of a bar is its share; an expert is indented below the "
            "one asked before it. Strong: the queries that stop there, with the quality of their answers. "
            "Branches below 1% are left out."
        )
        title = f"Experts asked, in order, at {case.label}"
        return (FigureData(form="cascade_tree", title=title, note=note, data={"paths": paths}),)

    def describe(self) -> ProblemCard:
        """Return the description for reports and `list`."""
        return ProblemCard(
            name=self.name,
            environment=self.environment,
            about=self.about,
            source=self.table.source,
            experts=self.experts,
            options=options_as_json(self.options),
            facts=table_facts(self.table, self.scale),
            notes=self.table.notes,
            utility="quality - compute_weight x compute",
        )

    def parity_rows(self) -> OutcomeTable:
        """Return the validation rows of first answers, among which routers of the query select."""
        return without_follow_ups(self.table.part("validation"))

    def _policy(self, policy: Policy | Router) -> Policy:
        if not isinstance(policy, Router):
            return policy
        assert self.table.features is not None
        after = followed_by(self.experts)
        first = [name for name, before in zip(self.experts, after, strict=True) if before < 0]
        policy.check_pool(first, self.table.features.shape[1])
        return AskOnce(router=policy, columns=len(after))


def _without_features(table: OutcomeTable) -> OutcomeTable:
    """Return the table with one feature, which is always 0."""
    note = "features: none; policies observe the experts' confidences alone"
    features = np.zeros((len(table), 1), dtype=np.float32)
    return replace(table, features=features, notes=(*table.notes, note))
