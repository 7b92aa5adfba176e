"""RL routers against gates on outcome tables of real language models.

    python benchmarks/real_tables.py FOLDER --out runs/real_tables

FOLDER holds Parquet outcome tables with `prompt`, `group` and `fold`. Folds 0 to 2 train, 3 validates, 4
tests. Every method uses the same features: TF-IDF of words and of characters, each reduced on the training
rows (truncated SVD), the group one-hot, and the prompt's length. Prints Markdown and writes
`real_tables.json`; an interrupted run resumes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
from rich.console import Console
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import OneHotEncoder

from experts import InputError, OutcomeTable
from experts.io.atomic import write_json
from router_rl import Objective, RoutingProblem, compare
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

TABLES = ("zeroeval_pool27", "llmrouter_pool9", "routellm_mmlu", "routellm_gsm8k", "llmdrift_math")
METHODS = [
    *("router_ppo", "exact_pg", "warm_exact_pg", "conditioned_pg"),
    *("softmax_gate", "straight_through_gate", "em_gate", "ridge", "knn", "group_label"),
]
WEIGHTS = (0.02, 0.1, 0.4)
PARTS = np.array(["train", "train", "train", "validation", "test"])


def main(
    data: Path,
    out: Path = Path("runs/real_tables"),
    tables: tuple[str, ...] = TABLES,
    seeds: int = 5,
    n_trials: int = 4,
    jobs: int = 2,
) -> None:
    """Compare on each table.

    Args:
        data: folder of the tables.
        out: folder for reports and JSON.
        tables: file names without `.parquet`.
        seeds: training seeds for each method.
        n_trials: hyperparameter settings tried for each method and weight, chosen on validation.
        jobs: processes.
    """
    err = Console(stderr=True)
    found: dict[str, Any] = {}
    for name in tables:
        try:
            table = featurised(OutcomeTable.read(data / f"{name}.parquet"))
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        with progress_of(f"fits of {name}", err) as progress:
            problem = RoutingProblem(table, [Objective(compute_weight=weight) for weight in WEIGHTS])
            found[name] = compare(
                problem,
                METHODS,
                seeds=seeds,
                n_trials=n_trials,
                out=out / name,
                jobs=jobs,
                command="python benchmarks/real_tables.py",
                progress=progress,
            ).results
        print(markdown(found[name], name), flush=True)
    write_json(out / "real_tables.json", found)


def featurised(table: OutcomeTable, seed: int = 0) -> OutcomeTable:
    """The table split by its folds, with features of the prompts fitted on its training rows.

    Raises:
        InputError: the table lacks what the features or the split are made of.
    """
    if table.prompt is None or table.group is None or table.fold is None:
        raise InputError("table", table.source, "lacks prompt, group or fold", "use a table that has them")
    split = PARTS[table.fold]
    train = split == "train"
    parts: list[np.ndarray] = [np.log1p([[len(prompt)] for prompt in table.prompt])]
    for analyzer, ngrams, width in (("word", (1, 2), 48), ("char_wb", (2, 4), 32)):
        text = TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, min_df=3, sublinear_tf=True)
        words = text.fit_transform(table.prompt[train])
        reduced = TruncatedSVD(min(width, words.shape[1] - 1), random_state=seed).fit(words)
        parts.append(reduced.transform(text.transform(table.prompt)))
    group = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit(table.group[train, None])
    parts.append(group.transform(table.group[:, None]))
    features = np.hstack(parts).astype(np.float32)
    notes = tuple(note for note in table.notes if not note.startswith("split:"))
    return replace(table, features=features, split=split, notes=notes)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
