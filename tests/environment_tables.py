"""Small outcome tables for the environments beyond routing; some have a policy whose utility is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from experts import OutcomeTable
from router_rl.problems.caching.problem import CachingProblem
from router_rl.problems.objective import Objective

__all__ = ["LOADING", "made_cascade", "prompt_cascade", "solved_cascade", "topics", "two_topic_cache"]

LOADING = 1.2  # utility that the wait for an expert costs in `two_topic_cache`; being right earns 1


def solved_cascade() -> OutcomeTable:
    """Return a cascade solved by hand: at compute weight 0.5 the best policy earns 0.65.

    A cheap expert (compute 0.2) is right on half of the queries and has confidence 0.9 there, else 0.1. An
    expensive one (compute 1) is always right. Ask the cheap one, answer if it is confident, else ask the
    expensive one: -0.1 + (1 + 1 - 0.5) / 2 = 0.65. The expensive one alone earns 0.5, the cheap one 0.4.
    """
    right = np.tile([1, 0, 1, 0], 60)
    return OutcomeTable(
        experts=["cheap", "dear"],
        query_id=range(240),
        features=np.ones((240, 1)),
        quality=np.column_stack([right, np.ones(240)]),
        cost=np.tile([0.1, 0.5], (240, 1)),
        confidence=np.column_stack([np.where(right, 0.9, 0.1), np.full(240, 0.8)]),
        split=["train"] * 120 + ["validation"] * 48 + ["tuning"] * 12 + ["test"] * 60,
    )


def made_cascade(seed: int = 3, rows: int = 400) -> OutcomeTable:
    """Return 4 experts of different skill over 3 classes, more confident where right; features help some."""
    rng = np.random.default_rng(seed)
    skill = np.array([0.5, 0.6, 0.7, 0.9])
    label = rng.integers(0, 3, rows)
    logits = rng.normal(size=(rows, 4, 3))
    logits[np.arange(rows), :, label] += 3.0 * skill - 0.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return OutcomeTable(
        experts=["a", "b", "c", "d"],
        query_id=range(rows),
        features=np.column_stack([logits.max(axis=(1, 2)), rng.normal(size=rows)]),
        quality=probabilities.argmax(axis=2) == label[:, None],
        cost=np.tile([0.1, 0.2, 0.4, 1.0], (rows, 1)),
        confidence=probabilities.max(axis=2),
        probabilities=probabilities,
        label=label,
        split=np.repeat(["train", "validation", "test"], [rows - 2 * (rows // 5), rows // 5, rows // 5]),
    )


def prompt_cascade() -> OutcomeTable:
    """Return the table of `made_cascade` with prompts instead of features; a word names the easy queries."""
    table = made_cascade()
    easy = table.quality[:, 0] > 0
    words = ["short sum of numbers" if one else "long proof about primes" for one in easy]
    prompt = np.array([f"{word} {row}" for row, word in enumerate(words)], dtype=object)
    return replace(table, features=None, prompt=prompt)


def topics(seed: int = 0) -> OutcomeTable:
    """Return 4 experts, each right on its own topic with probability 0.9; the features are the topic."""
    rng = np.random.default_rng(seed)
    rows = 240
    topic = rng.integers(0, 4, rows)
    quality = rng.random((rows, 4)) < np.where(np.arange(4) == topic[:, None], 0.9, 0.3)
    return OutcomeTable(
        experts=["a", "b", "c", "d"],
        query_id=range(rows),
        features=np.column_stack([np.eye(4)[topic], rng.normal(size=rows)]),
        quality=quality,
        cost=np.ones((rows, 4)),
        group=topic.astype(str),
        split=["train"] * 120 + ["validation"] * 60 + ["test"] * 60,
    )


def two_topic_cache(folder: Path, *, persistence: float, window: int = 128) -> CachingProblem:
    """Return two experts, each right on its own topic only, which the feature tells; one fits in memory.

    Args:
        folder: where the profile of the memories is written.
        persistence: probability that the topic stays.
        window: requests of an episode.
    """
    topic = np.arange(240) % 2
    table = OutcomeTable(
        experts=["a", "b"],
        query_id=range(240),
        features=topic[:, None],
        quality=topic[:, None] == np.arange(2),
        cost=np.ones((240, 2)),
        group=topic.astype(str),
        split=np.repeat(["train", "validation", "test"], 80),
    )
    profile = {"gpu_bandwidth": 1e9, "gpu_latency": LOADING, "disk_bandwidth": 1e9, "disk_latency": 0.0}
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    return CachingProblem(
        table,
        Objective(compute_weight=0.0),
        resident_shares=(0.5,),
        wait_weight=1.0,
        host_share=1.0,
        expert_bytes=1.0,
        gap=5.0,
        persistence=persistence,
        window=window,
        profile=folder / "profile.yaml",
    )
