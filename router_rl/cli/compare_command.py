"""`compare`: methods on one table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from experts import InputError, open_table

from ..problems.logged_feedback import LogConfig
from ..problems.objective import Objective
from ..problems.prompt_features import FeatureConfig, with_features
from ..problems.routing.problem import ScorerConfig
from ..reports.terminal import progress_of
from .values import device_named, names_in, numbers_in

__all__ = ["compare"]

err = Console(stderr=True)

_METHODS = "ppo,a2c,softmax_gate,switch_gate,ridge"


def compare(
    *,
    table: str | None = None,
    out: Path,
    env: str | None = None,
    options: dict[str, Any] | None = None,
    methods: list[str] | str | None = None,
    compute_weights: list[float] | float | str = "0.02,0.1,0.4",
    load_weight: float = 0.0,
    window: int = 256,
    budget: float | None = None,
    limit: float | None = None,
    select: str = "hard",
    k: int = 2,
    tree: dict[str, Any] | None = None,
    scorer: ScorerConfig = ScorerConfig(),  # noqa: B008
    observe_load: bool | None = None,
    feedback: str = "full",
    log: LogConfig = LogConfig(),  # noqa: B008
    features: FeatureConfig = FeatureConfig(),  # noqa: B008
    seeds: int = 5,
    tries: int = 4,
    jobs: int = 1,
    device: str = "cpu",
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Compare methods on one table: same rows, same number of tries, same seeds, intervals always.

    Args:
        table: a Parquet file or an embedded source's name.
        out: folder for results.json, report.html and TensorBoard curves; a stopped comparison goes on.
        env: an environment whose decisions have consequences, see `list`; null: one choice a query. With it
            only table, out, options, methods, compute_weights, seeds and tries are read.
        options: of that environment, such as --options.limit 2.
        methods: names with commas, see `list`; random, best_single, zero_router and oracle are always in.
        compute_weights: numbers with commas.
        load_weight: utility per unit of load.
        window: decisions over which load is settled.
        budget: the most compute a decision may take on average, in place of the compute weights; the dearest
            expert takes 1.
        limit: the most compute an expert may take on average to be chosen at all.
        select: selection rule, see `list`.
        k: experts a decision runs (topk) or may run (adaptive_k).
        tree: for hierarchical, such as {"general": ["a"], "coding": ["b", "c"]}; null: grown from the data.
        scorer: the shape of the routers' network.
        observe_load: whether stateful learners see the window's load; null: where it is charged for.
        feedback: full, or bandit: of each training and validation query one expert's outcome is known.
        log: how that expert was chosen; read under bandit feedback.
        features: made of the prompts where the table has no features.
        seeds: training seeds 0, 1, ...
        tries: settings tried for each method and weight, chosen on validation.
        jobs: processes.
        device: such as cpu or cuda.
        allow_leakage: accept a prompt that stands in two splits; every output then says so.
    """
    from ..studies.compare import compare as compare_methods

    command = "train_router.py " + shlex.join(sys.argv[1:])
    if env is not None:
        from ..studies.env_compare import compare_env

        names = None if methods is None else names_in(methods)
        with progress_of("fits", err) as progress:
            found = compare_env(
                env,
                names,
                table=table,
                options=options,
                seeds=seeds,
                tries=tries,
                out=out,
                command=command,
                progress=progress,
            )
        return {**found, "out": str(out)}
    if table is None:
        raise InputError("table", None, "there is nothing to compare on", "give --table, or --env")
    weights = (
        numbers_in("compute_weights", compute_weights) if budget is None else [Objective().compute_weight]
    )
    objectives = [
        Objective(compute_weight=weight, load_weight=load_weight, window=window, budget=budget, limit=limit)
        for weight in weights
    ]
    rows, _, readouts = with_features(
        open_table(table, allow_leakage=allow_leakage), features, feedback=feedback
    )
    with progress_of("fits", err) as progress:
        results = compare_methods(
            rows,
            names_in(_METHODS if methods is None else methods),
            objectives=objectives,
            seeds=seeds,
            tries=tries,
            select=select,
            k=k,
            tree=tree,
            scorer=scorer,
            observe_load=observe_load,
            feedback=feedback,
            log=log,
            readouts=readouts,
            out=out,
            jobs=jobs,
            device=device_named(device),
            command=command,
            progress=progress,
        )
    return {**results, "out": str(out)}
