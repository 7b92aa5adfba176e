"""Features of prompts for tables without features: fitted with scikit-learn, exported without it.

Four groups of columns, all fitted to the training rows only:

- *topics*: n-grams with TF-IDF weights, or hashed, reduced by a truncated SVD (latent semantic analysis);
- *out-of-fold predictions* of each expert's quality by a ridge regression on the same n-grams, one column per
expert, fitted to the queries that it answered.
  For training rows they come from regressions that were not fitted to the row (stacking, Wolpert 1992,
  https://doi.org/10.1016/S0893-6080(05)80023-1), so that a router does not overrate them;
- the group: its probabilities inferred from the n-grams, with the mean quality of each expert in expectation
  (`group_inference`); or, where the group is an input, its one-hot with the mean quality of each expert in
  it, shrunk towards the overall mean (out of fold for training rows);
- the length of the prompt, and sentence embeddings if a model is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge

from experts import InputError, OutcomeTable
from experts.table.missing_outcomes import answered_mean

from ..routing import TextFeatures
from ..routing.embedding import Embedding
from ..routing.text import Group, Length, Part, Terms
from .cross_fitting import Fold, fold_numbers, folds_of, twice_held_out
from .feature_config import FeatureConfig
from .group_inference import fit_inferred_group, shrunken_quality
from .ngram_matrix import NgramMatrix
from .out_of_fold import OutOfFold

__all__ = ["FeatureConfig", "Featured", "featurised", "with_features"]

_FOLDS = 5
_CHARACTERS = (1, 3)  # character n-grams of `both`
_PENALTIES = (1.0, 3.0, 10.0, 30.0)


class Featured(NamedTuple):
    """A table with features, and their pipeline.

    Attributes:
        table: the table with features.
        text: pipeline that computes them; None if the table has its own.
        out_of_fold: the out-of-fold predictions among them; None if there are none.
    """

    table: OutcomeTable
    text: TextFeatures | None
    out_of_fold: OutOfFold | None


def with_features(
    table: OutcomeTable, config: FeatureConfig | None = None, seed: int = 0, *, feedback: str = "full"
) -> Featured:
    """Return the table with features: its own, or computed from its prompts, or else from its groups.

    Args:
        table: with a split.
        config: features to compute; the defaults if None.
        seed: random seed of the SVD and the folds.
        feedback: under `bandit`, features that need every expert's outcomes are left out.

    Raises:
        InputError: the table has neither features nor prompts nor groups, or no features are selected.
        RouterError: the embedding model cannot be used.
    """
    if table.features is not None:
        return Featured(table, None, None)
    config = config or FeatureConfig()
    if table.prompt is None:
        config = _of_group(table, config)
    if feedback == "bandit":
        config = replace(config, out_of_fold=False)
    train = np.flatnonzero(table.split == "train")
    if len(train) == 0:
        raise InputError("table", table.source, "has no training rows", "add rows with split train")
    for name, wanted in (("group", config.group), ("infer_group", config.infer_group)):
        if wanted and table.group is None:
            reason = "the table has no groups"
            raise InputError(
                f"problem.features.{name}", True, reason, "leave it out, or add a `group` column"
            )
    parts: list[Part] = []
    own: dict[int, np.ndarray] = {}  # columns of training rows that differ from the part's output
    without: list[np.ndarray] = []
    number = fold_numbers(table.take(train), _FOLDS, seed)
    folds = folds_of(number)
    prompts = _prompts(table)
    matrices = [NgramMatrix.of([prompts[row] for row in train], each) for each in _analysed(config)]
    for ngrams in matrices:
        terms, own[len(parts)], away = _terms(table, train, ngrams, folds, seed)
        without.append(away)
        parts.append(terms)
    if config.length:
        parts.append(Length())
    if config.infer_group:
        assert table.group is not None
        quality = table.quality[train].astype(np.float64)
        inferred = fit_inferred_group(
            matrices[0],
            [str(name) for name in table.group[train]],
            quality if config.out_of_fold else quality[:, :0],
            folds,
        )
        if inferred is not None:
            own[len(parts)] = inferred.columns
            without.append(inferred.without)
            parts.append(inferred.part)
    if config.group:
        group, own[len(parts)], away = _group(table, train, config.out_of_fold, folds)
        without.append(away)
        parts.append(group)
    if config.embedding is not None:
        parts.append(_embedding(config.embedding))
    if not parts:
        raise InputError(
            "features", "none", "leaves the router without inputs", "select text, group or length"
        )
    text = TextFeatures(parts)
    computed = featurised(table, text)
    assert computed.features is not None
    features = np.array(computed.features)
    start = 0
    for index, part in enumerate(parts):
        if index in own:
            features[train, start : start + part.size] = own[index]
        start += part.size
    note = f"features: computed from the prompts, {features.shape[1]} columns ({config.text})"
    if table.prompt is None:
        note = f"features: computed from the groups, {features.shape[1]} columns"
    out_of_fold = None
    if text.out_of_fold:
        away = np.concatenate(without, axis=2).astype(np.float32)
        out_of_fold = OutOfFold(columns=text.out_of_fold, fold=number, without=away)
    return Featured(replace(table, features=features, notes=(*table.notes, note)), text, out_of_fold)


def featurised(table: OutcomeTable, text: TextFeatures) -> OutcomeTable:
    """Return the table with features of its prompts, computed by a pipeline as at inference.

    Args:
        table: with prompts.
        text: the pipeline.

    Raises:
        InputError: the table has no prompts, or no groups and the pipeline reads them.
    """
    for name, column in (("prompt", table.prompt), ("group", table.group)):
        if column is None and name in text.inputs:
            reason = f"the router needs {name}s and the table has none"
            raise InputError(name, None, reason, "add the column")
    groups = None if table.group is None else [str(name) for name in table.group]
    features = text(_prompts(table), groups).numpy()
    return replace(table, features=features)


def _of_group(table: OutcomeTable, config: FeatureConfig) -> FeatureConfig:
    """Return the configuration for a table without prompts: the group is the only input.

    Raises:
        InputError: the table has no groups either, or an option needs prompts.
    """
    if table.group is None:
        reason = "has neither features, nor prompts or groups to make them from"
        raise InputError("table", table.source, reason, "add a `features`, `prompt` or `group` column")
    for name, value in (("infer_group", config.infer_group), ("embedding", config.embedding)):
        if value:
            reason = "the table has no prompts"
            raise InputError(
                f"problem.features.{name}", value, reason, "leave it out, or add a `prompt` column"
            )
    return replace(config, text="none", length=False, group=True)


def _prompts(table: OutcomeTable) -> list[str]:
    """Return the prompts; empty ones for a table without prompts, whose features do not read them."""
    return [""] * len(table) if table.prompt is None else [str(prompt) for prompt in table.prompt]


def _analysed(config: FeatureConfig) -> list[FeatureConfig]:
    """Return the configuration of each set of n-grams."""
    if config.text == "none":
        return []
    if config.analyzer != "both":
        return [config]
    characters = replace(config, analyzer="char_wb", ngram_range=_CHARACTERS)
    return [replace(config, analyzer="word"), characters]


def _terms(
    table: OutcomeTable, train: np.ndarray, ngrams: NgramMatrix, folds: Sequence[Fold], seed: int
) -> tuple[Terms, np.ndarray, np.ndarray]:
    """Return the n-gram part, its columns [M, size] for the training rows, and its `OutOfFold.without`."""
    config, x = ngrams.config, ngrams.x
    pieces: list[np.ndarray] = []
    offsets: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    dimensions = min(config.dimensions, x.shape[1] - 1, len(train) - 1)
    if dimensions > 0:
        with np.errstate(invalid="ignore", divide="ignore"):  # equal prompts have zero variance
            svd: Any = TruncatedSVD(dimensions, random_state=seed).fit(x)
        pieces.append(svd.components_.T)
        offsets.append(np.zeros(dimensions))
        columns.append(x @ svd.components_.T)
    without = np.empty((len(folds), len(train), 0))
    if config.out_of_fold:
        quality = table.quality[train].astype(np.float64)
        weight, offset, out_of_fold, without = _cross_fit_quality(x, quality, folds)
        pieces.append(weight)
        offsets.append(offset)
        columns.append(out_of_fold)
    if not pieces:
        reason = "leaves neither topics nor out-of-fold predictions"
        raise InputError("features.dimensions", config.dimensions, reason, "use 64, or --features.text none")
    part = Terms(
        projection=torch.tensor(np.hstack(pieces), dtype=torch.float32),
        offset=torch.tensor(np.concatenate(offsets), dtype=torch.float32),
        idf=ngrams.idf,
        **ngrams.settings,
        out_of_fold=table.quality.shape[1] if config.out_of_fold else 0,
    )
    return part, np.hstack(columns), without


def _cross_fit_quality(
    x: Any, quality: np.ndarray, folds: Sequence[Fold]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit ridge regressions of each expert's quality on sparse n-grams; selects the penalty out of fold.

    Args:
        x: [M, V] sparse.
        quality: [M, N] float64, NaN where an outcome is missing.
        folds: (fitted rows, held-out rows) of each fold.

    Returns:
        weight [V, N], offset [N], out-of-fold predictions [M, N], and [F, M, N] those when one more fold is
        held out.
    """
    rows = len(quality)
    if rows < 2 * _FOLDS:
        mean = answered_mean(quality)
        constant = np.tile(mean, (rows, 1))
        return np.zeros((x.shape[1], quality.shape[1])), mean, constant, np.tile(constant, (len(folds), 1, 1))

    def predict(fitted: np.ndarray, rows: np.ndarray, penalty: float) -> np.ndarray:
        weight, offset = _fit(x[fitted], quality[fitted], penalty)
        return x[rows] @ weight + offset

    best: tuple[float, float, np.ndarray] | None = None
    for penalty in _PENALTIES:
        out_of_fold = np.empty_like(quality)
        for fitted, held in folds:
            out_of_fold[held] = predict(fitted, held, penalty)
        # The mean over experts does not affect routing, so it does not enter the error.
        residual = out_of_fold - quality
        error = float(np.nanmean((residual - _row_mean(residual)) ** 2))
        if best is None or error < best[0]:
            best = (error, penalty, out_of_fold)
    assert best is not None
    _, best_penalty, out_of_fold = best
    without = twice_held_out(folds, out_of_fold, lambda fitted, rows: predict(fitted, rows, best_penalty))
    return *_fit(x, quality, best_penalty), out_of_fold, without


