"""A new expert from 20 to 200 answers: regret to knowing all of its outcomes.

    python benchmarks/new_expert.py FOLDER
    python benchmarks/new_expert.py FOLDER --tables llmrouter_pool9 --draws 5 --all_experts false

FOLDER holds Parquet outcome tables with `group` and `fold`. Folds 0 to 2 are the old table, the later folds
test; of `mmlupro_pool22` fold 4 is sealed (docs/benchmarks/sealed.md) and not read, unless `--open_sealed
true` tests on the part of it that is reserved for new experts, in place of fold 3. The router is the lookup
by group (`group_label`). One expert is left out, answers some training queries, and is added; the regret is
the utility on test rows of the router that knows all of its outcomes minus that of the router that was
extended. Rivals: ignore the expert; a shrunk lookup of its answers; a ridge regression of its answers on
those of the other experts, penalty by leave-one-out error, which imputes the other rows. All get the same
estimate of its cost. A draw is a set of random probes, and a random half of the training rows that active
probes are chosen from. The two experts whose loss costs most on training rows are left out in turn; then
every expert. Prints Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jsonargparse
import numpy as np
import torch
from real_tables import SEALED, sealed_part

from experts import OutcomeTable
from router_rl.problems.newcomer import Answers, Newcomer, Pool, newcomer
from router_rl.problems.newcomer_prior import PriorVariances, estimated_variances
from router_rl.problems.probe_choice import next_probes
from router_rl.problems.shrunken_means import shrunken_means
from router_rl.problems.statistics import Interval

__all__ = ["Left", "active", "difference", "left_out", "lookup", "recommended", "ridge_imputed", "utilities"]

TABLES = "mmlupro_pool22,zeroeval_pool27,llmrouter_pool9"
WEIGHTS = (0.02, 0.1, 0.4)
PROBES = (20, 50, 100, 200)
MOST = 10  # draws where every expert is left out
FEW = (20, 50)  # where ignoring the expert is hardest to beat
STRENGTH = 5.0  # the default of group_label
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
ROUNDS = 3  # in which the queries between two numbers of probes are chosen
METHODS = ("ignored", "lookup of the probes", "ridge imputation", "add-expert, random", "add-expert, active")


class Left(NamedTuple):
    """A table without one expert, and that expert.

    Attributes:
        pool: the other experts on training rows; costs are in units of the most expensive expert's mean.
        quality, cost: [T] float64, the left out expert on these rows.
        test_quality, test_cost: [S, N + 1] float64, all experts on test rows, the one left out last.
        test_region: [S] int64, group of each test row.
    """

    pool: Pool
    quality: np.ndarray
    cost: np.ndarray
    test_quality: np.ndarray
    test_cost: np.ndarray
    test_region: np.ndarray


def left_out(table: OutcomeTable, expert: int) -> Left:
    """Leave an expert out of a table with groups and folds."""
    assert table.group is not None
    assert table.fold is not None
    labels, region = np.unique(table.group.astype(str), return_inverse=True)
    train = table.fold <= 2
    order = [*(i for i in range(len(table.experts)) if i != expert), expert]
    quality = table.quality[:, order].astype(np.float64)
    cost = table.cost[:, order].astype(np.float64)
    cost /= cost[train].mean(axis=0).max()
    pool = Pool(quality=quality[train, :-1], cost=cost[train, :-1], region=region[train], regions=len(labels))
    test = quality[~train], cost[~train], region[~train]
    return Left(pool, quality[train, -1], cost[train, -1], *test)


def lookup(values: np.ndarray, region: np.ndarray, regions: int) -> np.ndarray:
    """Return the values of the lookup by group, [G, M]; a group without rows gets the overall mean."""
    means = shrunken_means(torch.from_numpy(values), torch.from_numpy(region), regions, STRENGTH)
    return means[:-1].numpy()


def utilities(left: Left, weight: float, quality: np.ndarray | None, cost: np.ndarray | None) -> np.ndarray:
    """Return the utility of each test row, [S] float64.

    Args:
        left: the table.
        weight: compute weight.
        quality, cost: [G] float64, of the new expert in each group; None ignores it.
    """
    values = _old_values(left, weight)
    if quality is not None and cost is not None:
        values = np.hstack([values, (quality - weight * cost)[:, None]])
    choice = values.argmax(axis=1)[left.test_region]
    rows = np.arange(len(choice))
    return left.test_quality[rows, choice] - weight * left.test_cost[rows, choice]


def ridge_imputed(left: Left, rows: np.ndarray) -> np.ndarray:
    """Return the new expert's quality on training rows by a ridge regression on the other experts', [T]."""
    x, y = left.pool.quality[rows], left.quality[rows]
    u, s, v = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    along = u.T @ (y - y.mean())
    best, weight = np.inf, np.zeros(x.shape[1])
    for penalty in PENALTIES:
        kept = s**2 / (s**2 + penalty)
        leverage = 1.0 / len(rows) + u**2 @ kept
        error = float((((y - y.mean() - u @ (kept * along)) / (1.0 - leverage)) ** 2).mean())
        if error < best:
            best, weight = error, v.T @ (s / (s**2 + penalty) * along)
    imputed = (y.mean() + (left.pool.quality - x.mean(axis=0)) @ weight).clip(0.0, 1.0)
    imputed[rows] = y
    return imputed


def added(left: Left, rows: np.ndarray, variances: PriorVariances) -> Newcomer:
    """Return the new expert as `add-expert` estimates it from its answers to some training rows."""
    answers = Answers(rows=rows, quality=left.quality[rows], cost=left.cost[rows])
    return newcomer(left.pool, answers, variances)


def recommended(left: Left, weight: float, new: Newcomer) -> bool:
    """Return whether `add-expert` advises the new router: the 95% CI of its expected gain is above 0."""
    best = _old_values(left, weight).max(axis=1)
    cost = _own(left, new.cost)
    used = new.share * (_own(left, new.cautious()) - weight * cost > best)
    gain = float(used @ (new.means @ new.known.mean - weight * cost - best))
    spread = used @ new.means
    return gain - 1.96 * float(np.sqrt(spread @ new.known.covariance @ spread)) > 0.0


def active(
    left: Left, weight: float, variances: PriorVariances, seed: int, probes: tuple[int, ...] = PROBES
) -> dict[int, np.ndarray]:
    """Return the training rows that are asked, by number of probes; they are chosen in rounds.

    Only a random half of the training rows may be asked, so that the draws differ.
    """
    half = np.random.default_rng(seed).permutation(len(left.quality))[: len(left.quality) // 2]
    rival = _old_values(left, weight).max(axis=1)
    rows = np.empty(0, dtype=np.int64)
    asked: dict[int, np.ndarray] = {}
    for before, count in zip((0, *probes), probes, strict=False):
        for part in np.array_split(np.arange(count - before), ROUNDS):
            new = added(left, rows, variances)
            rows = np.concatenate([rows, next_probes(new, rival, weight, half, len(part), seed)])
        asked[count] = rows
    return asked


def difference(one: np.ndarray, two: np.ndarray) -> Interval:
    """Return the mean of `one - two` with its 95% CI over draws and test rows, from the two variances.

    Args:
        one, two: [draws, S] float, or without draws.
    """
    values = np.atleast_2d(one - two)
    between = values.mean(axis=1).var(ddof=1) / len(values) if len(values) > 1 else 0.0
    half = 1.96 * float(np.sqrt(between + values.mean(axis=0).var() / values.shape[1]))
    return Interval(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half)


def main(
    folder: Path,
    tables: str = TABLES,
    draws: int = 30,
    useful: int = 2,
    all_experts: bool = True,
    open_sealed: bool = False,
) -> None:
    """Print the regrets.

    Args:
        folder: folder of the tables.
        tables: comma-separated, without `.parquet`.
        draws: sets of probes for each expert.
        useful: experts of each table and weight that are left out in turn; 0 skips that table.
        all_experts: also leave out every expert, and compare with ignoring it.
        open_sealed: test on the sealed rows; note it in docs/benchmarks/sealed.md.
    """
    torch.set_num_threads(1)
    read = {name: _read(folder / f"{name}.parquet", open_sealed=open_sealed) for name in tables.split(",")}
    kept = {name: _leave_out(table) for name, table in read.items()}
    if useful:
        print(
            f"| table | weight | probes | {' | '.join(METHODS)} | active - better rival | active - ignored |"
        )
        print(f"|---|---:|---:|{'---:|' * (len(METHODS) + 2)}", flush=True)
    for name, cases in kept.items() if useful else ():
        for weight in WEIGHTS:
            best = sorted(cases, key=lambda case: -_loss(case[0], weight))[:useful]
            curves = [_curves(*case, weight, draws) for case in best]
            for count in PROBES:
                print(_line(name, weight, count, curves), flush=True)
    if all_experts:
        print("\n| table | weight | probes | as | experts | significantly worse | worst | mean |")
        print("|---|---:|---:|---|---:|---:|---:|---:|", flush=True)
        for name, cases in kept.items():
            for weight in WEIGHTS:
                _print_all(name, weight, cases, min(draws, MOST))


def _read(path: Path, *, open_sealed: bool) -> OutcomeTable:
    table = OutcomeTable.read(path)
    assert table.fold is not None
    if path.stem != SEALED:
        return table
    if not open_sealed:
        return table.take(table.fold < 4)
    assert table.prompt is not None
    return table.take((table.fold <= 2) | ((table.fold == 4) & (sealed_part(table.prompt) == 2)))


def _leave_out(table: OutcomeTable) -> list[tuple[Left, PriorVariances]]:
    cases = [left_out(table, expert) for expert in range(len(table.experts))]
    return [
        (case, estimated_variances(case.pool.quality, case.pool.region, case.pool.regions).widened())
        for case in cases
    ]


def _old_values(left: Left, weight: float) -> np.ndarray:
    pool = left.pool
    return lookup(pool.quality - weight * pool.cost, pool.region, pool.regions)


def _own(left: Left, values: np.ndarray) -> np.ndarray:
    return lookup(values[:, None], left.pool.region, left.pool.regions)[:, 0]


def _loss(left: Left, weight: float) -> float:
    """Return what ignoring the expert costs on training rows."""
    full = _own(left, left.quality - weight * left.cost)
    gain = np.maximum(full - _old_values(left, weight).max(axis=1), 0.0)
    return float(gain[left.pool.region].mean())


def _with(left: Left, weight: float, rows: np.ndarray, variances: PriorVariances) -> np.ndarray:
    new = added(left, rows, variances)
    return utilities(left, weight, _own(left, new.cautious()), _own(left, new.cost))


def _curves(
    left: Left, variances: PriorVariances, weight: float, draws: int
) -> dict[tuple[int, str], np.ndarray]:
    """Return the regret [draws, S] of each method by number of probes."""
    full = utilities(left, weight, _own(left, left.quality), _own(left, left.cost))
    found: dict[tuple[int, str], list[np.ndarray]] = {}
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(left.quality))
        asked = active(left, weight, variances, draw)
        for count in PROBES:
            rows = order[:count]
            cost = _own(left, added(left, rows, variances).cost)
            region = left.pool.region[rows]
            shrunk = lookup(left.quality[rows][:, None], region, left.pool.regions)[:, 0]
            earned = (
                utilities(left, weight, None, None),
                utilities(left, weight, shrunk, cost),
                utilities(left, weight, _own(left, ridge_imputed(left, rows)), cost),
                _with(left, weight, rows, variances),
                _with(left, weight, asked[count], variances),
            )
            for method, each in zip(METHODS, earned, strict=True):
                found.setdefault((count, method), []).append(full - each)
    return {key: np.stack(value) for key, value in found.items()}


def _line(name: str, weight: float, count: int, curves: list[dict[tuple[int, str], np.ndarray]]) -> str:
    # Each test row's regret is the mean over the experts that are left out.
    regret = {method: np.mean([each[count, method] for each in curves], axis=0) for method in METHODS}
    rival = min(METHODS[1:3], key=lambda method: regret[method].mean())
    cells = [f"{regret[method].mean():.4f}" for method in METHODS]
    # The utility of active probes minus that of the other: regrets swap the sign.
    for other in (rival, METHODS[0]):
        cells.append(_shown(difference(regret[other], regret[METHODS[4]])))
    return f"| `{name}` | {weight:g} | {count} | {' | '.join(cells)} |"


def _print_all(name: str, weight: float, cases: list[tuple[Left, PriorVariances]], draws: int) -> None:
    found: dict[tuple[int, str], list[Interval]] = {}
    for left, variances in cases:
        asked = [active(left, weight, variances, draw, FEW) for draw in range(draws)]
        ignored = utilities(left, weight, None, None)
        for count in FEW:
            earned = np.stack([_with(left, weight, each[count], variances) for each in asked])
            advised = [recommended(left, weight, added(left, each[count], variances)) for each in asked]
            kept = np.where(np.array(advised)[:, None], earned, ignored)
            found.setdefault((count, "fitted"), []).append(difference(earned, ignored))
            found.setdefault((count, "recommended"), []).append(difference(kept, ignored))
    for (count, kind), gains in found.items():
        worse = sum(each.high < 0.0 for each in gains)
        worst = min(gains, key=lambda each: each.mean)
        mean = np.mean([each.mean for each in gains])
        cells = (f"`{name}`", f"{weight:g}", count, kind, len(gains), worse, _shown(worst), f"{mean:+.4f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _shown(gain: Interval) -> str:
    return f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
