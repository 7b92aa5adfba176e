"""Routers trained on right answers, compared with gates trained on the loss of the language model.

    python benchmarks/token_moe_answers.py --out runs/token_moe/answers
    python benchmarks/token_moe_answers.py --out runs/token_moe/answers --room true

The pool is `problem.pool=answers`: three tasks, an expert for each, and the base's own FFN. The second
command stops before any router is trained by reward: it prints how much room the pool has. Every method has
as many trials, drawn at random from its space (`SPACES`); the one with most right answers on validation with
seed 0 is trained with all seeds. Prints Markdown; finished fits are kept, and an interrupted run resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from experts.io.atomic import write_json
from experts.io.progress import say
from experts.moe.answer_pool import answer_pool
from experts.moe.answer_tasks import ANSWER, MISTAKEN, TASKS, text_rows
from experts.moe.sequences import measure_sequences
from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe.answer_bounds import answers_by_label, best_of, constant
from router_rl.methods.token_moe.answer_learners import wrong_share
from router_rl.methods.token_moe.backprop import GATES, Gate, joint, train_gate
from router_rl.methods.token_moe.grpo import GrpoHyperparameters, train_grpo
from router_rl.methods.token_moe.right_answers import RightAnswersHyperparameters, train_on_right_answers
from router_rl.methods.token_moe.token_ridge import RidgeHyperparameters, fit_ridge
from router_rl.methods.token_moe.token_training import Fit, Training
from router_rl.problems.data_digest import digest_of
from router_rl.problems.statistics import Interval, interval, paired_difference
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_answers import answer
from router_rl.problems.token_moe.token_measurement import Choose, measure
from router_rl.studies.tuning.optuna_extra import quiet_optuna

Space = Mapping[str, BaseDistribution]
GATE_SPACE: Space = {
    "learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
    "epochs": CategoricalDistribution((2, 4, 8)),
}
_EXPLORATION: Space = {
    "group": CategoricalDistribution((8, 16, 24)),
    "together": CategoricalDistribution((True, False)),
    "soften": CategoricalDistribution((1.0, 2.0, 4.0)),
}
SPACES: dict[str, Space] = {
    "grpo": {
        "learning_rate": FloatDistribution(1e-2, 1.0, log=True),
        "kl": CategoricalDistribution((0.0, 0.01, 0.03, 0.1, 0.3)),
        "iterations": CategoricalDistribution((120, 240, 480)),
        "updates": CategoricalDistribution((2, 4)),
        **_EXPLORATION,
    },
    "right_answers": {
        "learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
        "gate": CategoricalDistribution(("straight_through", "soft_gate")),
        "rounds": CategoricalDistribution((2, 4, 8)),
        **_EXPLORATION,
    },
    "warm_grpo": {
        "learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
        "kl": CategoricalDistribution((0.0, 0.01, 0.03, 0.1, 0.3)),
        **_EXPLORATION,
    },
}
RIDGES = [RidgeHyperparameters(penalty=p, window=w) for p in (1e-3, 1e-2, 1e-1) for w in (4, 16)]
LOSS_GATES: dict[str, Gate] = {
    **{name: GATES[name] for name in ("soft_gate", "straight_through")},
    "joint": joint(GATES["soft_gate"]),
}
Settings = Mapping[str, Any]
CHECKS = 4  # checkpoints of every fit; the best one by right answers on validation is kept


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Problems of each task, by part, and the training of all methods.

    Attributes:
        train: problems to train routers on.
        validation: problems that choose hyperparameters and checkpoints.
        test: problems that are reported.
        trials: settings of every method, drawn at random.
        seeds: of every trained method.
    """

    train: int = 128
    validation: int = 100
    test: int = 300
    trials: int = 12
    seeds: int = 5


Learner = Callable[["Study", Settings, int], LayerRouters]


