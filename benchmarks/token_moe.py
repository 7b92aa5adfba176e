"""Token-level routing over frozen FFN experts: policy gradients against backpropagated gates.

    python benchmarks/token_moe.py --out runs/token_moe/study
    python benchmarks/token_moe.py --pool runs/token_moe/pool --out runs/token_moe/study-pool --epochs 2 \
        --rates '[0.01, 0.003]'

The first runs on the tiny pool of the package, the second on one that `token_moe_pool.py` made. Every trained
method starts from the same closed-form routers, which use no domain labels, and reads the same training
sequences for as many epochs; its learning rate is chosen on validation with seed 0. Prints Markdown; finished
fits are kept, and an interrupted run resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from token_moe_methods import GROUP, METHODS, RATES, Study, asdict_of
from token_moe_pool import open_pool
from token_moe_tables import tables

from experts import InputError
from experts.io.atomic import write_json
from experts.io.progress import say
from experts.moe.quantise import quantised_pool
from experts.moe.tiny import tiny_pool
from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe import token_bounds as bounds
from router_rl.methods.token_moe.token_ridge import RidgeHyperparameters
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.token_measurement import Choose, flips, measure
from router_rl.routing import TopK

SECTIONS = ("main", "compute", "load", "credit")


def main(
    pool: Path | None = None,
    out: Path = Path("runs/token_moe/study"),
    tiny: tuple[int, int] = (12, 24),
    seeds: int = 5,
    rates: tuple[float, ...] = RATES,
    epochs: int = 4,
    batch: int = 8,
    sections: tuple[str, ...] = SECTIONS,
    methods: tuple[str, ...] = (),
    bits: int | None = None,
) -> None:
    """Run what is missing and print the tables.

    Args:
        pool: folder of a pool; the tiny one if None.
        out: folder of the finished fits.
        tiny: sequences of each domain, and mixed ones, in each part of the tiny pool.
        seeds: training seeds of each method.
        rates: learning rates tried with seed 0, chosen on validation.
        epochs: passes over the training sequences.
        batch: sequences per step.
        sections: of methods to run; `quantised` is another one, for use with `bits`.
        methods: names of methods to run instead, in this order.
        bits: of the experts' weights; None: not quantised.
    """
    torch.set_num_threads(1)
    original = tiny_pool(*tiny) if pool is None else open_pool(pool)
    trials = out / "trials"
    served = original if bits is None else quantised_pool(original, bits)
    study = Study(served, original, chosen_before(out / "ridge.json"))
    write_json(out / "ridge.json", asdict(study.hyperparameters))
    training = Training(epochs=epochs, batch=batch, checks=2)
    fixed(study, trials, seeds)
    for name in methods or [name for name, method in METHODS.items() if method.section in sections]:
        if name not in METHODS:
            raise InputError("methods", name, "unknown", f"use some of {', '.join(METHODS)}")
        first = [trial(study, trials, name, replace(training, learning_rate=rate)) for rate in rates]
        best = min(first, key=lambda found: found["validation"])["training"]["learning_rate"]
        for seed in range(1, seeds):
            trial(study, trials, name, replace(training, learning_rate=best, seed=seed))
    found = tables(trials, study.pool, {name: asdict_of(method) for name, method in METHODS.items()}, seeds)
    write_json(out / "token_moe.json", found.as_json)
    print(found.markdown)


def chosen_before(path: Path) -> RidgeHyperparameters | None:
    """Hyperparameters of the warm start that an interrupted study chose."""
    return RidgeHyperparameters(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def trial(study: Study, folder: Path, name: str, training: Training) -> dict[str, Any]:
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
    """Every measure of a way of routing on the test part."""
    test = study.pool.parts["test"]
    found = measure(study.pool.tail, test, choose)
    generator = torch.Generator().manual_seed(0)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return x + 0.01 * x.std() * torch.randn(x.shape, generator=generator)

    few = test.take(np.arange(0, len(test), 4))
    return {
        "loss": found.loss.mean(axis=1).astype(float).tolist(),
        "compute": found.compute,
        "runs": found.runs().tolist(),
        "recovery": found.recovery(test.domain),
        "load_cv": found.load_cv(),
        "load_cv_layers": found.load_cvs(),
        "device_cv": found.load_cv(placement=np.arange(found.total) % 2),
        "tiles": found.tiles(GROUP),
        "tokens_per_second": found.tokens_per_second,
        "flips_bfloat16": flips(study.pool.tail, few, choose, lambda x: x.bfloat16().float()),
        "flips_noise": flips(study.pool.tail, few, choose, noise),
    }


def fixed(study: Study, folder: Path, seeds: int) -> None:
    """Measure the ways of routing that are not trained, unless that is done already."""

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
