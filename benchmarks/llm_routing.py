"""Routers between language models against the floors of each table, out of fold, with intervals.

    python benchmarks/llm_routing.py FOLDER --out runs/llm_routing

FOLDER holds Parquet outcome tables with `prompt`, `group` and `fold`. Each fold is the test set once; fold k
has seed k. Features are made of the other four (of each of their rows out of fold) and are the same for
every method: n-grams of words and of characters with readouts, group, length. Every scorer is linear (but
kNN). A method that is one fit for all compute weights (`priced_pg`, `conditioned_pg`) is read off at
forty-one of them, as the floors are; `ridge` (with and without the readouts among its features, as the
regressions of `priced_pg` are), `knn` and `group_label` are fitted at ten, `exact_pg` and
`softmax_gate` at five, which costs them some height of hull. Settings are chosen on one of the four folds:
trained methods try `tries`, closed forms every one they know.

Then all four folds are used, by everyone. What has no early stopping (`priced_pg`, both ridges, `knn`,
`group_label`) is fitted again on the four. What stops early is fitted four times, each of the four watching
once, and the four routers' logits are averaged. With `--embedding` every trained method sees the vectors of a
sentence encoder too; the floors are as they were. `warm_exact_pg`, which asks five folds of its own in every
fit, would take longer than all others together; `benchmarks/warm_start.py` has it.

The floors are what a table's owner would write down first: `group`, mean quality on the query's group;
`text ridge`, a ridge regression on word TF-IDF; `ridge+group`, the mean of the two; each less a price times
what the expert costs (on the group, on average, the mean of both). Prints Markdown and writes
`llm_routing.json`; a stopped benchmark goes on where it was.
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
from llm_floors import CONSTANTS, FLOORS, Played, constant, floor, oracle
from llm_folds import Study, embedded, fold_task, learning_task
from llm_routing_tables import curve_shown, prices_shown, shown
from rich.console import Console

from experts import OutcomeTable
from experts.io.atomic import replacing, write_json
from router_rl import Objective
from router_rl.methods.method import Method, Run
from router_rl.methods.registry import find_method
from router_rl.problems.out_of_fold import Readouts
from router_rl.problems.routing.problem import Task
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
OWN_RIDGE = "ridge_without_readouts"
CLOSED = ("priced_pg", "ridge", OWN_RIDGE, "knn", "group_label")  # nothing in them stops early
METHODS = (*CLOSED, "conditioned_pg", "exact_pg", "softmax_gate")
RIVALS = (*FLOORS, "group_label", "knn", "ridge", OWN_RIDGE, "softmax_gate")
EVERY_SETTING = ("ridge", OWN_RIDGE, "knn", "group_label")
GRID = (0.0, 0.01, 0.03, 0.07, 0.12, 0.18, 0.25, 0.35, 0.6, 1.2)
DENSE = (0.0, *np.geomspace(0.002, 2.0, 40).tolist())  # where another weight costs no fit
FRACTIONS = (0.25, 0.5, 1.0)
CURVE = ("priced_pg", "ridge", "ridge+group", "group")
err = Console(stderr=True)


def main(
    data: Path,
    out: Path = Path("runs/llm_routing"),
    tables: tuple[str, ...] = TABLES,
    methods: tuple[str, ...] = METHODS,
    tries: int = 2,
    curves: bool = True,
    prices: bool = True,
    embedding: Path | None = None,
) -> None:
    """Compare on each table and print.

    Args:
        data: folder of the tables.
        out: folder for features, finished fits and JSON.
        tables: file names without `.parquet`.
        methods: trained ones; the floors, Zero, best single, random and the oracle are always there.
        tries: settings tried for each trained method, chosen on validation.
        curves: whether to add learning curves of `priced_pg`, ridge and the floors.
        prices: whether to add the study of changed prices.
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
        study = Study(out, tries, embedded(table, name, out, embedding), str(embedding or ""))
        found[name] = compared(table, name, study, methods)
        print(shown(name, found[name]), flush=True)
        if curves:
            found[name]["curve"] = learning_curve(table, name, study)
            print(curve_shown(found[name]["curve"]), flush=True)
    if prices and (data / "zeroeval_pool27.parquet").is_file():
        table = OutcomeTable.read(data / "zeroeval_pool27.parquet", progress=False)
        none = np.zeros((len(table), 0), dtype=np.float32)
        found["prices"] = price_study(table, "zeroeval_pool27", Study(out, tries, none, ""))
        print(prices_shown(found["prices"]), flush=True)
    write_json(out / "llm_routing.json", found)