def _fit(x: Any, quality: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weight [V, N] and offset [N] of ridge regressions, each on the rows that its expert answered."""
    if not np.isnan(quality).any():
        model = _ridge(penalty).fit(x, quality)
        return np.atleast_2d(model.coef_).T, np.atleast_1d(model.intercept_)
    weight, offset = np.zeros((x.shape[1], quality.shape[1])), np.full(quality.shape[1], np.nanmean(quality))
    for expert in range(quality.shape[1]):
        answered = np.flatnonzero(~np.isnan(quality[:, expert]))
        if len(answered):  # without any, the mean of all outcomes is its prediction
            model = _ridge(penalty).fit(x[answered], quality[answered, expert])
            weight[:, expert], offset[expert] = model.coef_, model.intercept_
    return weight, offset


def _row_mean(residual: np.ndarray) -> np.ndarray:
    """Return the mean of each row's known residuals, [M, 1]; 0 where there are none."""
    if not np.isnan(residual).any():
        return residual.mean(axis=1, keepdims=True)
    known = (~np.isnan(residual)).sum(axis=1, keepdims=True)
    return np.nansum(residual, axis=1, keepdims=True) / np.maximum(known, 1)


def _ridge(penalty: float) -> Any:
    return Ridge(alpha=penalty, solver="sparse_cg", tol=1e-3)


def _group(
    table: OutcomeTable, train: np.ndarray, out_of_fold: bool, folds: Sequence[Fold]
) -> tuple[Group, np.ndarray, np.ndarray]:
    """Return the group part, its columns [M, size] for the training rows, and its `OutOfFold.without`."""
    assert table.group is not None
    names: list[str] = [str(name) for name in table.group[train]]
    labels, index = np.unique(names, return_inverse=True)
    quality = table.quality[train].astype(np.float64)
    if not out_of_fold:
        quality = quality[:, :0]
    part = Group(
        labels=[str(label) for label in labels],
        values=torch.tensor(shrunken_quality(quality, index, len(labels)), dtype=torch.float32),
        shares=torch.tensor(np.bincount(index) / len(index), dtype=torch.float32),
        required=True,
    )
    columns = part(names, names).numpy()
    experts = quality.shape[1]
    held_out_means = columns[:, columns.shape[1] - experts :]
    if not experts or len(names) < 2 * _FOLDS:
        return part, columns, np.tile(held_out_means, (len(folds), 1, 1))

    def predict(fitted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return shrunken_quality(quality[fitted], index[fitted], len(labels))[index[rows]]

    for fitted, held in folds:
        held_out_means[held] = predict(fitted, held)
    return part, columns, twice_held_out(folds, held_out_means, predict)


def _embedding(path: Path) -> Embedding:
    """Return the sentence-embedding part; its width is read from a test prompt."""
    probe = Embedding(path=path.resolve(), size=0)
    return Embedding(path=path.resolve(), size=probe(["a"], None).shape[1])
