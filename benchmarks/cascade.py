"""Cascades: learned policies against tuned cascades, votes, routers and bounds.

    python benchmarks/cascade.py --out runs/cascade
    python benchmarks/cascade.py --data FOLDER --tables '["llmdrift_math","llmdrift_math+length-ranks"]'

By default the query is hidden, so that decisions depend on the answers alone (the setting of threshold
cascades). All methods use the same calibrated beliefs, cross-fitted on training and validation rows. Prints
Markdown; an interrupted run resumes.

Tables of language models are read from FOLDER. They have answers and no confidences, so what a cascade
observes is which answers agree; with `+length-ranks` the rank of an answer's length is its confidence. Of
`mmlupro_pool22` folds 0 and 1 train, 2 validates and 3 tests; a part of fold 4 is sealed
(docs/benchmarks/sealed.md) and is tested on as `mmlupro_pool22+sealed` alone. `digits` and `fashion-mnist`
with `+follow-ups` have two further samples and a verifier of the cheap expert's answer.
"""

from __future__ import annotations

from pathlib import Path

import jsonargparse
import torch
from cascade_tables import answers_alone, sealed_answers, with_follow_ups, with_length_ranks
from overview import overview
from rich.console import Console

from experts import InputError, OutcomeTable, open_table
from router_rl import CascadeProblem, Objective, compare
from router_rl.reports.terminal import progress_of

WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.4)
SUFFIXES = ("", "follow-ups", "length-ranks", "sealed")
METHODS = (
    *("exact_pg", "router_ppo", "reinforce", "ppo"),
    *("thresholds", "cascade_routing", "adaptive_consistency", "automix", "lookahead", "kernel"),
)


def main(
    data: Path | None = None,
    out: Path = Path("runs/cascade"),
    tables: tuple[str, ...] = ("digits", "fashion-mnist"),
    methods: tuple[str, ...] = METHODS,
    views: tuple[bool, ...] = (False,),
    agreement: bool = True,
    seeds: int = 5,
) -> None:
    """Compare on each table.

    Args:
        data: folder of tables of language models, if `tables` names any.
        out: folder for reports, JSON and finished fits.
        tables: embedded sources or files in `data` without `.parquet`, with a suffix or without.
        methods: see `train_router.py list`.
        views: whether query features are used; several in turn.
        agreement: whether the agreement of answers moves the beliefs of all methods.
        seeds: training seeds for each method.
    """
    torch.set_num_threads(1)
    err = Console(stderr=True)
    for name in tables:
        for features in views:
            title = f"{name}, the query {'seen' if features else 'hidden'}"
            title += "" if agreement else ", confidences alone"
            try:
                with progress_of(f"fits of {title}", err) as progress:
                    problem = CascadeProblem(
                        _table(name, data),
                        [Objective(compute_weight=weight) for weight in WEIGHTS],
                        use_features=features,
                        agreement_beliefs=agreement,
                    )
                    folder = out / title.replace(", ", "-").replace(" ", "-")
                    study = compare(
                        problem, list(methods), seeds=seeds, n_trials=1, out=folder, progress=progress
                    )
            except InputError as error:
                err.print(f"{title}: not run: {error}")
                continue
            print("\n".join([f"### {title}", "", *overview(study.results), ""]), flush=True)


def _table(name: str, data: Path | None) -> OutcomeTable:
    """Return a table by its name and suffix.

    Raises:
        InputError: the suffix is unknown.
    """
    name, _, suffix = name.partition("+")
    if suffix not in SUFFIXES:
        known = ", ".join(f"+{each}" for each in SUFFIXES if each)
        raise InputError(
            "tables", f"{name}+{suffix}", "has an unknown suffix", f"use none, or one of {known}"
        )
    if suffix == "follow-ups":
        return with_follow_ups(name)
    if data is None:
        return open_table(name)
    path = data / f"{name}.parquet"
    if suffix == "sealed":
        return sealed_answers(path)
    table = answers_alone(path)
    return with_length_ranks(table) if suffix == "length-ranks" else table


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
