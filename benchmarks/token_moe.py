"""Token-level routing over frozen FFN experts: policy gradients against backpropagated gates.

    python benchmarks/token_moe.py --out runs/token_moe/study
    python benchmarks/token_moe.py --pool runs/token_moe/pool --out runs/token_moe/study-pool --tries 1

The first runs on the tiny pool of the package, the second on one that `token_moe_pool.py` made. Every trained
method starts from the same closed-form routers, which saw no domain labels, and reads the same training
sequences in as many passes; its learning rate is chosen on validation with seed 0. Prints Markdown; every
finished fit is kept, and a stopped study goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from token_moe_pool import open_pool
from token_moe_tables import tables

from envs import LoadRule, TokenMoEConfig
from experts.atomic import write_json
from experts.moe.pool import TokenPool
from experts.moe.tiny import tiny_pool
from experts.progress import say
from router_rl.routing import Hierarchical, Selection, Soft, TopK
from router_rl.token_moe import (
    GATES,
    CounterfactualSettings,
    LayerRouters,
    RidgeSettings,
    TokenReinforceSettings,
    Training,
    bounds,
    fit_ridge,
    measure,
    train_counterfactual,
    train_gate,
    train_reinforce,
)
from router_rl.token_moe.backprop import Gate, served, top_p
from router_rl.token_moe.balance import balanced_routers
from router_rl.token_moe.measure import Choose, Measured, flips
from router_rl.token_moe.training import Fit

TABLE = CounterfactualSettings(credit="table", layers=0, entropy=1e-2)
RATES = (3e-2, 1e-2, 3e-3)  # learning rates tried, in this order
RIDGES = [RidgeSettings(penalty=p, window=w) for p in (1e-3, 1e-2) for w in (4, 16)]
LABELLED = [RidgeSettings(target="label", penalty=p) for p in (1e-3, 1e-2)]
GROUP = 8  # sequences served together where load is charged and tiles are counted
COMPUTE = (0.01, 0.03)  # nats for a second expert at every layer
Learn = Callable[["Study", Training], tuple[Choose, Fit]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A trained method.

    Attributes:
        section: the table it stands in.
        served: how many experts a token runs.
        family: RL or gate.
        learn: trains it.
    """

    section: str
    served: str
    family: str
    learn: Learn


class Study:
    """A pool, and the warm start that everybody gets."""

    def __init__(self, pool: TokenPool) -> None:
        self.pool = pool

    @cached_property
    def settings(self) -> RidgeSettings:
        """Of the warm start: chosen on validation, without labels."""
        return min(RIDGES, key=lambda each: self.validated(self.closed_form(each).choose))

    @cached_property
    def ridge(self) -> LayerRouters:
        """The warm start of top-1 routers."""
        return self.closed_form(self.settings)

    @cached_property
    def labelled_ridge(self) -> LayerRouters:
        """The closed form that was told the domains of the training text."""
        found = [self.closed_form(each) for each in LABELLED]
        return min(found, key=lambda routers: self.validated(routers.choose))

    def closed_form(self, settings: RidgeSettings, rule: Selection | None = None) -> LayerRouters:
        """Ridge routers."""
        return fit_ridge(self.pool.tail, self.pool.parts["train"], settings, rule)

    def start(self, rule: Selection | None) -> LayerRouters:
        """The warm start for a rule: the same logits, or the same targets where it has logits of its own."""
        if rule is None:
            return self.ridge
        if rule.outputs(self.pool.tail.experts) == self.pool.tail.experts:
            return self.ridge.copy(rule)
        return self.closed_form(self.settings, rule)

    def validation(self, choose: Choose) -> Measured:
        """A walk over the validation part."""
        return measure(self.pool.tail, self.pool.parts["validation"], choose)

    def validated(self, choose: Choose) -> float:
        """Mean loss there."""
        return float(self.validation(choose).loss.mean())


def gate(name: str, **changes: Any) -> Learn:
    """A gate trained by backpropagation."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        fit, serve = train_gate(study.pool, study.ridge, replace(GATES[name], **changes), training)
        return serve(fit.routers), fit

    return learn


def soft_served(study: Study, training: Training) -> tuple[Choose, Fit]:
    """The soft gate, served as a mixture of all experts."""
    all_of_them = Gate(mixes=GATES["soft_gate"].mixes, k=study.pool.tail.experts)
    fit, serve = train_gate(study.pool, study.ridge, all_of_them, training)
    return serve(fit.routers), fit


def thresholded(charged: TokenMoEConfig) -> Learn:
    """Mixtral's gate, served with one expert where its probability passes a threshold tuned on validation."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        fit, _ = train_gate(study.pool, study.ridge, GATES["mixtral_top2"], training)
        bias = torch.zeros(study.pool.tail.depth, study.pool.tail.experts)
        options = [
            served(fit.routers, Gate(mixes=top_p(threshold), k=2), bias)
            for threshold in (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)
        ]
        scores = [objective(study.validation(choose), charged) for choose in options]
        best = int(np.argmin(scores))
        return options[best], replace(fit, validation=scores[best])

    return learn


