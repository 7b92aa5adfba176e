"""Measure the time to route one prompt, from the text to the chosen expert, compared with scikit-learn.

    python benchmarks/serving.py FOLDER

FOLDER holds Parquet outcome tables with prompts. On each a ridge router with the default features is trained,
exported and loaded again; then test prompts are routed one at a time, with a mask of healthy experts, on one
thread. The baseline is what one would write without this package: the same TF-IDF, truncated SVD and a linear
model as a scikit-learn pipeline, called with one prompt. It does less: it has no out-of-fold predictions,
group or length. Times are CPU time of the thread, which other work on the machine affects little. Prints
Markdown.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.problems.prompt_features import FeatureConfig
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import CircuitBreaker, load_router

TABLES = ("routellm_mmlu", "routellm_gsm8k", "zeroeval_pool27", "llmrouter_pool9")
LIMIT_MS = 1.0


def baseline(table: OutcomeTable, config: FeatureConfig) -> Any:
    """The scikit-learn pipeline from a prompt to every expert's utility."""
    train = table.part("train")
    assert train.prompt is not None
    tfidf = TfidfVectorizer(
        ngram_range=config.ngram_range,
        min_df=config.min_df,
        max_features=config.max_features,
        sublinear_tf=True,
    )
    pipeline: Any = make_pipeline(tfidf, TruncatedSVD(config.dimensions, random_state=0), Ridge())
    return pipeline.fit([str(prompt) for prompt in train.prompt], train.quality)


def milliseconds(route: Callable[[str], object], prompts: Sequence[str]) -> np.ndarray:
    """CPU time [P] of each prompt, after twenty that do not count."""
    for prompt in prompts[:20]:
        route(prompt)
    found: list[float] = []
    for prompt in prompts:
        start = time.thread_time()
        route(prompt)
        found.append(1e3 * (time.thread_time() - start))
    return np.array(found)


def measure(table: OutcomeTable, count: int) -> str:
    """The row of one table."""
    with tempfile.TemporaryDirectory() as folder:
        export(
            fit("ridge", RoutingProblem(table, Objective(compute_weight=0.1)), seed=0),
            Path(folder) / "r",
            rows=table,
        )
        router = load_router(Path(folder) / "r")
    test = table.part("test")
    assert test.prompt is not None
    prompts = [str(prompt) for prompt in test.prompt[:count]]
    breaker = CircuitBreaker(router)
    pipeline = baseline(table, FeatureConfig())
    ours = milliseconds(lambda prompt: router.route(prompt, action_mask=breaker.mask()), prompts)
    theirs = milliseconds(lambda prompt: pipeline.predict([prompt]).argmax(), prompts)
    characters = np.median([len(prompt) for prompt in prompts])
    cells = [
        f"{len(router.experts)}",
        f"{characters:.0f}",
        *(f"{np.quantile(ours, q):.3f}" for q in (0.5, 0.99)),
        *(f"{np.quantile(theirs, q):.3f}" for q in (0.5, 0.99)),
        f"{np.median(theirs) / np.median(ours):.1f}",
        "yes" if np.median(ours) < LIMIT_MS else "no",
        "yes" if np.quantile(ours, 0.99) < LIMIT_MS else "no",
    ]
    return " | ".join(cells)


def main(data: Path, tables: tuple[str, ...] = TABLES, prompts: int = 500) -> None:
    """Measure on each table.

    Args:
        data: folder of the tables.
        tables: file names without `.parquet`.
        prompts: test prompts routed, at most.
    """
    torch.set_num_threads(1)
    print(f"`python benchmarks/serving.py`, {platform.machine()}, torch {torch.__version__}, one thread\n")
    print("| table | experts | characters | ours, ms | p99 | scikit-learn, ms | p99 | ratio | < 1 ms | p99 |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---|---|")
    for name in tables:
        table = OutcomeTable.read(data / f"{name}.parquet", progress=False)
        print(f"| `{name}` | {measure(table, prompts)} |", flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
