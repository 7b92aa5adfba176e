"""The methods of `token_moe.py`: what each learns from, and how it is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from envs import LoadRule, TokenMoEConfig
from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe.backprop import GATES, Gate, joint, served, top_p, train_gate
from router_rl.methods.token_moe.balance import balanced_routers
from router_rl.methods.token_moe.counterfactual import (
    OUTCOME_TABLE,
    CounterfactualHyperparameters,
    train_counterfactual,
)
from router_rl.methods.token_moe.token_reinforce import TokenReinforceHyperparameters, train_reinforce
from router_rl.methods.token_moe.token_ridge import RidgeHyperparameters, fit_ridge
from router_rl.methods.token_moe.token_training import Fit, Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_measurement import Choose, Measured, measure
from router_rl.routing import Hierarchical, Selection, Soft, TopK

RATES = (3e-2, 1e-2, 3e-3)  # learning rates tried, in this order
RIDGES = [RidgeHyperparameters(penalty=p, window=w) for p in (1e-3, 1e-2, 1e-1) for w in (4, 16)]
LABELLED = [RidgeHyperparameters(target="label", penalty=p) for p in (1e-3, 1e-2, 1e-1)]
GROUP = 8  # sequences served together where load is charged and tiles are counted
COMPUTE = (0.01, 0.03)  # nats for a second expert at every layer
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)
Learn = Callable[["Study", Training], tuple[Choose, Fit]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A trained method.

    Attributes:
        section: the table that shows it.
        served: how many experts a token runs.
        family: RL or gate.
        learn: trains it.
    """

    section: str
    served: str
    family: str
    learn: Learn


class Study:
    """A pool, and the warm start of all methods.

    Args:
        pool: the experts that serve.
        original: the same before quantisation, for gates that need gradients through the experts.
        hyperparameters: of the warm start, if they are chosen already.
    """

    def __init__(
        self,
        pool: TokenPool,
        original: TokenPool | None = None,
        hyperparameters: RidgeHyperparameters | None = None,
    ) -> None:
        self.pool = pool
        self.original = original
        self._hyperparameters = hyperparameters

    @cached_property
    def hyperparameters(self) -> RidgeHyperparameters:
        """Of the warm start: chosen on validation, without labels."""
        if self._hyperparameters is not None:
            return self._hyperparameters
        return min(RIDGES, key=lambda each: self.validated(self.closed_form(each).choose))

    @cached_property
    def ridge(self) -> LayerRouters:
        """The warm start of top-1 routers."""
        return self.closed_form(self.hyperparameters)

    @cached_property
    def labelled_ridge(self) -> LayerRouters:
        """The closed form that uses the domain labels of the training text."""
        found = [self.closed_form(each) for each in LABELLED]
        return min(found, key=lambda routers: self.validated(routers.choose))

    def closed_form(
        self, hyperparameters: RidgeHyperparameters, rule: Selection | None = None
    ) -> LayerRouters:
        """Ridge routers."""
        return fit_ridge(self.pool.tail, self.pool.parts["train"], hyperparameters, rule)

    def start(self, rule: Selection | None) -> LayerRouters:
        """The warm start for a rule: the same logits, or the same targets where it has logits of its own."""
        if rule is None:
            return self.ridge
        if rule.outputs(self.pool.tail.experts) == self.pool.tail.experts:
            return self.ridge.copy(rule)
        return self.closed_form(self.hyperparameters, rule)

    def validation(self, choose: Choose) -> Measured:
        """A measurement on the validation part."""
        return measure(self.pool.tail, self.pool.parts["validation"], choose)

    def validated(self, choose: Choose) -> float:
        """Mean loss there."""
        return float(self.validation(choose).loss.mean())


def gate(rule: Gate, *, float_experts: bool = False) -> Learn:
    """A gate trained by backpropagation; through the original experts if those that serve are quantised."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        pool = study.original if float_experts and study.original is not None else study.pool
        fit, serve = train_gate(pool, study.ridge, rule, training)
        choose = serve(fit.routers)
        return choose, replace(fit, validation=study.validated(choose))

    return learn


def soft_served(rule: Gate) -> Learn:
    """A soft gate, served as a mixture of all experts."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        all_of_them = replace(rule, k=study.pool.tail.experts)
        fit, serve = train_gate(study.pool, study.ridge, all_of_them, training)
        return serve(fit.routers), fit

    return learn


def thresholded(learn_first: Learn, charged: TokenMoEConfig) -> Learn:
    """A method's logits, served with one expert where its probability exceeds a threshold, else with two.

    The threshold is tuned on validation.
    """

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        _, fit = learn_first(study, training)
        bias = torch.zeros(study.pool.tail.depth, study.pool.tail.experts)
        options = [served(fit.routers, Gate(mixes=top_p(t), k=2), bias) for t in THRESHOLDS]
        scores = [objective(study.validation(choose), charged) for choose in options]
        best = int(np.argmin(scores))
        return options[best], replace(fit, validation=scores[best])

    return learn