def compared(table: OutcomeTable, name: str, study: Study, methods: Sequence[str]) -> dict[str, Any]:
    """Every method's operating points on every query, out of fold, and what they are worth."""
    played: dict[str, list[tuple[np.ndarray, Played]]] = {}
    strong = int(table.quality.mean(axis=0, dtype=float).argmax())
    for fold in range(5):
        part, readouts, rows = fold_task(table, name, fold, study)
        for method in (*methods, *FLOORS, *CONSTANTS, "oracle"):
            one = cell(part, readouts, name, method, fold, study, strong)
            played.setdefault(method, []).append((rows[part.split == "test"], one))
        err.print(f"{name}: fold {fold} done")
    whole = {method: _whole(len(table), parts) for method, parts in played.items()}
    singles = Points(cost=table.cost.astype(float), quality=table.quality.astype(float))
    points = {method: Points(cost=one.cost, quality=one.quality) for method, one in whole.items()}
    facts = frontier_facts({**points, "Zero": singles}, singles, cost_unit="usd")
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
    """The folds' test rows put together."""
    wide = parts[0][1].cost.shape[1]
    whole = Played(np.zeros((rows, wide)), np.zeros((rows, wide)), np.zeros(rows))
    for test, one in parts:
        for target, values in zip(whole, one, strict=True):
            target[test] = values
    return whole


def cell(
    part: OutcomeTable,
    readouts: Readouts,
    name: str,
    method: str,
    fold: int,
    study: Study,
    strong: int,
    kind: str = "cells",
) -> Played:
    """What one method does on a fold's test rows; made once, then read."""
    asked = [name, method, fold, study.tries, GRID, DENSE, *([study.encoder] if study.encoder else [])]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    kept = study.out / kind / f"{name}-{fold}-{method.replace(' ', '_')}-{key}.npz"
    if not kept.is_file():
        if method in FLOORS:
            found = floor(part, readouts, method, strong, DENSE)
        elif method in CONSTANTS:
            found = constant(part, method)
        elif method == "oracle":
            found = oracle(part, DENSE)
        else:
            found = learned(part, readouts, method, fold, study.tries, strong)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **found._asdict())
    with np.load(kept, allow_pickle=False) as read:
        return Played(read["cost"], read["quality"], read["score"])


