"""Do experts trained by EM specialise? Digits under five conditions without condition labels in training.

    python benchmarks/em.py

Prints the Markdown of docs/em.md. Every model trains on the same rows by the same code (a single network is
an expert that is responsible for every row) for the same number of epochs, and its ridge is chosen on
validation. The last columns compare with ONE network of the active size (as many parameters as one expert
and the gate) and ONE of the total size (as all experts and the gate), seed by seed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jsonargparse
import numpy as np
import torch
from joblib import Parallel, delayed
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import t as student
from torch import Tensor, nn

from experts.sources.digits import Digits
from experts.training import (
    GateTree,
    Mixture,
    NetworkExpert,
    e_step,
    fit_em,
    kmeans_responsibilities,
    mutual_information_bits,
    random_responsibilities,
)
from experts.training.specialisation import entropy_bits

EXPERTS, HIDDEN, EPOCHS, GATE_RIDGE = 5, 16, 2, 1.0
RIDGES = (0.3, 1.0, 3.0)
PIXELS, CLASSES = 64, 10
# Deterministic annealing from a random start: responsibilities are nearly even at first.
TEMPERATURES = tuple(10.0 * 0.8**step for step in range(10))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train the mixture."""

    start: str = "k-means"
    hard: bool = False
    tree: bool = False
    temperatures: tuple[float, ...] = ()


VARIANTS = {
    "EM, flat, soft": Variant(),
    "EM, flat, hard": Variant(hard=True),
    "EM, tree, soft": Variant(tree=True),
    "EM, tree, hard": Variant(tree=True, hard=True),
    "EM, flat, soft, random start": Variant(start="random"),
    "EM, flat, soft, random start, annealed": Variant(start="random", temperatures=TEMPERATURES),
}


@dataclass(frozen=True)
class Rows:
    """Pixels [T, 64] float64, labels [T] int64, conditions [T] int64 (for measuring only)."""

    x: Tensor
    y: Tensor
    condition: Tensor


def main(seeds: int = 5, iterations: int = 25, jobs: int = 2) -> None:
    """Train everything and print Markdown.

    Args:
        seeds: each with its own split, noise and initial weights.
        iterations: of EM at most.
        jobs: processes.
    """
    found: Any = Parallel(n_jobs=jobs)(delayed(study)(seed, iterations) for seed in range(seeds))
    splits, names = digits(0)
    starts = [start_bits(seed) for seed in range(seeds)]
    print(markdown(found, starts, names, splits["test"].condition))


def study(seed: int, iterations: int) -> dict[str, dict[str, Any]]:
    """Every model on one seed."""
    torch.set_num_threads(1)
    splits, _ = digits(seed)
    results = {name: mixture(splits, variant, seed, iterations) for name, variant in VARIANTS.items()}
    for name, size in (("one network, active size", active()), ("one network, total size", total())):
        results[name] = single_network(splits, width_of(size), seed, iterations)
    print(f"seed {seed} done", file=sys.stderr, flush=True)
    return results


def digits(seed: int) -> tuple[dict[str, Rows], list[str]]:
    """The query images of the digits source under every condition, split by image."""
    queries = Digits().queries(seed)
    names = list(dict.fromkeys(queries.group.tolist()))
    condition = torch.tensor([names.index(name) for name in queries.group])
    x, y = torch.tensor(queries.features).double(), torch.tensor(queries.label)
    split = np.asarray(queries.split)
    masks = {name: torch.tensor(split == name) for name in ("train", "validation", "test")}
    return {name: Rows(x[rows], y[rows], condition[rows]) for name, rows in masks.items()}, names


