"""Writes the small files that the golden comparisons read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["write_files"]

_EXPERTS = ("red", "green", "blue", "grey")
_COST = (1.0, 2.0, 4.0, 10.0)
_WORDS = (
    ("paint", "canvas", "brush", "hue"),
    ("moss", "leaf", "fern", "tree"),
    ("wave", "sea", "tide", "sky"),
    ("stone", "ash", "cloud", "dust"),
)
_COMMON = ("the", "a", "of", "and", "then", "with", "on", "to")
_SPLITS = ("train", "train", "train", "validation", "test")


def write_files(folder: Path) -> None:
    """Write every table and trace of the golden comparisons.

    `topics.parquet` has features, groups, confidences and four experts, `three.parquet` three experts and
    `pair.parquet` two. `prompts.parquet` has prompts and no features. `trace.parquet` has arrivals in bursts.

    Args:
        folder: is made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_topics(folder / "topics.parquet", rows=360, experts=4)
    _write_topics(folder / "three.parquet", rows=200, experts=3)
    _write_topics(folder / "pair.parquet", rows=200, experts=2)
    _write_prompts(folder / "prompts.parquet", rows=300)
    rng = np.random.default_rng(3)
    gaps = rng.random(4096) * np.where(np.arange(4096) // 64 % 2 == 0, 0.4, 2.0)
    pq.write_table(pa.table({"arrival_s": np.cumsum(gaps)}), folder / "trace.parquet")


def _write_topics(path: Path, rows: int, experts: int) -> None:
    """Write a table: features are the topic plus noise, and expert e is good on topic e."""
    rng = np.random.default_rng(11)
    topic, columns, quality = _outcomes(rng, rows, experts)
    noise = rng.random((rows, experts)) - 0.5
    features = np.concatenate([np.eye(experts)[topic] + noise, rng.random((rows, 2))], axis=1)
    flat = pa.array(features.astype(np.float32).ravel())
    columns["features"] = pa.FixedSizeListArray.from_arrays(flat, features.shape[1])
    confidence = 0.25 + 0.5 * quality * rng.random(quality.shape) + 0.25 * rng.random(quality.shape)
    _write(path, columns | _of_experts("confidence", confidence), experts)


def _write_prompts(path: Path, rows: int) -> None:
    """Write a table with prompts of eight words, half of them from the topic's list."""
    rng = np.random.default_rng(12)
    topic, columns, _ = _outcomes(rng, rows, len(_WORDS))
    prompts: list[str] = []
    for row, own in enumerate(topic):
        lists = [_WORDS[own] if draw < 0.5 else _COMMON for draw in rng.random(8)]
        words = [words[int(rng.integers(0, len(words)))] for words in lists]
        prompts.append(f"{row} " + " ".join(words))
    _write(path, columns | {"prompt": prompts}, len(_WORDS))


def _outcomes(
    rng: np.random.Generator, rows: int, experts: int
) -> tuple[np.ndarray, dict[str, Any], np.ndarray]:
    """Return topics [T]; columns of ids, splits, groups, quality and cost; and quality [T, N]."""
    topic = rng.integers(0, experts, rows)
    chance = np.where(np.arange(experts) == topic[:, None], 0.9, 0.25)
    chance[:, -1] = np.maximum(chance[:, -1], 0.65)
    quality = (rng.random((rows, experts)) < chance).astype(np.float32)
    cost = np.array(_COST[-experts:]) * (0.75 + 0.5 * rng.random((rows, experts)))
    columns: dict[str, Any] = {
        "query_id": [f"q{row}" for row in range(rows)],
        "group": [_EXPERTS[one] for one in topic],
        "split": [_SPLITS[row % len(_SPLITS)] for row in range(rows)],
        **_of_experts("quality", quality),
        **_of_experts("cost", cost),
    }
    return topic, columns, quality


def _of_experts(name: str, values: np.ndarray) -> dict[str, Any]:
    return {f"{name}/{_EXPERTS[e]}": values[:, e].astype(np.float32) for e in range(values.shape[1])}


def _write(path: Path, columns: Mapping[str, Any], experts: int) -> None:
    facts = {"schema_version": 1, "cost_unit": "flops", "experts": _EXPERTS[:experts], "source": path.stem}
    table = pa.table(dict(columns)).replace_schema_metadata({"router_rl": json.dumps(facts)})
    pq.write_table(table, path)
