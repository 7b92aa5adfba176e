"""What missing training outcomes cost: each method on the full table, and with outcomes hidden at random.

    python benchmarks/sparse_tables.py FOLDER

Seed s hides its own share of the outcomes of training rows, and trains with seed s. Validation, tuning and
test rows stay complete. Features are made anew of each table, as a user of it would. Each method has the same
number of trials, whose hyperparameters are selected on tuning rows. The missing outcomes are estimated
(`router_rl/problems/completed_table.py`). The row `ridge, no estimates` is the same regression on the known
outcomes alone. Differences to the full table are paired by query and seed. Prints Markdown; what was measured
is kept, and the same command resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jsonargparse
import numpy as np
import torch
from markdown_tables import as_markdown
from rich.console import Console

from envs.reward import expert_utility
from experts import OutcomeTable, open_table
from experts.io.atomic import replacing
from router_rl import Objective, fit
from router_rl.bench.table_layout import TextTable
from router_rl.methods.baselines.ridge import METHOD, lifted_weights, solve_ridge
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.statistics import Interval, interval, paired_difference
from router_rl.routing import LinearScorer, Router

METHODS = (
    *("best_single", "group_label", "ridge", "knn", "kernel", "cluster"),
    *("softmax_gate", "exact_pg"),
)
WITHOUT = "ridge, no estimates"
OBJECTIVE = Objective(compute_weight=0.1)


def main(
    folder: Path,
    *,
    tables: Sequence[str] = ("zeroeval_pool27",),
    hidden: Sequence[float] = (0.5, 0.8),
    methods: Sequence[str] = METHODS,
    seeds: int = 5,
    n_trials: int = 2,
    first_seed: int = 0,
    out: Path = Path("runs/sparse_tables"),
) -> None:
    """Measure and print.

    Args:
        folder: holds the tables.
        tables: their names.
        hidden: shares of the training outcomes to hide.
        methods: names of methods.
        seeds: number of seeds.
        n_trials: hyperparameters that each method tries.
        first_seed: seeds below are not measured here, but are printed if they have been.
        out: keeps what was measured; the same command resumes.
    """
    torch.set_num_threads(1)
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    for name in tables:
        table = open_table(folder / f"{name}.parquet")
        full = RoutingProblem(table, OBJECTIVE)
        measured: dict[tuple[int, float], dict[str, np.ndarray]] = {}
        for seed in [*range(first_seed, seeds), *range(first_seed)]:
            for share in (0.0, *hidden):
                kept = out / f"{name}-{seed}-{share:g}-{n_trials}.npz"
                if not kept.exists():
                    problem = RoutingProblem(with_hidden(table, share, seed), OBJECTIVE) if share else full
                    rows = full.replaced(table=problem.table)  # the full table's unit of compute
                    found = {
                        method: rows.evaluate(learn(problem, seed), "test").utility
                        for method, learn in fits(methods, n_trials)
                    }
                    with replacing(kept) as temporary, temporary.open("wb") as file:
                        np.savez(file, **found, errors=estimation_errors(full, problem) if share else [])
                    console.print(f"{name}: seed {seed}, {share:.0%} hidden")
                with np.load(kept) as arrays:
                    measured[seed, share] = dict(arrays)
        errors = {share: [measured[seed, share]["errors"] for seed in range(seeds)] for share in hidden}
        utilities = {
            (method, share): np.stack([measured[seed, share][method] for seed in range(seeds)])
            for method, _ in fits(methods, n_trials)
            for share in (0.0, *hidden)
        }
        note = describe(full, errors, seeds, n_trials)
        print(as_markdown([layout(name, utilities, hidden, note)]), flush=True)


def with_hidden(table: OutcomeTable, share: float, seed: int) -> OutcomeTable:
    """Hide outcomes of training rows at random; each row keeps at least one.

    Args:
        table: complete.
        share: of the outcomes, to hide.
        seed: of what is hidden.
    """
    random = np.random.default_rng(seed)
    missing = random.random(table.quality.shape) < share
    missing[table.split != "train"] = False
    empty = np.flatnonzero(missing.all(axis=1))
    missing[empty, random.integers(0, len(table.experts), len(empty))] = False
    known = np.where(missing, np.float32(np.nan), np.float32(1.0))
    return replace(
        table, quality=table.quality * known, cost=table.cost * known, probabilities=None, label=None
    )


def fits(methods: Sequence[str], n_trials: int) -> list[tuple[str, Callable[[RoutingProblem, int], Router]]]:
    """Each row's name, and what fits it to a problem with a seed."""

    def learn(method: str) -> Callable[[RoutingProblem, int], Router]:
        return lambda problem, seed: fit(method, problem, seed=seed, n_trials=n_trials)

    without = partial(ridge_without_estimates, n_trials=n_trials)
    return [*((method, learn(method)) for method in methods), (WITHOUT, without)]


