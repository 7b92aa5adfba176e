"""Compare routers between language models with simple baselines (floors), cross-fitted, with intervals.

    python benchmarks/llm_routing.py FOLDER --out runs/llm_routing

FOLDER holds Parquet outcome tables with `prompt`, `group` and `fold`. Each fold is the test set once; fold k
has seed k. Features are made from the other four folds (cross-fitted) and are the same for every method:
n-grams of words and of characters with out-of-fold predictions, group and length. Every scorer is linear,
except kNN's. Methods that amortize over compute weights (`priced_pg`, `conditioned_pg`) are measured at
forty-one weights, like the floors. `ridge` (with and without out-of-fold predictions among its features; the
regressions of `priced_pg` have none), `knn` and `group_label` are fitted at ten weights, `exact_pg` and
`softmax_gate` at five; with fewer points the convex hull is lower. Hyperparameters are chosen on one of the
four folds: trained methods try `n_trials` settings, closed forms all of their search space.

Then every method uses all four folds. Methods without early stopping (`priced_pg`, both ridges, `knn`,
`group_label`) are refitted on the four. Methods with early stopping are fitted four times, each of the four
folds validating once, and the logits of the four routers are averaged. With `--embedding`, the features of
every trained method include the vectors of a sentence encoder; the floors do not change. `warm_exact_pg`
fits five folds of its own in every fit and would take longer than all others together.

The floors are the baselines that one would try first: `group`, mean quality on the query's group; `text
ridge`, a ridge regression on word TF-IDF; `ridge+group`, the mean of the two; each minus a compute weight
times the expert's cost (on the group, on average, the mean of both). Prints Markdown and writes
`llm_routing.json`; an interrupted run resumes from finished fits.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from conditioned_fit import fit_for_weights
from llm_floors import CONSTANTS, FLOORS, Played, constant, floor, oracle
from llm_folds import Study, embedded, fold_problem, fold_table
from llm_routing_tables import curve_shown, prices_shown, shown
from rich.console import Console

from experts import OutcomeTable
from experts.io.atomic import replacing, write_json
from router_rl import Objective
from router_rl.methods.fit import learnable
from router_rl.methods.method import Method, Run
from router_rl.problems.out_of_fold import OutOfFold
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import LinearScorer, Router
from router_rl.studies.frontier import Points, Ranking, frontier_facts, ranking_facts, resampled_means
from router_rl.studies.metrics import aiq, apgr

TABLES = (
    "routellm_gsm8k",
    "routellm_mtbench",
    "llmdrift_math",
    "zeroeval_pool27",
    "llmrouter_pool9",
    "routellm_mmlu",
)
OWN_RIDGE = "ridge_without_out_of_fold"
CLOSED = ("priced_pg", "ridge", OWN_RIDGE, "knn", "group_label")  # without early stopping
METHODS = (*CLOSED, "conditioned_pg", "exact_pg", "softmax_gate")
RIVALS = (*FLOORS, "group_label", "knn", "ridge", OWN_RIDGE, "softmax_gate")
WHOLE_SPACE = ("ridge", OWN_RIDGE, "knn", "group_label")
GRID = (0.0, 0.01, 0.03, 0.07, 0.12, 0.18, 0.25, 0.35, 0.6, 1.2)
DENSE = (0.0, *np.geomspace(0.002, 2.0, 40).tolist())  # for methods that another weight costs no fit
FRACTIONS = (0.25, 0.5, 1.0)
CURVE = ("priced_pg", "ridge", "ridge+group", "group")
err = Console(stderr=True)


def main(
    data: Path,
    out: Path = Path("runs/llm_routing"),
    tables: tuple[str, ...] = TABLES,
    methods: tuple[str, ...] = METHODS,
    n_trials: int = 2,
    curves: bool = True,
    prices: bool = True,
    embedding: Path | None = None,
) -> None:
    """Compare on each table and print.

    Args:
        data: folder of the tables.
        out: folder for features, finished fits and JSON.
        tables: file names without `.parquet`.
        methods: trained ones; floors, zero router, best single, random and oracle are always included.
        n_trials: hyperparameter settings tried for each trained method, chosen on validation.
        curves: whether to add learning curves of `priced_pg`, ridge and two floors.
        prices: whether to measure what changed prices cost a router.
        embedding: a sentence encoder's folder or ONNX file, for features beside the n-grams.
    """
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in tables:
        path = data / f"{name}.parquet"
        if not path.is_file():
            err.print(f"{name}: not run: {path} is absent")
            continue
        table = OutcomeTable.read(path, progress=False)
        study = Study(out, n_trials, embedded(table, name, out, embedding), str(embedding or ""))
        found[name] = compared(table, name, study, methods)
        print(shown(name, found[name]), flush=True)
        if curves:
            found[name]["curve"] = learning_curve(table, name, study)
            print(curve_shown(found[name]["curve"]), flush=True)
    if prices and (data / "zeroeval_pool27.parquet").is_file():
        table = OutcomeTable.read(data / "zeroeval_pool27.parquet", progress=False)
        none = np.zeros((len(table), 0), dtype=np.float32)
        found["prices"] = price_study(table, "zeroeval_pool27", Study(out, n_trials, none, ""))
        print(prices_shown(found["prices"]), flush=True)
    write_json(out / "llm_routing.json", found)


def compared(table: OutcomeTable, name: str, study: Study, methods: Sequence[str]) -> dict[str, Any]:
    """Operating points of every method on every query, out of fold, and their metrics."""
    played: dict[str, list[tuple[np.ndarray, Played]]] = {}
    strong = int(table.quality.mean(axis=0, dtype=float).argmax())
    for fold in range(5):
        part, predictions, rows = fold_table(table, name, fold, study)
        for method in (*methods, *FLOORS, *CONSTANTS, "oracle"):
            one = fold_result(part, predictions, name, method, fold, study, strong)
            played.setdefault(method, []).append((rows[part.split == "test"], one))
        err.print(f"{name}: fold {fold} done")
    whole = {method: _whole(len(table), parts) for method, parts in played.items()}
    singles = Points(cost=table.cost.astype(float), quality=table.quality.astype(float))
    points = {method: Points(cost=one.cost, quality=one.quality) for method, one in whole.items()}
    facts = frontier_facts({**points, "zero router": singles}, singles, cost_unit="usd")
    found: dict[str, Any] = {"facts": facts, "aiq_less": aiq_differences(points, singles)}
    if len(table.experts) == 2:
        weak, best = (table.quality[:, index].astype(float) for index in (1 - strong, strong))
        rankings = {
            method: Ranking(weak=weak, strong=best, score=one.score)
            for method, one in whole.items()
            if np.ptp(one.score) > 0.0
        }
        for method, ranked in ranking_facts({each: [one] for each, one in rankings.items()}).items():
            facts[method] |= ranked
        found["apgr_less"] = apgr_differences(rankings)
    return found


def _whole(rows: int, parts: Sequence[tuple[np.ndarray, Played]]) -> Played:
    """The test rows of all folds, concatenated."""
    wide = parts[0][1].cost.shape[1]
    whole = Played(np.zeros((rows, wide)), np.zeros((rows, wide)), np.zeros(rows))
    for test, one in parts:
        for target, values in zip(whole, one, strict=True):
            target[test] = values
    return whole


def fold_result(
    part: OutcomeTable,
    predictions: OutOfFold,
    name: str,
    method: str,
    fold: int,
    study: Study,
    strong: int,
    kind: str = "trials",
) -> Played:
    """Operating points of one method on the test rows of a fold; computed once, then read."""
    identity = [name, method, fold, study.n_trials, GRID, DENSE, *([study.encoder] if study.encoder else [])]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    kept = study.out / kind / f"{name}-{fold}-{method.replace(' ', '_')}-{key}.npz"
    if not kept.is_file():
        if method in FLOORS:
            found = floor(part, predictions, method, strong, DENSE)
        elif method in CONSTANTS:
            found = constant(part, method)
        elif method == "oracle":
            found = oracle(part, DENSE)
        else:
            found = learned(part, predictions, method, fold, study.n_trials, strong)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **found._asdict())
    with np.load(kept, allow_pickle=False) as read:
        return Played(read["cost"], read["quality"], read["score"])


def learned(
    part: OutcomeTable, predictions: OutOfFold, name: str, fold: int, n_trials: int, strong: int
) -> Played:
    """Operating points of a trained method at every weight; hyperparameters are chosen on validation."""
    if name == OWN_RIDGE:
        assert part.features is not None
        features = np.array(part.features)
        features[:, [column for group in predictions.columns for column in group]] = 0.0
        part = replace(part, features=features)
    problem = fold_problem(part, predictions, fold, 1)
    method = learnable("ridge" if name == OWN_RIDGE else name, problem)
    weights = DENSE if method.amortizes else GRID if name in CLOSED else GRID[::2]
    objectives = [Objective(compute_weight=weight) for weight in weights]
    candidates = method.candidates(100 if name in WHOLE_SPACE else n_trials)
    groups = [objectives] if method.amortizes else [[objective] for objective in objectives]
    routers: list[Router] = []
    for group in groups:
        fits = [_fitted(method, problem, each, group, fold) for each in candidates]
        best = int(np.argmax([_validation(each, problem, group) for each in fits]))
        if name in CLOSED:
            whole = fold_problem(part, predictions, fold, 0)
            routers += _fitted(method, whole, candidates[best], group, fold)
        else:
            others = (fold_problem(part, predictions, fold, turn) for turn in (2, 3, 4))
            turns = [fits[best], *(_fitted(method, each, candidates[best], group, fold) for each in others)]
            routers += [_averaged(each) for each in zip(*turns, strict=True)]
    test = part.part("test")
    found = [
        measure(router, test, objective, problem.scale, seed=fold)
        for router, objective in zip(routers, objectives, strict=True)
    ]
    score = np.zeros(len(test))
    if len(part.experts) == 2:
        score = _preference(routers[0 if method.amortizes else len(routers) // 2], test, strong)
    cost = np.stack([one.compute.astype(float) * problem.scale for one in found], axis=1)
    return Played(cost, np.stack([one.quality.astype(float) for one in found], axis=1), score)


def _fitted(
    method: Method,
    problem: RoutingProblem,
    hyperparameters: Any,
    objectives: Sequence[Objective],
    seed: int,
) -> list[Router]:
    """A router for each objective; a method that amortizes is fitted once for all of them."""
    if method.amortizes:
        run = Run(seed=seed)
        weights = [each.compute_weight for each in objectives]
        positive = [weight for weight in weights if weight > 0.0]
        router = fit_for_weights(method, problem, hyperparameters, positive, run)
        for message in run.messages:
            err.print(f"fold {seed}, {len(problem.train)} rows: {message}", highlight=False, soft_wrap=True)
        return [router.at(compute_weight=weight) for weight in weights]
    return [method.fit(problem.with_objective(each), hyperparameters, Run(seed=seed)) for each in objectives]


def _validation(routers: Sequence[Router], problem: RoutingProblem, objectives: Sequence[Objective]) -> float:
    pairs = zip(routers, objectives, strict=True)
    utility = [
        measure(each, problem.validation, one, problem.scale).means()["utility"] for each, one in pairs
    ]
    return float(np.mean(utility))


def _averaged(routers: Sequence[Router]) -> Router:
    """The router whose logits are the mean of those of linear routers."""
    router = copy.deepcopy(routers[0])
    scorers = [each.scorer for each in routers]
    folded = [scorer.folded() for scorer in scorers if isinstance(scorer, LinearScorer)]
    with torch.no_grad():
        for name, value in folded[0].named_parameters():
            value.copy_(torch.stack([each.get_parameter(name) for each in folded]).mean(dim=0))
    router.scorer = folded[0]
    return router.eval()


def _preference(router: Router, test: OutcomeTable, strong: int) -> np.ndarray:
    """How much a router prefers the stronger of two experts: the difference of logits, [T]."""
    state = None
    if router.state:  # the group of each row
        labels = np.array(router.state[0].labels)
        assert test.group is not None
        state = torch.from_numpy(test.group.astype(str)[:, None] == labels).float()
    with torch.inference_mode():
        logits = router(torch.tensor(test.features), state).logits.double().numpy()
    return logits[:, strong] - logits[:, 1 - strong]


def aiq_differences(points: dict[str, Points], singles: Points) -> dict[str, Any]:
    """AIQ of every method minus that of each baseline, with paired intervals."""
    parts = [singles.cost, singles.quality]
    for one in points.values():
        parts += [one.cost, one.quality]
    values: dict[str, list[float]] = {name: [] for name in points}
    for spent, earned, *own in resampled_means(parts):
        cheap = int(spent.argmin())
        for index, name in enumerate(points):
            cost = np.append(own[2 * index], spent[cheap])
            quality = np.append(own[2 * index + 1], earned[cheap])
            value = aiq(cost, quality, spent.min(), spent.max())
            values[name].append(float("nan") if value is None else value)
    return _differences({name: np.array(found) for name, found in values.items()})


def apgr_differences(rankings: dict[str, Ranking]) -> dict[str, Any]:
    """APGR of every method minus that of each baseline, with paired intervals."""
    rows = len(next(iter(rankings.values())).weak)
    draws = np.random.default_rng(0).integers(0, rows, (1000, rows))
    counts = [np.bincount(chosen, minlength=rows) for chosen in (np.arange(rows), *draws)]
    values: dict[str, np.ndarray] = {}
    for name, one in rankings.items():
        order = np.argsort(-one.score, kind="stable")
        chosen = (order.repeat(count[order]) for count in counts)  # already sorted by score
        found = [apgr(one.weak[r], one.strong[r], one.score[r]) for r in chosen]
        values[name] = np.array(found, dtype=float)
    return _differences(values)


def _differences(values: dict[str, np.ndarray]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, own in values.items():
        for each in RIVALS:
            if name != each and each in values:
                gap = own - values[each]
                low, high = np.nanquantile(gap[1:], [0.025, 0.975])
                found.setdefault(name, {})[each] = {
                    "value": float(gap[0]),
                    "ci95": [float(low), float(high)],
                }
    return found


def learning_curve(table: OutcomeTable, name: str, study: Study) -> dict[str, Any]:
    """AIQ by the share of the training rows; the last one is the comparison's own."""
    found: dict[str, Any] = {}
    strong = int(table.quality.mean(axis=0, dtype=float).argmax())
    singles = Points(cost=table.cost.astype(float), quality=table.quality.astype(float))
    for fraction in FRACTIONS:
        played: dict[str, list[tuple[np.ndarray, Played]]] = {}
        kind = "trials" if fraction == 1.0 else f"trials-{fraction:g}"
        for fold in range(5):
            part, predictions, rows = fold_table(table, name, fold, study, fraction)
            for method in CURVE:
                one = fold_result(part, predictions, name, method, fold, study, strong, kind)
                played.setdefault(method, []).append((rows[part.split == "test"], one))
        whole = {method: _whole(len(table), parts) for method, parts in played.items()}
        points = {method: Points(cost=one.cost, quality=one.quality) for method, one in whole.items()}
        facts = frontier_facts(points, singles)
        found[f"{fraction:g}"] = {method: facts[method]["aiq"] for method in points}
    return found