def network(width: int, ridge: float, seed: int) -> NetworkExpert:
    """A perceptron 64 - width - 10."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(PIXELS, width), nn.ReLU(), nn.Linear(width, CLASSES))
    return NetworkExpert(module, ridge=ridge, epochs=EPOCHS, seed=seed)


def mixture(splits: dict[str, Rows], variant: Variant, seed: int, iterations: int) -> dict[str, Any]:
    """Train one variant with every ridge; the test numbers of the one best on validation."""
    train = splits["train"]
    if variant.start == "random":
        start = random_responsibilities(len(train.x), EXPERTS, torch.Generator().manual_seed(seed))
    else:
        start = kmeans_responsibilities(train.x, EXPERTS, seed)
    tree = grow_tree(train.x, start) if variant.tree else tuple(range(EXPERTS))

    def trained(ridge: float) -> tuple[float, dict[str, Any]]:
        experts = [network(HIDDEN, ridge, 100 * seed + number) for number in range(EXPERTS)]
        model = Mixture(GateTree(tree, PIXELS, ridge=GATE_RIDGE), experts)
        fit = fit_em(
            model,
            train.x,
            train.y,
            start,
            hard=variant.hard,
            iterations=iterations,
            temperatures=variant.temperatures,
        )
        climb = np.diff(fit.history[len(variant.temperatures) :])
        result = measured(model, splits["test"]) | {"fall": max(0.0, -float(climb.min(initial=0.0)))}
        return measured(model, splits["validation"])["soft"], result

    return best_of(trained)


def start_bits(seed: int) -> tuple[float, float]:
    """Information of the k-means start about a training row's condition and class, in bits."""
    train = digits(seed)[0]["train"]
    start = kmeans_responsibilities(train.x, EXPERTS, seed)
    return mutual_information_bits(train.condition, start), mutual_information_bits(train.y, start)


def single_network(splits: dict[str, Rows], width: int, seed: int, iterations: int) -> dict[str, Any]:
    """One network on all rows, for as many M-steps as the mixtures have."""
    train = splits["train"]

    def trained(ridge: float) -> tuple[float, dict[str, Any]]:
        expert = network(width, ridge, 100 * seed)
        for _ in range(iterations + 1):
            expert.maximise(train.x, train.y, torch.ones(len(train.x), dtype=torch.float64))
        scores = {
            name: float((expert.log_probabilities(rows.x).argmax(dim=1) == rows.y).double().mean())
            for name, rows in splits.items()
        }
        return scores["validation"], {"soft": scores["test"], "hard": scores["test"], "width": width}

    return best_of(trained)


