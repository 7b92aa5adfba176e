"""Cascades: one learned policy for all compute weights against tuned cascades, routers and bounds.

    python benchmarks/cascade.py --out runs/cascade
    python benchmarks/cascade.py --data FOLDER --out runs/cascade

Every table is compared twice: with query features, and without them, so that decisions depend on the answers
alone (the setting of threshold cascades). All methods use the same calibrated beliefs, cross-fitted on
training and validation rows. Prints Markdown; an interrupted run resumes.

With FOLDER the table is `llmdrift_math.parquet`, the only table of language models there whose answers are
known. It has no confidences; the length of the answer stands in, as a rank among the model's answers to
training questions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonargparse
import numpy as np
import pyarrow.parquet as pq
import torch
from real_tables import split_by_fold
from rich.console import Console

from experts import InputError, open_table
from router_rl import CascadeProblem, Objective, compare
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of


def main(
    data: Path | None = None,
    out: Path = Path("runs/cascade"),
    tables: tuple[str, ...] = ("digits", "fashion-mnist"),
    methods: tuple[str, ...] = (
        *("exact_pg", "fitted_q", "thresholds", "automix", "lookahead"),
        *("softmax_gate", "warm_exact_pg", "best_single", "random", "oracle"),
    ),
    weights: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4),
    views: tuple[bool, ...] = (True, False),
    seeds: int = 5,
    n_trials: int = 1,
) -> None:
    """Compare on each table.

    Args:
        data: folder of `llmdrift_math.parquet`, which is then the table.
        out: folder for reports, JSON and finished fits.
        tables: embedded sources or Parquet paths, with confidences.
        methods: see `train_router.py list`.
        weights: compute weights.
        views: whether query features are used; both in turn.
        seeds: training seeds for each method.
        n_trials: hyperparameter settings tried for each method, chosen on validation.
    """
    torch.set_num_threads(1)
    err = Console(stderr=True)
    for table in tables if data is None else [str(_llmdrift(data, out))]:
        for features in views:
            title = Path(table).stem + ("" if features else ", without query features")
            try:
                with progress_of(f"fits of {title}", err) as progress:
                    objectives = [Objective(compute_weight=weight) for weight in weights]
                    problem = CascadeProblem(open_table(table), objectives, use_features=features)
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


def _llmdrift(data: Path, out: Path) -> Path:
    """Features of the prompts, the models' answers as classes, and the ranks of their lengths."""
    path, source = out / "llmdrift.parquet", data / "llmdrift_math.parquet"
    if path.exists():
        return path
    table = split_by_fold(open_table(source))
    read = pq.read_table(source, columns=["reference", *(f"answer/{name}" for name in table.experts)])
    said = np.stack([read[name].to_numpy(zero_copy_only=False) for name in read.column_names], axis=1)
    # A class an answer, numbered within the row; the reference is the first.
    classes = np.stack([(row[:, None] == row).argmax(axis=1) for row in said.astype(str)])
    assert table.tokens_out is not None
    train = np.sort(table.tokens_out[table.split == "train"], axis=0)
    below = [np.searchsorted(own, length) for own, length in zip(train.T, table.tokens_out.T, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    replace(
        table,
        probabilities=np.eye(said.shape[1], dtype=np.float32)[classes[:, 1:]],
        label=classes[:, 0],
        confidence=(np.stack(below, axis=1) + 0.5) / (len(train) + 1.0),
        extra=None,
    ).write(path)
    return path


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