def price_study(table: OutcomeTable, name: str, study: Study, draws: int = 3, weight: float = 0.1) -> Any:
    """Utility at new prices of a router that is repriced, of one that is retrained, and of an unchanged one.

    New prices are the old ones times 4 ** u, with u uniform between -1 and 1 for each expert.
    """
    kept = study.out / "prices.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    objective = Objective(compute_weight=weight)
    utility: Mapping[str, np.ndarray] = {
        label: np.zeros((draws, len(table))) for label in ("unchanged", "repriced", "retrained")
    }
    for fold in range(5):
        part, predictions, rows = fold_table(table, name, fold, study)
        problem = fold_problem(part, predictions, fold, 0).with_objective(objective)
        method = learnable("priced_pg", problem)
        default = method.hyperparameters()
        old = method.fit(problem, default, Run(seed=fold))
        for draw in range(draws):
            rng = np.random.default_rng(100 * fold + draw)
            new = replace(
                part, cost=part.cost * 4.0 ** rng.uniform(-1, 1, len(part.experts)).astype(np.float32)
            )
            fresh = fold_problem(new, predictions, fold, 0).with_objective(objective)
            fresh = fresh.replaced(scale=problem.scale)
            repriced = old.repriced((fresh.train.cost.mean(axis=0, dtype=float) / problem.scale).tolist())
            trained = method.fit(fresh, default, Run(seed=fold))
            for label, router in (("unchanged", old), ("repriced", repriced), ("retrained", trained)):
                at = router.at(compute_weight=weight)
                earned = measure(at, new.part("test"), objective, problem.scale).utility
                utility[label][draw, rows[part.split == "test"]] = earned
        err.print(f"prices: fold {fold} done")
    mean = {label: values.mean(axis=0) for label, values in utility.items()}
    rng = np.random.default_rng(0)
    chosen = [rng.integers(0, len(table), len(table)) for _ in range(1000)]
    facts: dict[str, Any] = {}
    for label, values in mean.items():
        gap = mean["retrained"] - values
        low, high = np.quantile([gap[rows].mean() for rows in chosen], [0.025, 0.975])
        facts[label] = {
            "utility": float(values.mean()),
            "regret": float(gap.mean()),
            "ci95": [float(low), float(high)],
        }
    write_json(kept, facts)
    return facts


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
