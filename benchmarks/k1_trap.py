"""The k = 1 trap: with one expert per query a renormalised gate has no gradient. Tables of docs/k1_trap.md.

    python benchmarks/k1_trap.py

One router, one loop, one table; only the signal that trains the scorer differs. There is no auxiliary loss
and no weight decay, so only the signal moves the router. Prints Markdown and draws the learning curves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import jsonargparse
import torch
from torch import Tensor

from envs import Outcomes
from experts import OutcomeTable, open_table
from router_rl import Objective
from router_rl.methods.gates.gate_training import train_gate
from router_rl.methods.gates.mixture import answers, expected_loss
from router_rl.methods.gates.straight_through_gate import straight_through
from router_rl.methods.gates.switch_gate import switch_loss
from router_rl.methods.method import Run
from router_rl.methods.training_loop import Snapshot
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard, Router, TopK

HARD = Hard()
# logits [B, N], the table, row numbers [B], the compute weight and a generator to a mean loss
Signal = Callable[[Tensor, Outcomes, Tensor, float, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Hyperparameters of the loop, the same for every signal."""

    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    epochs: int = 40
    patience: int = 1000
    batch: int = 64


def renormalised(z: Tensor, outcomes: Outcomes, rows: Tensor, w: float, generator: torch.Generator) -> Tensor:
    """Mixtral's gate: the weight of the one chosen over the sum of the weights chosen."""
    return expected_loss(TopK(k=1).mixing(z), outcomes, rows, w)


def unnormalised(z: Tensor, outcomes: Outcomes, rows: Tensor, w: float, generator: torch.Generator) -> Tensor:
    """Switch's gate: the chosen expert's log-probabilities times its bare probability."""
    experts = HARD.select(z.detach()).experts
    gate = z.softmax(dim=-1).gather(-1, experts)
    probabilities, label = answers(outcomes, rows)
    compute = outcomes.compute[rows].gather(-1, experts)
    return (switch_loss(gate, probabilities, experts, label) + w * (gate * compute).squeeze(-1)).mean()


def dense_gradient(
    z: Tensor, outcomes: Outcomes, rows: Tensor, w: float, generator: torch.Generator
) -> Tensor:
    """The straight-through gate: the sparse choice with the gradient of the dense mixture."""
    return expected_loss(straight_through(HARD, z), outcomes, rows, w)


def score_function(
    z: Tensor, outcomes: Outcomes, rows: Tensor, w: float, generator: torch.Generator
) -> Tensor:
    """REINFORCE: only the drawn expert's utility is used; the batch mean is the baseline."""
    drawn = torch.multinomial(z.detach().softmax(dim=-1), 1, generator=generator)
    utility = (outcomes.quality[rows] - w * outcomes.compute[rows]).gather(-1, drawn).squeeze(-1)
    return -((utility - utility.mean()) * HARD.log_prob(z, drawn)).mean()


def expected_utility(
    z: Tensor, outcomes: Outcomes, rows: Tensor, w: float, generator: torch.Generator
) -> Tensor:
    """The same policy's gradient without sampling: every expert's utility is known."""
    utility = outcomes.quality[rows] - w * outcomes.compute[rows]
    return -(z.softmax(dim=-1) * utility).sum(dim=-1).mean()


SIGNALS: dict[str, Signal] = {
    "renormalised gate (Mixtral)": renormalised,
    "un-normalised gate (Switch)": unnormalised,
    "straight-through gate": dense_gradient,
    "policy gradient, sampled": score_function,
    "policy gradient, exact": expected_utility,
}


def task_of(table: OutcomeTable, compute_weight: float) -> RoutingProblem:
    """The task: one expert a query."""
    return RoutingProblem(table, Objective(compute_weight=compute_weight), HARD)


def gradient_norm(task: RoutingProblem, signal: Signal, seed: int = 0) -> float:
    """Norm of the signal's gradient at the start, all scorer weights and all training rows together."""
    router, outcomes = task.new_router(seed), task.outcomes()
    rows = torch.arange(outcomes.queries)
    logits, _ = router.logits(outcomes.features)
    loss = signal(logits, outcomes, rows, task.objective.compute_weight, torch.Generator().manual_seed(seed))
    loss.backward()
    norms = [p.grad.square().sum() for p in router.parameters() if p.grad is not None]
    return float(torch.stack(norms).sum().sqrt())


def learn(
    task: RoutingProblem, signal: Signal, test: OutcomeTable, training: Training, seed: int = 0
) -> tuple[list[float], float]:
    """Train a router on a signal.

    Returns:
        the validation utility before training and after each epoch, and the test utility of the best.
    """
    curve: list[float] = []

    def on_validation(snapshot: Snapshot) -> None:
        if snapshot.validation is not None:
            curve.append(snapshot.validation.means()["utility"])

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        return signal(logits, outcomes, rows, task.objective.compute_weight, generator)

    router = train_gate(task, training, Run(seed=seed, callback=on_validation), loss)
    return curve, measure(router, test, task.objective, task.scale).means()["utility"]