def ridge_without_estimates(problem: RoutingProblem, seed: int, n_trials: int) -> Router:
    """The ridge router, with each expert's regression on the rows that it answered."""
    router = problem.new_router(seed, kind="linear")
    scorer = router.scorer
    assert isinstance(scorer, LinearScorer)
    outcomes, answered = problem.outcomes(), torch.from_numpy(problem.logged.answered)
    x = ((outcomes.features - scorer.shift) * scorer.scale).double()
    utility = expert_utility(outcomes, OBJECTIVE.compute_weight).double()
    best, kept = -np.inf, (torch.empty(0), torch.empty(0))
    for candidate in METHOD.candidates(n_trials):
        solved = [
            solve_ridge(x[rows], utility[rows, [expert]].unsqueeze(1), candidate.penalty)
            for expert, rows in enumerate(answered.T)
        ]
        weight, bias = torch.cat([each for each, _ in solved]), torch.cat([each for _, each in solved])
        lifted = lifted_weights(problem.rule, x, weight, bias, temperature=0.0)
        with torch.no_grad():
            scorer.weight.copy_(lifted[0])
            scorer.bias.copy_(lifted[1])
        reached = problem.evaluate(router.eval(), "tuning").means()["utility"]
        if reached > best:
            best, kept = reached, lifted
    with torch.no_grad():
        scorer.weight.copy_(kept[0])
        scorer.bias.copy_(kept[1])
    return router


def estimation_errors(full: RoutingProblem, sparse: RoutingProblem) -> np.ndarray:
    """Root mean square error of missing qualities: of the estimates, and of each expert's known mean."""
    missing = ~sparse.logged.answered
    truth = full.train.quality[missing]
    mean = np.broadcast_to(np.nanmean(sparse.logged.quality, axis=0), missing.shape)[missing]
    return np.array([np.sqrt(np.mean((each - truth) ** 2)) for each in (sparse.train.quality[missing], mean)])


def layout(
    name: str, utilities: dict[tuple[str, float], np.ndarray], hidden: Sequence[float], note: str
) -> TextTable:
    """The table of one data file."""
    columns = ["method", "full table"]
    for share in hidden:
        columns += [f"{share:.0%} hidden", "difference"]
    lines: list[Sequence[str]] = []
    for method in dict.fromkeys(method for method, _ in utilities):
        whole = utilities[method, 0.0]
        line = [method, f"{interval(whole).mean:.4f}"]
        for share in hidden:
            part = utilities[method, share]
            line += [f"{interval(part).mean:.4f}", shown(paired_difference(part, whole))]
        lines.append(line)
    return TextTable(title=name, columns=tuple(columns), rows=lines, note=note)


def shown(difference: Interval) -> str:
    """A difference with its interval."""
    return f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def describe(full: RoutingProblem, errors: dict[float, list[np.ndarray]], seeds: int, n_trials: int) -> str:
    """What the table holds."""
    rows, experts = full.train.quality.shape
    found = "; ".join(
        f"{share:.0%} hidden: {own:.3f} (of each expert's mean: {mean:.3f})"
        for share, each in errors.items()
        for own, mean in [np.mean(each, axis=0)]
    )
    test = len(full.table.part("test"))
    return (
        f"Test utility, quality - {OBJECTIVE.compute_weight:g} x compute, mean of {seeds} seeds; {experts} "
        f"experts, {rows:,} training and {test:,} test queries; {n_trials} trials. Differences to the full "
        "table with a 95% CI over test queries and seeds, paired. Root mean square error of the estimated "
        f"qualities, {found}."
    )


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
