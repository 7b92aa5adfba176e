"""The folds of a table of language models' outcomes: features, splits and problems."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from experts import OutcomeTable
from experts.io.atomic import replacing
from router_rl import Objective, ScorerConfig
from router_rl.problems.out_of_fold import OutOfFold
from router_rl.problems.prompt_features import FeatureConfig, with_features
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard
from router_rl.routing.embedding import Embedding

FEATURES = FeatureConfig(analyzer="both", group=True)
err = Console(stderr=True)


class Study(NamedTuple):
    """What all fits of a table share.

    Attributes:
        out: folder of finished fits.
        n_trials: hyperparameter settings tried for each trained method.
        vectors: [T, D] float32, of a sentence encoder; D is 0 without one.
        encoder: its path; empty without one.
    """

    out: Path
    n_trials: int
    vectors: np.ndarray
    encoder: str


def embedded(table: OutcomeTable, name: str, out: Path, encoder: Path | None) -> np.ndarray:
    """The encoder's vectors [T, D] float32 of a table's prompts; made once, then read."""
    assert table.prompt is not None
    if encoder is None:
        return np.zeros((len(table), 0), dtype=np.float32)
    kept = out / "features" / f"{name}-{hashlib.sha256(str(encoder).encode()).hexdigest()[:12]}.npz"
    if not kept.is_file():
        err.print(f"{name}: embedding {len(table)} prompts")
        encode = Embedding(path=encoder, size=0)  # the width is the encoder's own
        prompts = [str(prompt) for prompt in table.prompt]
        order = np.argsort([len(prompt) for prompt in prompts])  # alike in length: little padding
        vectors = encode([prompts[row] for row in order], None).numpy()
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary, temporary.open("wb") as stream:
            np.savez(stream, vectors=vectors[np.argsort(order)])
    with np.load(kept, allow_pickle=False) as read:
        return read["vectors"]


def fold_table(
    table: OutcomeTable, name: str, fold: int, study: Study, fraction: float = 1.0
) -> tuple[Any, ...]:
    """The table of one fold with features and split, its out-of-fold predictions, and its row numbers.

    Features are fitted to the training and validation rows, each out of fold, and never to the test rows.
    """
    assert table.fold is not None
    others = np.flatnonzero(table.fold != fold)
    kept = np.random.default_rng(fold).permutation(others)[: max(40, round(fraction * len(others)))]
    rows = np.sort(np.concatenate([kept, np.flatnonzero(table.fold == fold)]))
    part = replace(table.take(rows), notes=())
    assert part.fold is not None
    seen = np.where(part.fold == fold, "test", "train").astype("U10")
    cached = study.out / "features" / f"{name}-{fold}-{fraction:g}-out-of-fold.npz"
    if not cached.is_file():
        made, _, predictions = with_features(replace(part, split=seen), FEATURES)
        assert predictions is not None
        assert made.features is not None
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                features=made.features,
                columns=np.array(predictions.columns),
                fold=predictions.fold,
                without=predictions.without,
            )
    with np.load(cached, allow_pickle=False) as read:
        columns = tuple(tuple(group) for group in read["columns"].tolist())
        predictions = OutOfFold(columns=columns, fold=read["fold"], without=read["without"])
        features = read["features"]
    features = np.hstack([features, study.vectors[rows]])
    return replace(part, features=features, split=split_of(part.fold, fold, 1)), predictions, rows


def split_of(fold: np.ndarray, test: int, turn: int) -> np.ndarray:
    """The split in which the fold `turn` after the test fold validates; at turn 0 all other folds train."""
    split = np.where(fold == test, "test", "train").astype("U10")
    return split if turn == 0 else np.where(fold == (test + turn) % 5, "validation", split).astype("U10")


def fold_problem(part: OutcomeTable, predictions: OutOfFold, fold: int, turn: int) -> RoutingProblem:
    """The problem in which the fold `turn` after the test fold validates.

    At turn 0 the next fold validates and is trained on too.
    """
    assert part.fold is not None
    split = split_of(part.fold, fold, turn)
    table = replace(part, split=split_of(part.fold, fold, 1) if turn == 0 else split)
    shape = ScorerConfig(kind="linear")
    if turn:
        predictions = predictions.take(np.flatnonzero(split[part.fold != fold] == "train"))
    objective = Objective(compute_weight=0.1)
    problem = RoutingProblem(table, objective, Hard(), scorer=shape, out_of_fold=predictions)
    if turn == 0:
        rows = part.take(split == "train")
        problem = problem.replaced(train=rows, logged=rows)
    return problem
