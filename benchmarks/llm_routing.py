"""Routers between language models against the floors of each table, out of fold, with intervals.

    python benchmarks/llm_routing.py FOLDER --out runs/llm_routing

FOLDER holds Parquet outcome tables with `prompt`, `group` and `fold`. Each fold is the test set once; of the
other four one validates. Features are made of the four (of each row out of fold) and are the same for every
method; every trained scorer is linear. Fold k trains with seed k. Methods that need a fit for each compute
weight have three; those that need one for all are read off at twenty-five, as the floors are. Prints Markdown
and writes `llm_routing.json`; a stopped benchmark goes on where it was.

The floors: `group` takes the mean quality on the query's group, `text ridge` a ridge regression on TF-IDF,
`ridge+group` the mean of the two; each less a price times the expert's mean cost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from rich.console import Console

from experts import OutcomeTable
from experts.atomic import replacing, write_json
from router_rl import Objective, ScorerConfig
from router_rl.evaluation.frontier import Points, Ranking, frontier_facts, ranking_facts, resampled_means
from router_rl.evaluation.measure import measure
from router_rl.evaluation.metrics import aiq, apgr
from router_rl.features import with_features
from router_rl.method import Run
from router_rl.methods import find_method
from router_rl.routing import Hard, Router
from router_rl.task import Task

TABLES = (
    "routellm_gsm8k",
    "zeroeval_pool27",
    "routellm_mtbench",
    "llmrouter_pool9",
    "llmdrift_math",
    "routellm_mmlu",
)
ONE_FIT = ("priced_pg", "conditioned_pg")
EVERY = ("warm_exact_pg", "exact_pg", "softmax_gate", "ridge", "knn", "group_label")
FLOORS = ("group", "text ridge", "ridge+group")
WEIGHTS = (0.02, 0.2, 1.0)
GRID = (0.0, *np.geomspace(0.003, 8.0, 24).tolist())
PUBLISHED = {"routellm_mmlu": 0.603, "routellm_gsm8k": 0.622, "routellm_mtbench": 0.802}
FRACTIONS = (0.125, 0.25, 0.5, 1.0)
err = Console(stderr=True)


def main(
    data: Path,
    out: Path = Path("runs/llm_routing"),
    tables: tuple[str, ...] = TABLES,
    methods: tuple[str, ...] = (*ONE_FIT, *EVERY),
    tries: int = 2,
    curves: bool = True,
    prices: bool = True,
) -> None:
    """Compare on each table and print.

    Args:
        data: folder of the tables.
        out: folder for features, finished fits and JSON.
        tables: file names without `.parquet`.
        methods: trained ones; the floors, Zero and the oracle are always there.
        tries: settings tried for each method, chosen on validation.
        curves: whether to add learning curves of the best RL router and the best floor.
        prices: whether to add the study of changed prices.
    """
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in tables:
        path = data / f"{name}.parquet"
        if not path.is_file():
            err.print(f"{name}: not run: {path} is absent")
            continue
        table = OutcomeTable.read(path, progress=False)
        found[name] = compared(table, name, out, methods, tries)
        print(shown(name, found[name]), flush=True)
        if curves:
            found[name]["curve"] = learning_curve(table, name, out)
            print(curve_shown(found[name]["curve"]), flush=True)
    if prices and (data / "zeroeval_pool27.parquet").is_file():
        table = OutcomeTable.read(data / "zeroeval_pool27.parquet", progress=False)
        found["prices"] = price_study(table, "zeroeval_pool27", out)
        print(prices_shown(found["prices"]), flush=True)
    write_json(out / "llm_routing.json", found)


def fold_task(table: OutcomeTable, name: str, fold: int, out: Path, fraction: float = 1.0) -> tuple[Any, ...]:
    """Table with features and split for one fold, and the columns of its readouts.

    Features see the training and the validation rows, each out of fold, and never the test rows.
    """
    assert table.fold is not None
    others = np.flatnonzero(table.fold != fold)
    kept = np.random.default_rng(fold).permutation(others)[: max(40, round(fraction * len(others)))]
    rows = np.sort(np.concatenate([kept, np.flatnonzero(table.fold == fold)]))
    part = replace(table.take(rows), notes=())
    assert part.fold is not None
    seen = np.where(part.fold == fold, "test", "train").astype("U10")
    split = np.where(part.fold == (fold + 1) % 5, "validation", seen).astype("U10")
    cached = out / "features" / f"{name}-{fold}-{fraction:g}.npz"
    if not cached.is_file():
        made, text = with_features(replace(part, split=seen))
        assert text is not None
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as temporary, temporary.open("wb") as stream:
            np.savez(stream, features=made.features, readouts=np.array(text.readouts))
    with np.load(cached, allow_pickle=False) as kept_features:
        features, readouts = kept_features["features"], kept_features["readouts"].tolist()
    return replace(part, features=features, split=split), readouts, rows


def compared(table: OutcomeTable, name: str, out: Path, methods: Sequence[str], tries: int) -> dict[str, Any]:
    """Every method's operating points on every query, out of fold, and what they are worth."""
    cost: dict[str, np.ndarray] = {}
    quality: dict[str, np.ndarray] = {}
    score: dict[str, np.ndarray] = {}
    strong = int(table.quality.mean(axis=0, dtype=float).argmax())
    for fold in range(5):
        part, readouts, rows = fold_task(table, name, fold, out)
        test = rows[part.split == "test"]
        for method in (*methods, *FLOORS, "oracle"):
            spent, earned, preferred = cell(part, readouts, name, method, fold, out, tries, strong)
            for kept, value in ((cost, spent), (quality, earned)):
                kept.setdefault(method, np.zeros((len(table), value.shape[1])))[test] = value
            score.setdefault(method, np.zeros(len(table)))[test] = preferred
        err.print(f"{name}: fold {fold} done")
    singles = Points(cost=table.cost.astype(float), quality=table.quality.astype(float))
    points = {method: Points(cost=cost[method], quality=quality[method]) for method in cost}
    facts = frontier_facts({**points, "zero_router": singles}, singles, cost_unit="usd")
    found: dict[str, Any] = {"facts": facts, "published": PUBLISHED.get(name)}
    if len(table.experts) == 2:
        weak = table.quality[:, 1 - strong].astype(float)
        rankings = {
            method: Ranking(weak=weak, strong=table.quality[:, strong].astype(float), score=values)
            for method, values in score.items()
            if method != "oracle"
        }
        for method, ranked in ranking_facts({name: [one] for name, one in rankings.items()}).items():
            facts[method] |= ranked
        found["apgr_less_floor"] = apgr_differences(rankings)
    found["aiq_less_floor"] = aiq_differences(points, singles)
    return found