class Study:
    """The pool, the warm start of the gates, and the fits so far.

    Args:
        sizes: of the parts.
        out: folder of the finished fits.
    """

    def __init__(self, sizes: Sizes, out: Path) -> None:
        self.sizes = sizes
        self.pool = answer_pool(sizes.train, sizes.validation, sizes.test)
        self.folder = out / self.pool.tail.fingerprint()[:12]
        self.score = wrong_share(self.pool)
        self.start = cache(self._start)
        self.gate = cache(self._gate)
        self.tuned = cache(self._tuned)

    def _start(self, pool: TokenPool) -> LayerRouters:
        """The closed form with the lowest validation loss."""
        fits = [fit_ridge(pool.tail, pool.parts["train"], each) for each in RIDGES]
        return min(
            fits,
            key=lambda each: float(measure(pool.tail, pool.parts["validation"], each.choose).loss.mean()),
        )

    def loss_gate(self, pool: TokenPool, name: str, settings: Settings, seed: int) -> LayerRouters:
        """A gate trained on the loss of a pool's text; its checkpoint is chosen by right answers."""
        training = Training(**settings, checks=CHECKS, seed=seed)

        def score(choose: Choose) -> float:
            return 1.0 - float(answer(self.pool, self.pool.parts["validation"], choose).right.mean())

        return train_gate(pool, self.start(pool), LOSS_GATES[name], training, score=score)[0].routers

    def _gate(self, seed: int) -> LayerRouters:
        """The best gate of the loss with a seed, where the methods that learn from answers start."""
        best = best_gate(self)
        return self.loss_gate(self.pool, best, chosen(self, best)["settings"], seed)

    def _tuned(self, seed: int) -> LayerRouters:
        """The gate tuned on right answers, where `warm_grpo` starts."""
        return LEARNERS["right_answers"](self, chosen(self, "right_answers")["settings"], seed)


def main(out: Path = Path("runs/token_moe/answers"), room: bool = False, sizes: Sizes = Sizes()) -> None:
    """Run what is missing and print the tables.

    Args:
        out: folder of the finished fits.
        room: stop before any router is trained by reward.
        sizes: problems and seeds.
    """
    torch.set_num_threads(1)
    study = Study(sizes, out)
    print_room(study)
    if not room:
        print_methods(study)


def trained(study: Study, name: str, settings: Settings, seed: int) -> dict[str, Any]:
    """Train a method once and measure it on the test part, unless that is done already."""
    path = study.folder / f"{name}-{digest_of(dict(settings))[:12]}-{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    if name in STARTS:
        STARTS[name](study)(seed)  # fitted once, and not in the seconds
    begun = time.perf_counter()
    routers = LEARNERS[name](study, settings, seed)
    seconds = time.perf_counter() - begun
    test = study.pool.parts["test"]
    found = answer(study.pool, test, routers.choose)
    result = {
        "name": name,
        "settings": dict(settings),
        "seed": seed,
        "seconds": seconds,
        "validation": 1.0 - study.score(routers),
        "right": found.right.tolist(),
        "load_cv": found.load_cv,
        "loss": float(measure(study.pool.tail, test, routers.choose).loss.mean()),
        "general": float(found.share[:, -1].mean()),
    }
    write_json(path, result)
    say(f"{name}, {in_words(settings)}, seed {seed}: {found.right.mean():.3f} right, {seconds:.0f} s")
    return result


def drawn(name: str, count: int) -> list[dict[str, Any]]:
    """Random settings of a method, the same in every run."""
    with quiet_optuna():
        draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        return [draws.ask(dict(SPACES.get(name, GATE_SPACE))).params for _ in range(count)]


def in_words(settings: Settings) -> str:
    """Settings in a line."""
    return ", ".join(
        f"{key} {value:.3g}" if key == "learning_rate" else f"{key} {value}"
        for key, value in settings.items()
    )