def learned(part: OutcomeTable, readouts: Readouts, name: str, fold: int, tries: int, strong: int) -> Played:
    """A trained method's routers at every weight, its settings chosen on validation, on the test rows."""
    method = find_method("ridge" if name == OWN_RIDGE else name)
    if name == OWN_RIDGE:
        assert part.features is not None
        features = np.array(part.features)
        features[:, [column for group in readouts.columns for column in group]] = 0.0
        part = replace(part, features=features)
    weights = DENSE if method.over is not None else GRID if name in CLOSED else GRID[::2]
    objectives = [Objective(compute_weight=weight) for weight in weights]
    candidates = method.candidates(100 if name in EVERY_SETTING else tries)
    task = learning_task(part, readouts, fold, 1)
    groups = [objectives] if method.over is not None else [[objective] for objective in objectives]
    routers: list[Router] = []
    for group in groups:
        fits = [_fitted(method, task, settings, group, fold) for settings in candidates]
        best = int(np.argmax([_validation(each, task, group) for each in fits]))
        if name in CLOSED:
            routers += _fitted(method, learning_task(part, readouts, fold, 0), candidates[best], group, fold)
        else:
            others = (learning_task(part, readouts, fold, turn) for turn in (2, 3, 4))
            turns = [fits[best], *(_fitted(method, each, candidates[best], group, fold) for each in others)]
            routers += [_averaged(each) for each in zip(*turns, strict=True)]
    test = part.part("test")
    found = [
        measure(router, test, objective, task.scale, seed=fold)
        for router, objective in zip(routers, objectives, strict=True)
    ]
    score = np.zeros(len(test))
    if len(part.experts) == 2:
        score = _preference(routers[0 if method.over is not None else len(routers) // 2], test, strong)
    cost = np.stack([one.compute.astype(float) * task.scale for one in found], axis=1)
    return Played(cost, np.stack([one.quality.astype(float) for one in found], axis=1), score)


def _fitted(
    method: Method, task: Task, settings: Any, objectives: Sequence[Objective], seed: int
) -> list[Router]:
    """A router for each objective: by one fit for all, where the method has that."""
    if method.over is not None:
        run = Run(seed=seed)
        router = method.fit(task, method.over(settings, objectives[1:]), run)
        for remark in run.remarks:
            err.print(f"fold {seed}, {len(task.train)} rows: {remark}", highlight=False, soft_wrap=True)
        return [router.at(compute_weight=objective.compute_weight) for objective in objectives]
    return [method.fit(task.with_objective(each), settings, Run(seed=seed)) for each in objectives]


def _validation(routers: Sequence[Router], task: Task, objectives: Sequence[Objective]) -> float:
    pairs = zip(routers, objectives, strict=True)
    utility = [measure(each, task.validation, one, task.scale).means()["utility"] for each, one in pairs]
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
    """How much a router prefers the strong of two experts, [T]."""
    state = None
    if router.state:  # the group of each row
        labels = np.array(router.state[0].labels)
        assert test.group is not None
        state = torch.from_numpy(test.group.astype(str)[:, None] == labels).float()
    with torch.inference_mode():
        logits = router(torch.tensor(test.features), state).logits.double().numpy()
    return logits[:, strong] - logits[:, 1 - strong]


def aiq_differences(points: dict[str, Points], singles: Points) -> dict[str, Any]:
    """AIQ of every method less that of each rival, with paired intervals."""
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
    """APGR of every method less that of each rival, with paired intervals."""
    rows = len(next(iter(rankings.values())).weak)
    draws = np.random.default_rng(0).integers(0, rows, (1000, rows))
    counts = [np.bincount(chosen, minlength=rows) for chosen in (np.arange(rows), *draws)]
    values: dict[str, np.ndarray] = {}
    for name, one in rankings.items():
        order = np.argsort(-one.score, kind="stable")
        chosen = (order.repeat(count[order]) for count in counts)  # already by score: quick to sort
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
        kind = "cells" if fraction == 1.0 else f"cells-{fraction:g}"
        for fold in range(5):
            part, readouts, rows = fold_task(table, name, fold, study, fraction)
            for method in CURVE:
                one = cell(part, readouts, name, method, fold, study, strong, kind)
                played.setdefault(method, []).append((rows[part.split == "test"], one))
        whole = {method: _whole(len(table), parts) for method, parts in played.items()}
        points = {method: Points(cost=one.cost, quality=one.quality) for method, one in whole.items()}
        facts = frontier_facts(points, singles)
        found[f"{fraction:g}"] = {method: facts[method]["aiq"] for method in points}
    return found


def price_study(table: OutcomeTable, name: str, study: Study, draws: int = 3, weight: float = 0.1) -> Any:
    """Utility at new prices of a policy told them, of one trained on them, and of one left as it was.

    New prices are the old times 4 ** u, u even between -1 and 1, drawn for each expert.
    """
    kept = study.out / "prices.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    objective = Objective(compute_weight=weight)
    method = find_method("priced_pg")
    settings = method.settings()
    utility: Mapping[str, np.ndarray] = {
        label: np.zeros((draws, len(table))) for label in ("left as it was", "repriced", "retrained")
    }
    for fold in range(5):
        part, readouts, rows = fold_task(table, name, fold, study)
        task = replace(learning_task(part, readouts, fold, 0), objective=objective)
        old = method.fit(task, settings, Run(seed=fold))
        for draw in range(draws):
            rng = np.random.default_rng(100 * fold + draw)
            new = replace(
                part, cost=part.cost * 4.0 ** rng.uniform(-1, 1, len(part.experts)).astype(np.float32)
            )
            fresh = replace(learning_task(new, readouts, fold, 0), objective=objective, scale=task.scale)
            told = old.repriced((fresh.train.cost.mean(axis=0, dtype=float) / task.scale).tolist())
            trained = method.fit(fresh, settings, Run(seed=fold))
            for label, router in (("left as it was", old), ("repriced", told), ("retrained", trained)):
                at = router.at(compute_weight=weight)
                earned = measure(at, new.part("test"), objective, task.scale).utility
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