@dataclass(frozen=True)
class Start:
    """Where a policy gradient starts, and the part of the passes that this has used."""

    routers: Callable[[Study, Training], LayerRouters]
    used: float = 0.0

    def left(self, training: Training) -> Training:
        """What is left of the training."""
        return replace(training, passes=training.passes - round(self.used * training.passes))


def from_ridge(rule: Callable[[TokenPool], Selection] | None = None) -> Start:
    """The closed form, under a rule if one is given."""
    return Start(lambda study, training: study.start(None if rule is None else rule(study.pool)))


def from_table(nobody: bool = False) -> Start:
    """Half of the passes on the outcome table; the learner that goes on has the other half."""

    def routers(study: Study, training: Training) -> LayerRouters:
        half = replace(training, passes=training.passes // 2, learning_rate=RATES[0], checks=2)
        fit = train_counterfactual(study.pool, study.ridge, half, TABLE)
        return fit.routers.with_nobody(2) if nobody else fit.routers

    return Start(routers, used=0.5)


def reinforce(start: Start, config: TokenMoEConfig | None = None, **settings: Any) -> Learn:
    """Policy gradient over whole paths, in the environment; judged by what it is charged for."""
    charged = TokenMoEConfig() if config is None else config

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        def score(routers: LayerRouters) -> float:
            return objective(study.validation(routers.choose), charged)

        learner = TokenReinforceSettings(**settings)
        routers = start.routers(study, training)
        fit = train_reinforce(study.pool, routers, start.left(training), learner, charged, score=score)
        return fit.routers.choose, fit

    return learn


def counterfactual(start: Start, **settings: Any) -> Learn:
    """Exact policy gradient, a layer at a time."""
    learner = CounterfactualSettings(**settings)

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        routers = start.routers(study, training)
        fit = train_counterfactual(study.pool, routers, start.left(training), learner)
        return fit.routers.choose, fit

    return learn


def then_balanced(learn_first: Learn) -> Learn:
    """A top-1 method, then a bias an expert that evens out its load on the training text."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        _, fit = learn_first(study, training)
        routers = balanced_routers(study.pool, fit.routers)
        return routers.choose, replace(fit, routers=routers, validation=study.validated(routers.choose))

    return learn


def objective(found: Measured, charged: TokenMoEConfig) -> float:
    """Loss, and what the experts beyond the first and the load cost."""
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


RIDGE, TABLED = from_ridge(), from_table()
EVEN = TokenMoEConfig(sequences=GROUP)
TILED = TokenMoEConfig(load=LoadRule("tiles"), sequences=GROUP)
add(
    *("main", "1", "gate"),
    soft_gate=gate("soft_gate"),
    straight_through=gate("straight_through"),
    switch=gate("switch"),
    renormalised_top1=gate("renormalised_top1"),
)
add(
    *("main", "1", "RL"),
    reinforce=reinforce(RIDGE),
    counterfactual=counterfactual(RIDGE, layers=0),
    outcome_table=counterfactual(RIDGE, **asdict(TABLE)),
    table_then_reinforce=reinforce(TABLED),
    table_then_counterfactual=counterfactual(TABLED, layers=0, entropy=1e-3),
)
add("main", "1 (tree)", "RL", reinforce_tree=reinforce(from_ridge(lambda pool: Hierarchical(tree=pool.tree))))
add("main", "2", "gate", mixtral_top2=gate("mixtral_top2"), deepseek_v3_top2=gate("deepseek_v3_top2"))
add("main", "2", "RL", reinforce_top2=reinforce(from_ridge(lambda pool: TopK(k=2))))
add("main", "all", "gate", soft_mixture=soft_served)
add(
    *("main", "all", "RL"),
    reinforce_soft=reinforce(from_ridge(lambda pool: Soft(k=pool.tail.experts)), entropy=0.0),
)
for weight in COMPUTE:
    priced = TokenMoEConfig(compute_weight=weight)
    add("compute", "1 or 2", "gate", **{f"top_p at {weight:g}": thresholded(priced)})
    learn_adaptive = reinforce(from_table(nobody=True), priced)
    add("compute", "1 or 2", "RL", **{f"reinforce_adaptive at {weight:g}": learn_adaptive})
add(
    *("load", "1", "gate"),
    **{f"soft_gate, balance {b:g}": gate("soft_gate", balance=b) for b in (0.03, 0.3)},
    **{"soft_gate, then bias": then_balanced(gate("soft_gate"))},
)
add(
    *("load", "1", "RL"),
    **{"outcome_table, then bias": then_balanced(counterfactual(RIDGE, **asdict(TABLE)))},
    **{f"reinforce, load {w:g}": reinforce(TABLED, replace(EVEN, load_weight=w)) for w in (0.1, 0.3)},
    **{f"reinforce, tiles {w:g}": reinforce(TABLED, replace(TILED, load_weight=w)) for w in (0.1, 0.3)},
)
add(
    *("credit", "1", "RL"),
    **{"reinforce, 2 rollouts": reinforce(RIDGE, rollouts=2)},
    **{"reinforce, 8 rollouts": reinforce(RIDGE, rollouts=8)},
    **{"reinforce, discount 0.5": reinforce(RIDGE, discount=0.5)},
    **{"counterfactual, local": counterfactual(RIDGE, credit="local", layers=0)},
    **{"counterfactual, one layer a step": counterfactual(RIDGE)},
    **{"outcome_table, discount 0.5": counterfactual(RIDGE, **asdict(replace(TABLE, discount=0.5)))},
)


def main(
    pool: Path | None = None,
    out: Path = Path("runs/token_moe/study"),
    tiny: tuple[int, int] = (12, 24),
    seeds: int = 5,
    tries: int = 2,
    passes: int = 4,
    batch: int = 8,
    sections: tuple[str, ...] = ("main", "compute", "load", "credit"),
    methods: tuple[str, ...] = (),
) -> None:
    """Run what is missing and print the tables.

    Args:
        pool: folder of a pool; the tiny one if None.
        out: folder of the finished fits.
        tiny: sequences of each domain, and mixed ones, in each part of the tiny pool.
        seeds: training seeds of each method.
        tries: learning rates tried with seed 0, chosen on validation.
        passes: over the training sequences.
        batch: sequences a step.
        sections: of the study.
        methods: only these of them; all if empty.
    """
    torch.set_num_threads(1)
    study = Study(tiny_pool(*tiny) if pool is None else open_pool(pool))
    training = Training(passes=passes, batch=batch, checks=2)
    cells = out / "cells"
    fixed(study, cells, seeds)
    for name, method in METHODS.items():
        if method.section not in sections or (methods and name not in methods):
            continue
        first = [cell(study, cells, name, replace(training, learning_rate=rate)) for rate in RATES[:tries]]
        best = min(first, key=lambda found: found["validation"])["training"]["learning_rate"]
        for seed in range(1, seeds):
            cell(study, cells, name, replace(training, learning_rate=best, seed=seed))
    found = tables(cells, study.pool, {name: asdict_of(method) for name, method in METHODS.items()}, seeds)
    write_json(out / "token_moe.json", found.as_json)
    print(found.markdown)


def asdict_of(method: Method) -> dict[str, str]:
    """What the tables need to know of a method."""
    return {"section": method.section, "served": method.served, "family": method.family}


def cell(study: Study, folder: Path, name: str, training: Training) -> dict[str, Any]:
    """Train a method once and measure it on the test part, unless that is done already."""
    path = folder / f"{name.replace(' ', '_')}-{training.learning_rate:g}-{training.seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    start = time.perf_counter()
    choose, fit = METHODS[name].learn(study, training)
    found = {
        "method": name,
        "training": asdict(training),
        "validation": fit.validation,
        "curve": fit.curve,
        "fit_seconds": fit.seconds,
        **described(study, choose),
    }
    write_json(path, found)
    say(
        f"{name}, rate {training.learning_rate:g}, seed {training.seed}: validation {fit.validation:.4f}, "
        f"test {np.mean(found['loss']):.4f}, {time.perf_counter() - start:.0f} s"
    )
    return found


def described(study: Study, choose: Choose) -> dict[str, Any]:
    """Every measure of a route on the test part."""
    test = study.pool.parts["test"]
    found = measure(study.pool.tail, test, choose)
    generator = torch.Generator().manual_seed(0)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return x + 0.01 * x.std() * torch.randn(x.shape, generator=generator)

    few = test.take(np.arange(0, len(test), 4))
    return {
        "loss": found.loss.mean(axis=1).astype(float).tolist(),
        "compute": found.compute,
        "recovery": found.recovery(test.domain),
        "load_cv": found.load_cv(),
        "tiles": found.tiles(GROUP),
        "tokens_per_second": found.tokens_per_second,
        "flips_bfloat16": flips(study.pool.tail, few, choose, lambda x: x.bfloat16().float()),
        "flips_noise": flips(study.pool.tail, few, choose, noise),
    }


def fixed(study: Study, folder: Path, seeds: int) -> None:
    """Measure the routes that are not trained, unless that is done already."""

    def looked_up(name: str, loss: Callable[[TokenPool, str], np.ndarray]) -> None:
        path = folder / f"{name}.json"
        if not path.exists():
            write_json(
                path, {"method": name, "loss": loss(study.pool, "test").mean(1).astype(float).tolist()}
            )

    for name in ("dense", "best_single", "average", "label", "sequence_label", "hindsight"):
        looked_up(name, getattr(bounds, name))
    routes: dict[str, Callable[[], Choose]] = {
        "uniform": lambda: bounds.uniform(study.pool),
        "ridge": lambda: study.ridge.choose,
        "ridge_on_labels": lambda: study.labelled_ridge.choose,
        "ridge_top2": lambda: study.ridge.copy(TopK(k=2)).choose,
        **{
            f"random-{seed}": lambda seed=seed: bounds.random_choice(study.pool, seed)
            for seed in range(seeds)
        },
    }
    for name, route in routes.items():
        path = folder / f"{name}.json"
        if not path.exists():
            write_json(path, {"method": name, **described(study, route())})


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