def chosen(study: Study, name: str) -> dict[str, Any]:
    """The trial of a method with most right answers on validation, with seed 0; ties go to the first."""
    trials = (trained(study, name, settings, 0) for settings in drawn(name, study.sizes.trials))
    return max(trials, key=lambda each: each["validation"])


def seeds_of(study: Study, name: str) -> list[dict[str, Any]]:
    """The chosen trial of a method, with every seed."""
    settings = chosen(study, name)["settings"]
    return [trained(study, name, settings, seed) for seed in range(study.sizes.seeds)]


def best_gate(study: Study) -> str:
    """The gate of the loss with most right answers on validation."""
    return max(LOSS_GATES, key=lambda name: chosen(study, name)["validation"])


def right_text(study: Study, settings: Settings, seed: int) -> LayerRouters:
    """The soft gate on text without mistakes, which the other methods do not have."""
    return study.loss_gate(right_pool(study), "soft_gate", settings, seed)


@cache
def right_pool(study: Study) -> TokenPool:
    """The pool with right answers in the training and validation text."""
    pool, sizes = study.pool, study.sizes
    parts = dict(pool.parts)
    for part, first, count in (("train", 0, sizes.train), ("validation", 20_000, sizes.validation)):
        rows = np.stack([text_rows(task, first, count, mistaken=0.0) for task in TASKS], axis=1)
        tokens = rows.reshape(-1, rows.shape[-1])
        domain = np.tile(np.arange(len(TASKS)), count)[:, None].repeat(tokens.shape[1], axis=1)
        parts[part] = measure_sequences(pool.base, pool.tail, tokens, domain, batch=64, doing=None)
    return replace(pool, parts=parts)


def _loss_gate(name: str) -> Learner:
    return lambda study, settings, seed: study.loss_gate(study.pool, name, settings, seed)


def _from_answers(name: str, learn: Callable[..., Fit], hyperparameters: type) -> Learner:
    def learner(study: Study, settings: Settings, seed: int) -> LayerRouters:
        start, training = STARTS[name](study)(seed), Training(seed=seed, checks=CHECKS)
        return learn(study.pool, start, training, hyperparameters(**settings), study.score).routers

    return learner


STARTS: dict[str, Callable[[Study], Callable[[int], LayerRouters]]] = {
    "grpo": lambda study: study.gate,
    "right_answers": lambda study: study.gate,
    "warm_grpo": lambda study: study.tuned,
}
LEARNERS: dict[str, Learner] = {
    **{name: _loss_gate(name) for name in LOSS_GATES},
    "right_text": right_text,
    "right_answers": _from_answers("right_answers", train_on_right_answers, RightAnswersHyperparameters),
    "grpo": _from_answers("grpo", train_grpo, GrpoHyperparameters),
    "warm_grpo": _from_answers("warm_grpo", train_grpo, GrpoHyperparameters),
}


def by_task(study: Study, right: np.ndarray) -> list[np.ndarray]:
    """Right answers [S, T] of all tasks, then of each task."""
    domain = study.pool.parts["test"].domain[:, 0]
    return [right, *(right[:, domain == task] for task in range(len(TASKS)))]


def cells(study: Study, right: np.ndarray) -> list[str]:
    """The shares of right answers: of all tasks with an interval, and of each task."""
    whole, *tasks = by_task(study, right)
    return [shown(interval(whole)), *(f"{each.mean():.3f}" for each in tasks)]


def shown(found: Interval, sign: str = "") -> str:
    """A mean with its interval."""
    return f"{found.mean:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def row(*parts: str) -> None:
    """Print a line of a table."""
    print("| " + " | ".join(parts) + " |")


def head(*names: str) -> None:
    """Print the head of a table."""
    row(*names)
    row("---", *("---:" for _ in names[1:]))


