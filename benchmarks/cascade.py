"""Cascades: one learned policy for all compute weights against tuned cascades, routers and bounds.

    python benchmarks/cascade.py --out runs/cascade
    python benchmarks/cascade.py --data FOLDER --tables '["llmdrift_math"]' --out runs/cascade
    python benchmarks/cascade.py --tables '["digits+follow-ups"]' --agreement true --out runs/cascade

Every table is compared twice: with query features, and without them, so that decisions depend on the answers
alone (the setting of threshold cascades). All methods use the same calibrated beliefs, cross-fitted on
training and validation rows. Prints Markdown; an interrupted run resumes.

Tables of language models are read from FOLDER. They have answers and no confidences, so what a cascade
observes is which answers agree. Of `mmlupro_pool22` folds 0 and 1 train, 2 validates and 3 tests; a part of
fold 4 is sealed (docs/benchmarks/sealed.md) and is tested on with `--open_sealed true` alone. `digits` and
`fashion-mnist` with `+follow-ups` have two further samples and a verifier of the cheap expert's answer.
"""

from __future__ import annotations

from pathlib import Path

import cascade_small
import jsonargparse
import torch
from cascade_tables import answers_alone, sealed_answers, with_follow_ups, with_length_ranks
from real_tables import SEALED
from rich.console import Console

from experts import InputError, OutcomeTable, open_table
from router_rl import CascadeProblem, Objective, compare
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

_FOLLOW_UPS = "+follow-ups"


def main(
    data: Path | None = None,
    out: Path = Path("runs/cascade"),
    tables: tuple[str, ...] = ("digits", "fashion-mnist"),
    methods: tuple[str, ...] = (
        *("guarded_pg", "exact_pg", "fitted_q", "thresholds", "automix", "lookahead"),
        *("cascade_routing", "adaptive_consistency", "kernel"),
        *("softmax_gate", "warm_exact_pg", "best_single", "random", "oracle"),
    ),
    weights: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4),
    views: tuple[bool, ...] = (True, False),
    seeds: int = 5,
    n_trials: int = 1,
    agreement: bool | None = None,
    length_ranks: bool = False,
    open_sealed: bool = False,
) -> None:
    """Compare on each table.

    Args:
        data: folder of tables of language models, if `tables` names any.
        out: folder for reports, JSON and finished fits.
        tables: embedded sources, with `+follow-ups` or without, or files in `data` without `.parquet`.
        methods: see `train_router.py list`; also `exact_pg_small`, `fitted_q_small` and `guarded_pg_small`.
        weights: compute weights.
        views: whether query features are used; both in turn.
        seeds: training seeds for each method.
        n_trials: hyperparameter settings tried for each method, chosen on validation.
        agreement: whether the agreement of answers moves the beliefs; by default without confidences alone.
        length_ranks: give language models the rank of the answer's length as confidence.
        open_sealed: test on the sealed rows; note it in docs/benchmarks/sealed.md.
    """
    torch.set_num_threads(1)
    cascade_small.register()
    err = Console(stderr=True)
    for name in tables:
        for features in views:
            title = name.replace(_FOLLOW_UPS, " with follow-ups")
            title += (" with length ranks" if length_ranks else "") + (
                "" if features else ", without query features"
            )
            try:
                with progress_of(f"fits of {title}", err) as progress:
                    table = _table(name, data, open_sealed=open_sealed)
                    problem = CascadeProblem(
                        with_length_ranks(table) if length_ranks else table,
                        [Objective(compute_weight=weight) for weight in weights],
                        use_features=features,
                        agreement_beliefs=agreement,
                    )
                    results = compare(
                        problem,
                        list(methods),
                        seeds=seeds,
                        n_trials=n_trials,
                        out=out / title.replace(", ", "-").replace(" ", "-"),
                        progress=progress,
                    ).results
            except InputError as error:
                err.print(f"{title}: not run: {error}")
                continue
            print(markdown(results, title), flush=True)


def _table(name: str, data: Path | None, *, open_sealed: bool) -> OutcomeTable:
    """Return a table by its name."""
    if name.endswith(_FOLLOW_UPS):
        return with_follow_ups(name.removesuffix(_FOLLOW_UPS))
    if data is None:
        return open_table(name)
    path = data / f"{name}.parquet"
    return sealed_answers(path) if open_sealed and name == SEALED else answers_alone(path)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
