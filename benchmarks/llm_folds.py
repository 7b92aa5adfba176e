"""The folds of a table of language models' outcomes: features, splits and what a router learns from."""

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

FEATURES = FeatureConfig(analyzer="both")
err = Console(stderr=True)


class Study(NamedTuple):
    """What all of a table's fits share.

    Attributes:
        out: folder of what is finished.
        tries: settings tried for each trained method.
        vectors: [T, D] float32, a sentence encoder's; D is 0 without one.
        encoder: its name, or nothing.
    """

    out: Path
    tries: int
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


def fold_task(
    table: OutcomeTable, name: str, fold: int, study: Study, fraction: float = 1.0
) -> tuple[Any, ...]:
    """Table with features and split for one fold, the readouts of the rows not tested, and its rows.

    Features see the training and the validation rows, each out of fold, and never the test rows.
    """
    assert table.fold is not None
    others = np.flatnonzero(table.fold != fold)
    kept = np.random.default_rng(fold).permutation(others)[: max(40, round(fraction * len(others)))]
    rows = np.sort(np.concatenate([kept, np.flatnonzero(table.fold == fold)]))
    part = replace(table.take(rows), notes=())
    assert part.fold is not None
    seen = np.where(part.fold == fold, "test", "train").astype("U10")
    cached = study.out / "features" / f"{name}-{fold}-{fraction:g}-readouts.npz"
    if not cached.is_file():
        made, _, readouts = with_features(replace(part, split=seen), FEATURES)
        assert readouts is not None
        assert made.features is not None
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as temporary, temporary.open("wb") as stream:
            columns, fold_of = np.array(readouts.columns), readouts.fold
            np.savez(stream, features=made.features, columns=columns, fold=fold_of, without=readouts.without)
    with np.load(cached, allow_pickle=False) as read:
        columns = tuple(tuple(group) for group in read["columns"].tolist())
        readouts = OutOfFold(columns=columns, fold=read["fold"], without=read["without"])
        features = read["features"]
    features = np.hstack([features, study.vectors[rows]])
    return replace(part, features=features, split=watching(part.fold, fold, 1)), readouts, rows


def watching(fold: np.ndarray, test: int, turn: int) -> np.ndarray:
    """The split of a fold where the one `turn` after it validates; no one, and all train, at turn 0."""
    split = np.where(fold == test, "test", "train").astype("U10")
    return split if turn == 0 else np.where(fold == (test + turn) % 5, "validation", split).astype("U10")


def learning_task(part: OutcomeTable, readouts: Readouts, fold: int, turn: int) -> RoutingProblem:
    """The fold's task, the fold `turn` after it validating; at 0 the next one does, and is trained on too."""
    assert part.fold is not None
    split = watching(part.fold, fold, turn)
    table = replace(part, split=watching(part.fold, fold, 1) if turn == 0 else split)
    shape = ScorerConfig(kind="linear")
    if turn:
        readouts = readouts.take(np.flatnonzero(split[part.fold != fold] == "train"))
    task = RoutingProblem(table, Objective(compute_weight=0.1), Hard(), scorer=shape, out_of_fold=readouts)
    if turn == 0:
        rows = part.take(split == "train")
        task = task.replaced(train=rows, logged=rows)
    return task