def print_room(study: Study) -> None:
    """Print what single experts, the label and the gates of the loss answer."""
    pool, test = study.pool, study.pool.parts["test"]
    print(f"### Room\n\n{MISTAKEN:.0%} of the text's answers have the common mistake.\n")
    head("route", "right", *TASKS, "loss, prompt", "loss, answer")
    for expert, name in enumerate(pool.tail.names):
        right = answer(pool, test, constant(expert)).right[None]
        loss = test.path_loss[:, expert]
        parts = (loss[:, :-ANSWER].mean(), loss[:, -ANSWER:].mean())
        row(f"expert {name}", *cells(study, right), *(f"{part:.2f}" for part in parts))
    row("label", *cells(study, answers_by_label(pool, "test")[None]), "", "")
    for name in LOSS_GATES:
        found = seeds_of(study, name)
        right = np.array([each["right"] for each in found])
        row(f"{name}", *cells(study, right), f"{np.mean([each['loss'] for each in found]):.3f} (all)", "")
    label, gate = answers_by_label(pool, "test")[None], best_gate(study)
    right = np.array([each["right"] for each in seeds_of(study, gate)])
    gaps = [
        paired_difference(spread(one, len(right)), two)
        for one, two in zip(by_task(study, label), by_task(study, right), strict=True)
    ]
    row(f"label minus {gate}", *(shown(gap, "+") for gap in gaps), "", "")
    print()


def spread(right: np.ndarray, seeds: int) -> np.ndarray:
    """Right answers [1, T] as [S, T]."""
    return np.repeat(right, seeds, axis=0)


def print_methods(study: Study) -> None:
    """Print the table of all methods, and the differences to the best gate of the loss."""
    gate, seeds = best_gate(study), study.sizes.seeds
    rows: dict[str, tuple[np.ndarray, str]] = {
        "label": (spread(answers_by_label(study.pool, "test")[None], seeds), "1")
    }
    for name in ("warm_grpo", "grpo", "right_answers", gate, "right_text"):
        rows[name] = (np.array([each["right"] for each in seeds_of(study, name)]), "1")
    for count in (4,):
        made = [best_of(study.pool, "test", study.gate(seed), count, seed) for seed in range(seeds)]
        rows[f"{gate}, best of {count} by the verifier"] = (np.stack([each[0] for each in made]), str(count))
        rows[f"{gate}, most frequent of {count}"] = (np.stack([each[1] for each in made]), str(count))
    single = max(
        range(study.pool.tail.experts),
        key=lambda expert: answer(study.pool, study.pool.parts["validation"], constant(expert)).right.mean(),
    )
    alone = answer(study.pool, study.pool.parts["test"], constant(single)).right[None]
    rows[f"single expert {study.pool.tail.names[single]}"] = (spread(alone, seeds), "1")
    print(
        f"### Right answers\n\n{seeds} seeds, {len(alone[0])} test problems. Best gate of the loss: {gate}.\n"
    )
    head("router", "compute", "right", *TASKS)
    for name, (right, compute) in sorted(rows.items(), key=lambda each: -each[1][0].mean()):
        row(name, compute, *cells(study, right))
    for rival in (gate, "right_answers"):
        print(f"\n### Minus {rival}\n")
        head("router", "all", *TASKS)
        for name, (right, _) in sorted(rows.items(), key=lambda each: -each[1][0].mean()):
            if name != rival:
                pairs = zip(by_task(study, right), by_task(study, rows[rival][0]), strict=True)
                row(name, *(shown(paired_difference(one, two), "+") for one, two in pairs))
    print()
    head("router", "fit s", "loss of the text", "general's share", "load CV", "settings")
    for name in ("warm_grpo", "grpo", "right_answers", gate, "right_text"):
        found = seeds_of(study, name)
        means = [
            float(np.mean([each[key] for each in found])) for key in ("seconds", "loss", "general", "load_cv")
        ]
        row(name, f"{means[0]:.0f}", *(f"{mean:.2f}" for mean in means[1:]), in_words(found[0]["settings"]))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