def cell(
    part: OutcomeTable,
    readouts: list[list[int]],
    name: str,
    method: str,
    fold: int,
    out: Path,
    tries: int,
    strong: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost and quality [T, P] of one method on a fold's test rows, and its preference [T] for one expert."""
    key = hashlib.sha256(json.dumps([name, method, fold, tries, GRID, WEIGHTS]).encode()).hexdigest()[:12]
    kept = out / "cells" / f"{name}-{fold}-{method.replace(' ', '_')}-{key}.npz"
    if not kept.is_file():
        if method in FLOORS:
            found = _floor(part, readouts, method, strong)
        elif method == "oracle":
            found = _oracle(part)
        else:
            found = _learned(part, readouts, method, fold, tries, strong)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary, temporary.open("wb") as stream:
            np.savez(stream, cost=found[0], quality=found[1], score=found[2])
    with np.load(kept, allow_pickle=False) as read:
        return read["cost"], read["quality"], read["score"]


def worth(part: OutcomeTable, readouts: list[list[int]], floor: str) -> np.ndarray:
    """What a floor thinks the test rows' experts are worth, [T, N]."""
    assert part.features is not None
    text, group = (part.features[part.split == "test"][:, columns] for columns in readouts)
    return {"group": group, "text ridge": text, "ridge+group": (text + group) / 2.0}[floor]


def _floor(part: OutcomeTable, readouts: list[list[int]], floor: str, strong: int) -> Any:
    test = part.part("test")
    price = part.cost[part.split != "test"].mean(axis=0, dtype=float)
    said = worth(part, readouts, floor)
    row = np.arange(len(test))
    chosen = [(said - weight * price / price.max()).argmax(axis=1) for weight in GRID]
    cost = np.stack([test.cost[row, choice] for choice in chosen], axis=1)
    quality = np.stack([test.quality[row, choice] for choice in chosen], axis=1)
    other = 1 - strong if said.shape[1] == 2 else 0
    return cost, quality, said[:, strong] - said[:, other]


def _oracle(part: OutcomeTable) -> Any:
    test = part.part("test")
    scale, row = test.cost.mean(axis=0, dtype=float).max(), np.arange(len(test))
    chosen = [(test.quality - max(weight, 1e-6) * test.cost / scale).argmax(axis=1) for weight in GRID]
    cost = np.stack([test.cost[row, choice] for choice in chosen], axis=1)
    quality = np.stack([test.quality[row, choice] for choice in chosen], axis=1)
    return cost, quality, np.zeros(len(test))


def _learned(
    part: OutcomeTable, readouts: list[list[int]], name: str, fold: int, tries: int, strong: int
) -> Any:
    method = find_method(name)
    weights = GRID if name in ONE_FIT else WEIGHTS
    objectives = [Objective(compute_weight=weight) for weight in weights]
    task = Task.of(part, objectives[1], Hard(), scorer=ScorerConfig(kind="linear"), readouts=readouts)
    test = part.part("test")
    cost: list[np.ndarray] = []
    quality: list[np.ndarray] = []
    score = np.zeros(len(test))
    routers = _at_every_weight(method, task, objectives, fold, tries)
    middle = 0 if name in ONE_FIT else len(objectives) // 2
    for index, (router, objective) in enumerate(zip(routers, objectives, strict=True)):
        found = measure(router, test, objective, task.scale, seed=fold)
        cost.append(found.compute.astype(float) * task.scale)
        quality.append(found.quality.astype(float))
        if index == middle and len(part.experts) == 2:
            score = _preference(router, test, strong)
    return np.stack(cost, axis=1), np.stack(quality, axis=1), score


def _at_every_weight(
    method: Any, task: Task, objectives: Sequence[Objective], seed: int, tries: int
) -> list[Router]:
    """A router for each objective; settings chosen on the validation rows."""
    candidates = method.candidates(tries)
    if method.over is not None:
        judged = [Objective(compute_weight=weight) for weight in WEIGHTS]
        fits = [method.fit(task, method.over(settings, judged), Run(seed=seed)) for settings in candidates]

        def value(router: Router) -> float:
            return float(
                np.mean([_validation(router.at(compute_weight=o.compute_weight), task, o) for o in judged])
            )

        best = max(fits, key=value)
        return [best.at(compute_weight=objective.compute_weight) for objective in objectives]
    routers: list[Router] = []
    for objective in objectives:
        own = task.with_objective(objective)
        fits = [method.fit(own, settings, Run(seed=seed)) for settings in candidates]
        routers.append(max(fits, key=lambda router: _validation(router, own, objective)))
    return routers


def _validation(router: Router, task: Task, objective: Objective) -> float:
    return measure(router, task.validation, objective, task.scale).means()["utility"]


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
    """AIQ of every method less that of each floor, with paired intervals."""
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
    """APGR of every method less that of each floor, with paired intervals."""
    rows = len(next(iter(rankings.values())).weak)
    draws = np.random.default_rng(0).integers(0, rows, (1000, rows))
    chosen = [np.arange(rows), *draws]
    values = {
        name: np.array([apgr(one.weak[r], one.strong[r], one.score[r]) for r in chosen], dtype=float)
        for name, one in rankings.items()
    }
    return _differences(values)


def _differences(values: dict[str, np.ndarray]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, own in values.items():
        for floor in FLOORS:
            if name != floor:
                gap = own - values[floor]
                low, high = np.nanquantile(gap[1:], [0.025, 0.975])
                found.setdefault(name, {})[floor] = {
                    "value": float(gap[0]),
                    "ci95": [float(low), float(high)],
                }
    return found


def learning_curve(table: OutcomeTable, name: str, out: Path) -> dict[str, Any]:
    """AIQ of priced_pg and of the floors by the share of the training rows, mean over folds."""
    found: dict[str, Any] = {}
    counted = out / "curves" / f"{name}.json"
    if counted.is_file():
        return json.loads(counted.read_text())
    strong = int(table.quality.mean(axis=0, dtype=float).argmax())
    singles = Points(cost=table.cost.astype(float), quality=table.quality.astype(float))
    for fraction in FRACTIONS:
        points: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for fold in range(5):
            part, readouts, rows = fold_task(table, name, fold, out, fraction)
            test = rows[part.split == "test"]
            for method in ("priced_pg", "ridge+group", "group"):
                if method in FLOORS:
                    spent, earned, _ = _floor(part, readouts, method, strong)
                else:
                    spent, earned, _ = _learned(part, readouts, method, fold, 1, strong)
                shape = (len(table), spent.shape[1])
                own = points.setdefault(method, (np.zeros(shape), np.zeros(shape)))
                own[0][test], own[1][test] = spent, earned
        frontier = {method: Points(cost=c, quality=q) for method, (c, q) in points.items()}
        facts = frontier_facts(frontier, singles)
        found[f"{fraction:g}"] = {method: facts[method]["aiq"] for method in frontier}
    write_json(counted, found)
    return found


def price_study(table: OutcomeTable, name: str, out: Path, draws: int = 5, weight: float = 0.1) -> Any:
    """Utility at new prices of a policy told them, of one trained on them, and of one left as it was."""
    kept = out / "prices.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    objective = Objective(compute_weight=weight)
    method = find_method("priced_pg")
    utility: dict[str, list[np.ndarray]] = {"left as it was": [], "repriced": [], "retrained": []}
    for fold in range(5):
        part, readouts, _ = fold_task(table, name, fold, out)
        rule, shape = Hard(), ScorerConfig(kind="linear")
        task = Task.of(part, objective, rule, scorer=shape, readouts=readouts)
        settings = method.over(method.settings(), [objective]) if method.over else method.settings()
        old = method.fit(task, settings, Run(seed=fold))
        for draw in range(draws):
            rng = np.random.default_rng(100 * fold + draw)
            changed = part.cost * 4.0 ** rng.uniform(-1, 1, len(part.experts)).astype(np.float32)
            new = replace(part, cost=changed)
            fresh = replace(Task.of(new, objective, rule, scorer=shape, readouts=readouts), scale=task.scale)
            told = old.repriced((fresh.train.cost.mean(axis=0, dtype=float) / task.scale).tolist())
            trained = method.fit(fresh, settings, Run(seed=fold))
            for label, router in (("left as it was", old), ("repriced", told), ("retrained", trained)):
                at = router.at(compute_weight=weight)
                found = measure(at, new.part("test"), objective, task.scale)
                utility[label].append(found.utility.astype(float))
    pooled = {label: np.concatenate(values) for label, values in utility.items()}
    counts = np.random.default_rng(0)
    facts: dict[str, Any] = {}
    for label, values in pooled.items():
        gap = pooled["retrained"] - values
        means = [gap[counts.integers(0, len(gap), len(gap))].mean() for _ in range(1000)]
        low, high = np.quantile(means, [0.025, 0.975])
        facts[label] = {
            "utility": float(values.mean()),
            "regret": float(gap.mean()),
            "ci95": [float(low), float(high)],
        }
    write_json(kept, facts)
    return facts


def shown(name: str, found: dict[str, Any]) -> str:
    """One table's results as Markdown."""
    facts, ranked = found["facts"], "apgr_less_floor" in found
    floor = max(FLOORS, key=lambda each: facts[each]["aiq"]["value"])
    heads = [
        "method",
        "AIQ",
        "less Zero",
        f"less best floor ({floor})",
        "cost saved",
        "quality gained",
        "arena",
    ]
    if ranked:
        best = max(FLOORS, key=lambda each: facts[each]["apgr"]["value"])
        heads += ["APGR", f"less best floor ({best})", "CPT(50)", "CPT(80)"]
    lines = [f"### {name}\n", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for method, one in sorted(facts.items(), key=lambda item: -item[1]["aiq"]["value"]):
        less = found["aiq_less_floor"].get(method, {}).get(floor)
        cells = [f"`{method}`" if method not in FLOORS else method, _interval(one["aiq"])]
        cells += [_interval(one["aiq_above_zero"], sign=True), _interval(less, sign=True)]
        cells += [_interval(one["cost_saved"]), _interval(one["quality_gained"], sign=True)]
        cells += [_interval(one["router_arena"])]
        if ranked:
            gap = found["apgr_less_floor"].get(method, {}).get(best)
            cells += [_interval(one.get("apgr")), _interval(gap, sign=True)]
            cells += [_interval(one.get("cpt50")), _interval(one.get("cpt80"))]
        lines.append(f"| {' | '.join(cells)} |")
    if found["published"] is not None:
        said = (
            f"RouteLLM's best published APGR: {found['published']:.3f}, by routers not trained on this table."
        )
        lines += ["", said]
    return "\n".join(lines) + "\n"


def curve_shown(curve: dict[str, Any]) -> str:
    """A learning curve as Markdown."""
    methods = list(next(iter(curve.values())))
    lines = [f"| share of training rows | {' | '.join(methods)} |", "|---|" + "---:|" * len(methods)]
    for fraction, facts in curve.items():
        lines.append(f"| {fraction} | {' | '.join(_interval(facts[method]) for method in methods)} |")
    return "AIQ by training rows:\n\n" + "\n".join(lines) + "\n"


def prices_shown(facts: dict[str, Any]) -> str:
    """The study of prices as Markdown."""
    lines = ["### Prices changed", "", "| policy | utility | regret to retraining |", "|---|---:|---:|"]
    for label, one in facts.items():
        regret = _interval({"value": one["regret"], "ci95": one["ci95"]}, sign=True)
        lines.append(f"| {label} | {one['utility']:.4f} | {regret} |")
    return "\n".join(lines) + "\n"


def _interval(found: dict[str, Any] | None, sign: bool = False) -> str:
    if found is None:
        return "-"
    plus = "+" if sign else ""
    low, high = found["ci95"]
    return f"{found['value']:{plus}.4f} ({low:{plus}.4f} to {high:{plus}.4f})"


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
