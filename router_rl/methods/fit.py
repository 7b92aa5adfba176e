"""Fit one method to one task: the settings chosen on validation, the router returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from experts import InputError, OutcomeTable

from ..problems.logged_feedback import LogConfig
from ..problems.objective import Objective
from ..problems.prompt_features import FeatureConfig, with_features
from ..problems.routing.problem import ScorerConfig, Task
from ..problems.routing.router_measurement import measure
from ..problems.selection_rules import selection
from ..routing import Router, Selection
from .budget import fit_method
from .method import Run
from .registry import ORACLE, find_method
from .training_loop import Watch

__all__ = ["fit"]


def fit(
    method: str,
    table: OutcomeTable,
    objective: Objective,
    *,
    select: str | Selection = "hard",
    k: int = 2,
    tree: Mapping[str, Any] | None = None,
    seed: int = 0,
    tries: int = 1,
    scorer: ScorerConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    device: torch.device | str = "cpu",
    feedback: str = "full",
    log: LogConfig | None = None,
    features: FeatureConfig | None = None,
) -> Router:
    """Train a router.

    Args:
        method: a name in `METHODS`.
        table: outcomes with features, or prompts to make them from, and a split.
        objective: what to maximise.
        select: the selection rule, by name or itself.
        k: experts a decision runs or may run, for rules that take it.
        tree: of expert names, for hierarchical selection; grown from the training rows if None.
        seed: of everything random.
        tries: settings tried; the best on validation wins.
        scorer: the shape of the scorer.
        settings: values for some of the method's settings; then there is one try.
        watch: is told of every validation measurement.
        device: where training happens.
        feedback: `full`, or `bandit`: of each row the outcome of one expert, chosen by a log.
        log: how that expert was chosen.
        features: what to make of the prompts of a table that has no features; the router then reads prompts.

    Raises:
        InputError: a name is unknown, a value does not fit, or the table cannot be used.
        RouterError: the rule needs more experts than the table has.
    """
    if method == ORACLE:
        raise InputError("method", method, "knows the outcomes and cannot be fitted", "choose another")
    found = find_method(method)
    table, text, readouts = with_features(table, features, feedback=feedback)
    rule = selection(select, table, k=k, tree=tree, feedback=feedback)
    found.require(rule)
    task = Task.of(
        table,
        objective,
        rule,
        scorer=scorer,
        device=device,
        feedback=feedback,
        log=log,
        readouts=readouts,
    )
    candidates = found.candidates(tries) if settings is None else [found.configure(settings)]
    routers = [fit_method(found, task, candidate, Run(seed=seed, watch=watch)) for candidate in candidates]
    best = routers[0]
    if len(routers) > 1:
        best = max(routers, key=lambda router: _validation_utility(router, task))
    best.text = text
    return best


def _validation_utility(router: Router, task: Task) -> float:
    return measure(router, task.validation, task.objective, task.scale).means()["utility"]