def main(
    table: str = "digits",
    compute_weight: float = 0.1,
    seeds: int = 5,
    epochs: int = 40,
    figure: Path = Path("docs/figures/k1_trap.svg"),
) -> None:
    """Measure the gradients, train on each signal, print the table and draw the curves.

    Args:
        table: an embedded source or a Parquet path.
        compute_weight: of the objective.
        seeds: training seeds.
        epochs: of training.
        figure: the SVG to write.
    """
    outcomes = open_table(table)
    task, test = task_of(outcomes, compute_weight), outcomes.part("test")
    single = measure_single(task, test)
    print(markdown_head(table, outcomes, task, compute_weight, seeds, epochs, single))
    curves: dict[str, list[float]] = {}
    for name, signal in SIGNALS.items():
        norms = [gradient_norm(task, signal, seed) for seed in range(seeds)]
        found = [learn(task, signal, test, Training(epochs=epochs), seed) for seed in range(seeds)]
        curves[name] = [statistics.fmean(values) for values in zip(*(c for c, _ in found), strict=True)]
        steps = [curves[name][min(epoch, epochs)] for epoch in (0, 1, 5, 20, epochs)]
        tested = [utility for _, utility in found]
        cells = [f"{statistics.fmean(norms):.2g}", *(f"{value:.3f}" for value in steps)]
        cells.append(f"{statistics.fmean(tested):.3f} ± {statistics.pstdev(tested):.3f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_text(drawing(curves), encoding="utf-8")


def measure_single(task: RoutingProblem, test: OutcomeTable) -> float:
    """Test utility of the expert that is best on training and validation rows."""
    router = task.new_router(0, kind="constant")
    with torch.no_grad():
        router.scorer.get_parameter("logits")[int(task.mean_utility().argmax())] = 1.0
    return measure(router, test, task.objective, task.scale).means()["utility"]


def markdown_head(
    name: str,
    table: OutcomeTable,
    task: RoutingProblem,
    weight: float,
    seeds: int,
    epochs: int,
    single: float,
) -> str:
    """What was run, and the head of the table."""
    return "\n".join(
        (
            f"`{name}`: {len(table.experts)} experts, {len(task.train)} training queries, one expert per",
            f"query; scorer {task.scorer}, compute weight {weight:g}; {seeds} seeds, {epochs} epochs,",
            "the same hyperparameters for every signal. The best single expert has a test utility of",
            f"{single:.3f}.",
            "",
            f"| signal | gradient norm at the start | utility at the start | 1 epoch | 5 | 20 | {epochs} "
            "| test, best epoch |",
            "|---|---|---|---|---|---|---|---|",
        )
    )


COLOURS = ("#c0392b", "#b9770e", "#7d3c98", "#2471a3", "#1e8449")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "")


def drawing(curves: Mapping[str, Sequence[float]]) -> str:
    """Mean validation utility by epoch as an SVG, one line a signal, with a legend beneath."""
    width, height, left, top, right = 640, 400, 56, 28, 14
    bottom = height - 44 - 18 * ((len(curves) + 1) // 2)
    epochs = max(len(curve) for curve in curves.values()) - 1
    values = [value for curve in curves.values() for value in curve]
    low, high = min(values), max(values)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)

    def place(epoch: float, value: float) -> str:
        x = left + epoch / epochs * (width - right - left)
        return f"{x:.1f} {bottom - (value - low) / (high - low) * (bottom - top):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#777">',
        "<title>Validation utility by epoch for each training signal with one expert a query</title>",
    ]
    step = 0.1 if high - low > 0.2 else 0.02
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        value = number * step
        y = place(0, value).split()[1]
        parts.append(f'<path d="M{left} {y}H{width - right}" stroke="#8884" fill="none"/>')
        parts.append(f'<text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for epoch in range(0, epochs + 1, max(1, epochs // 8)):
        x = place(epoch, low).split()[0]
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{epoch}</text>')
    parts.append('<text x="4" y="14">↑ utility on validation rows, mean of the seeds</text>')
    parts.append(f'<text x="{width - right}" y="{bottom + 32}" text-anchor="end">epochs →</text>')
    for number, (name, curve) in enumerate(curves.items()):
        look = f'stroke="{COLOURS[number]}" stroke-width="2" stroke-dasharray="{DASHES[number]}" fill="none"'
        line = "L".join(place(epoch, value) for epoch, value in enumerate(curve))
        parts.append(f'<path d="M{line}" {look}><title>{escape(name)}</title></path>')
        x, y = left + (number % 2) * 290, bottom + 52 + 18 * (number // 2)
        parts.append(f'<path d="M{x} {y - 4}h34" {look}/><text x="{x + 42}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