def best_of(trained: Callable[[float], tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """Train with every ridge; the result of the best on validation, the smallest ridge among equals."""
    began = time.perf_counter()
    candidates = [trained(ridge) for ridge in RIDGES]
    return max(candidates, key=lambda one: one[0])[1] | {"seconds": time.perf_counter() - began}


def measured(model: Mixture, rows: Rows) -> dict[str, Any]:
    """Accuracy of all experts and of the gate's first, and what responsibilities reveal of conditions."""
    gate = model.gate.log_probabilities(rows.x)
    answers = torch.stack([expert.log_probabilities(rows.x) for expert in model.experts], dim=1)  # type: ignore[attr-defined]
    mixed = (gate[:, :, None] + answers).logsumexp(dim=1).argmax(dim=1)
    alone = answers[torch.arange(len(rows.x)), gate.argmax(dim=1)].argmax(dim=1)
    responsibilities = e_step(model.log_joint(rows.x, rows.y))
    of_condition = torch.zeros(int(rows.condition.max()) + 1, EXPERTS, dtype=torch.float64)
    of_condition.index_add_(0, rows.condition, responsibilities)
    return {
        "soft": float((mixed == rows.y).double().mean()),
        "hard": float((alone == rows.y).double().mean()),
        "bits": mutual_information_bits(rows.condition, responsibilities),
        "gate_bits": mutual_information_bits(rows.condition, gate.exp()),
        "class_bits": mutual_information_bits(rows.y, responsibilities),
        "shares": of_condition / of_condition.sum(dim=1, keepdim=True),
    }


def grow_tree(x: Tensor, start: Tensor) -> Any:
    """Two branches over the experts: the two groups of the start's centroids, by average linkage."""
    centroids = start.T @ x / start.sum(dim=0)[:, None]
    groups = fcluster(linkage(centroids.numpy(), "average"), 2, "maxclust")
    members = [tuple(np.flatnonzero(groups == group).tolist()) for group in np.unique(groups)]
    return tuple(group if len(group) > 1 else group[0] for group in members)


def parameters(width: int) -> int:
    """Of a perceptron 64 - width - 10."""
    return (PIXELS + 1) * width + (width + 1) * CLASSES


def gate_parameters() -> int:
    """Of a flat gate (the tree has up to two more rows)."""
    return EXPERTS * (PIXELS + 1)


def active() -> int:
    """Parameters that one answer by the gate's first expert uses."""
    return parameters(HIDDEN) + gate_parameters()


def total() -> int:
    """Parameters of the mixture, all of which soft routing uses."""
    return EXPERTS * parameters(HIDDEN) + gate_parameters()


def width_of(size: int) -> int:
    """The hidden width whose perceptron has this many parameters, rounded up."""
    return -(-(size - CLASSES) // (PIXELS + 1 + CLASSES))


def interval(values: list[float], form: str) -> str:
    """Mean and half-width of the 95% Student interval over seeds."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):{form}} ± {half:{form.removeprefix('+')}}"


def markdown(
    found: list[dict[str, dict[str, Any]]],
    starts: list[tuple[float, float]],
    names: list[str],
    conditions: Tensor,
) -> str:
    """The tables."""
    possible = entropy_bits(torch.bincount(conditions).double() / len(conditions))
    widths = [width_of(active()), width_of(total())]
    sizes = [f"{width} ({parameters(width)} parameters)" for width in widths]
    lines = [
        f"{len(found)} seeds; {EXPERTS} experts 64-{HIDDEN}-10 ({parameters(HIDDEN)} parameters each), flat "
        f"gate {gate_parameters()}; active {active()}, total {total()} parameters. The single networks have "
        f"hidden widths {sizes[0]} and {sizes[1]}. Ridge of the networks: one of {RIDGES}, chosen on "
        f"validation; the condition has {possible:.3f} bits. Mean ± 95% Student interval over seeds.",
        "",
        "| model | I(condition; responsibility), bits | share of the condition | I(condition; gate), bits "
        "| I(class; responsibility), bits | seconds |",
        "|---|---|---|---|---|---|",
    ]
    bits, label = ([start[place] for start in starts] for place in (0, 1))
    share = [value / possible for value in bits]
    lines.append(
        f"| k-means start, no EM (training rows) | {interval(bits, '.3f')} | {interval(share, '.3f')} | "
        f"| {interval(label, '.3f')} | |"
    )
    for name in VARIANTS:
        rows = [results[name] for results in found]
        bits, gate, label = ([row[key] for row in rows] for key in ("bits", "gate_bits", "class_bits"))
        share = [value / possible for value in bits]
        lines.append(
            f"| {name} | {interval(bits, '.3f')} | {interval(share, '.3f')} | {interval(gate, '.3f')} "
            f"| {interval(label, '.3f')} | {np.mean([row['seconds'] for row in rows]):.1f} |"
        )
    lines += [
        "",
        "| model | routing | test accuracy | minus active size | minus total size |",
        "|---|---|---|---|---|",
    ]
    for name in found[0]:
        for routing in ("soft", "hard") if name in VARIANTS else ("soft",):
            accuracy = [results[name][routing] for results in found]
            differences = [
                interval([a - r[rival]["soft"] for a, r in zip(accuracy, found, strict=True)], "+.4f")
                for rival in ("one network, active size", "one network, total size")
            ]
            shown = routing if name in VARIANTS else "-"
            lines.append(f"| {name} | {shown} | {interval(accuracy, '.4f')} | {' | '.join(differences)} |")
    fall = max(results[name]["fall"] for results in found for name in VARIANTS)
    lines += [
        "",
        f"Largest fall of an objective between two iterations at temperature 1: {fall:.1e}.",
        "",
        "Mean responsibility by condition, EM, flat, soft, seed 0:",
        "",
        "| condition | " + " | ".join(f"expert {number}" for number in range(EXPERTS)) + " |",
        "|---" * (EXPERTS + 1) + "|",
    ]
    for name, row in zip(names, found[0]["EM, flat, soft"]["shares"].tolist(), strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