@dataclass(frozen=True)
class Start:
    """Where a policy gradient starts, and the fraction of the epochs that this uses."""

    routers: Callable[[Study, Training], LayerRouters]
    used: float = 0.0

    def left(self, training: Training) -> Training:
        """What is left of the training."""
        return replace(training, epochs=training.epochs - round(self.used * training.epochs))


def from_ridge(rule: Callable[[TokenPool], Selection] | None = None) -> Start:
    """The closed form, under a rule if one is given."""
    return Start(lambda study, training: study.start(None if rule is None else rule(study.pool)))


def from_table(rule: Selection | None = None, no_expert: bool = False) -> Start:
    """Half of the epochs on the outcome table; the next learner has the other half."""

    def routers(study: Study, training: Training) -> LayerRouters:
        half = replace(training, epochs=training.epochs // 2, learning_rate=RATES[0], checks=2)
        fit = train_counterfactual(study.pool, study.ridge, half, OUTCOME_TABLE)
        return fit.routers.with_no_expert(2) if no_expert else fit.routers.copy(rule)

    return Start(routers, used=0.5)


def from_gate(name: str) -> Start:
    """Half of the epochs as a gate; the next learner has the other half."""

    def routers(study: Study, training: Training) -> LayerRouters:
        half = replace(training, epochs=training.epochs // 2)
        return train_gate(study.pool, study.ridge, GATES[name], half)[0].routers

    return Start(routers, used=0.5)


def reinforce(start: Start, config: TokenMoEConfig | None = None, **hyperparameters: Any) -> Learn:
    """Policy gradient over whole paths, in the environment; validated with its penalties."""
    charged = TokenMoEConfig() if config is None else config

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        def score(routers: LayerRouters) -> float:
            return objective(study.validation(routers.choose), charged)

        learner = TokenReinforceHyperparameters(**hyperparameters)
        routers = start.routers(study, training)
        fit = train_reinforce(study.pool, routers, start.left(training), learner, charged, score=score)
        return fit.routers.choose, fit

    return learn


def counterfactual(start: Start, **hyperparameters: Any) -> Learn:
    """Exact policy gradient, a layer at a time."""
    return table(start, hyperparameters=CounterfactualHyperparameters(**hyperparameters))


def table(
    start: Start | None = None,
    *,
    serve: Callable[[TokenPool], Selection] | None = None,
    charged: TokenMoEConfig | None = None,
    hyperparameters: CounterfactualHyperparameters = OUTCOME_TABLE,
) -> Learn:
    """Exact policy gradient on the outcome table.

    Args:
        start: the closed form if None.
        serve: the rule that the policy is served by, its probabilities being the weights; its own if None.
        charged: the penalties that it pays besides its loss.
        hyperparameters: of the learner.
    """
    charged = TokenMoEConfig() if charged is None else charged
    hyperparameters = replace(hyperparameters, load_weight=charged.load_weight, load=charged.load)

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        def as_served(routers: LayerRouters) -> LayerRouters:
            return routers if serve is None else routers.copy(serve(study.pool))

        def score(routers: LayerRouters) -> float:
            return objective(study.validation(as_served(routers).choose), charged)

        begin = from_ridge() if start is None else start
        routers = begin.routers(study, training)
        fit = train_counterfactual(study.pool, routers, begin.left(training), hyperparameters, score=score)
        return as_served(fit.routers).choose, fit

    return learn


def then_balanced(learn_first: Learn) -> Learn:
    """A top-1 method, then a bias for each expert that balances its load on the training text."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        _, fit = learn_first(study, training)
        routers = balanced_routers(study.pool, fit.routers)
        return routers.choose, replace(fit, routers=routers, validation=study.validated(routers.choose))

    return learn


def objective(found: Measured, charged: TokenMoEConfig) -> float:
    """Loss plus the penalties for experts beyond the first and for load."""
    value = float(found.loss.mean()) + charged.compute_weight * (found.compute - 1.0)
    if charged.load_weight:
        tiled = charged.load.kind == "tiles"
        load = found.tiles(GROUP, charged.load.tile) - 1.0 if tiled else found.load_cv() ** 2
        value += charged.load_weight * load
    return value


METHODS: dict[str, Method] = {}


def add(section: str, served_as: str, family: str, **methods: Learn) -> None:
    """Put methods into the study."""
    for name, learn in methods.items():
        METHODS[name] = Method(section=section, served=served_as, family=family, learn=learn)


def all_experts(pool: TokenPool) -> Selection:
    """All experts of a pool."""
    return Soft(k=pool.tail.experts)


def two(pool: TokenPool) -> Selection:
    """Two experts."""
    return TopK(k=2)


RIDGE, TABLED = from_ridge(), from_table()
TREE = from_ridge(lambda pool: Hierarchical(tree=pool.tree))
EVEN = TokenMoEConfig(sequences=GROUP)
TILED = TokenMoEConfig(load=LoadRule("tiles"), sequences=GROUP)
add(
    *("main", "1", "gate"),
    soft_gate=gate(GATES["soft_gate"]),
    straight_through=gate(GATES["straight_through"]),
    switch=gate(GATES["switch"]),
    renormalised_top1=gate(GATES["renormalised_top1"]),
)
add(
    *("main", "1", "RL"),
    outcome_table=table(),
    table_then_reinforce=reinforce(TABLED),
    gate_then_reinforce=reinforce(from_gate("soft_gate")),
    joint=gate(joint(GATES["soft_gate"])),
    table_then_counterfactual=counterfactual(TABLED, layers=0, entropy=1e-3),
    counterfactual=counterfactual(RIDGE, layers=0),
    reinforce=reinforce(RIDGE),
)
add("main", "1 (tree)", "RL", outcome_table_tree=table(TREE), reinforce_tree=reinforce(TREE))
add(
    "main",
    "2",
    "gate",
    mixtral_top2=gate(GATES["mixtral_top2"]),
    deepseek_v3_top2=gate(GATES["deepseek_v3_top2"]),
)
add(
    *("main", "2", "RL"),
    outcome_table_top2=table(serve=two),
    joint_top2=gate(joint(GATES["mixtral_top2"])),
    table_then_reinforce_top2=reinforce(from_table(TopK(k=2))),
    reinforce_top2=reinforce(from_ridge(two)),
)
add("main", "all", "gate", soft_mixture=soft_served(GATES["soft_gate"]))
add(
    *("main", "all", "RL"),
    outcome_table_soft=table(serve=all_experts),
    joint_soft=soft_served(joint(GATES["soft_gate"])),
    reinforce_soft=reinforce(from_ridge(all_experts), entropy=0.0),
)
for weight in COMPUTE:
    priced = TokenMoEConfig(compute_weight=weight)
    gates = {f"mixtral, top_p at {weight:g}": thresholded(gate(GATES["mixtral_top2"]), priced)}
    add("compute", "1 or 2", "gate", **gates)
    policies = {
        f"outcome_table, top_p at {weight:g}": thresholded(table(serve=two), priced),
        f"joint, top_p at {weight:g}": thresholded(gate(joint(GATES["mixtral_top2"])), priced),
        f"reinforce_adaptive at {weight:g}": reinforce(from_table(no_expert=True), priced),
    }
    add("compute", "1 or 2", "RL", **policies)
add(
    *("load", "1", "gate"),
    **{f"soft_gate, balance {b:g}": gate(replace(GATES["soft_gate"], balance=b)) for b in (0.03, 0.3)},
    **{"soft_gate, then bias": then_balanced(gate(GATES["soft_gate"]))},
)
add(
    *("load", "1", "RL"),
    **{"outcome_table, then bias": then_balanced(table())},
    **{"joint, then bias": then_balanced(gate(joint(GATES["soft_gate"])))},
    **{f"outcome_table, load {w:g}": table(charged=replace(EVEN, load_weight=w)) for w in (0.1, 0.3)},
    **{f"outcome_table, tiles {w:g}": table(charged=replace(TILED, load_weight=w)) for w in (0.1, 0.3)},
    **{f"reinforce, load {w:g}": reinforce(TABLED, replace(EVEN, load_weight=w)) for w in (0.1, 0.3)},
    **{f"reinforce, tiles {w:g}": reinforce(TABLED, replace(TILED, load_weight=w)) for w in (0.1, 0.3)},
)
add(
    *("credit", "1", "RL"),
    **{f"reinforce, {n} rollouts": reinforce(RIDGE, rollouts=n) for n in (2, 8)},
    **{"reinforce, discount 0.5": reinforce(RIDGE, discount=0.5)},
    **{"counterfactual, local": counterfactual(RIDGE, credit="local", layers=0)},
    **{"counterfactual, one layer a step": counterfactual(RIDGE)},
    **{"outcome_table, discount 0.5": table(hyperparameters=replace(OUTCOME_TABLE, discount=0.5))},
    **{"outcome_table, entropy 0.001": table(hyperparameters=replace(OUTCOME_TABLE, entropy=1e-3))},
)
add(
    *("quantised", "1", "gate"),
    **{
        f"{name}, float experts": gate(GATES[name], float_experts=True)
        for name in ("soft_gate", "straight_through")
    },
)


def asdict_of(method: Method) -> dict[str, str]:
    """What the tables show of a method."""
    return {name: value for name, value in asdict(method).items() if name != "learn"}
