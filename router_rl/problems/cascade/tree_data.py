"""The data of the cascade tree: which experts a policy asks, in which order, and where it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .cascade_episodes import Episodes

__all__ = ["paths_of"]


def paths_of(episodes: Episodes, experts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the share of each sequence of asked experts, and the quality of its answers.

    Args:
        episodes: of B queries.
        experts: the N names.

    Returns:
        a list of {"asked": names in order, "share" of the queries, "quality"}, by falling share.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    quality: Counter[tuple[str, ...]] = Counter()
    every_step: list[list[int]] = episodes.steps.tolist()
    for steps, earned in zip(every_step, episodes.quality.tolist(), strict=True):
        path = tuple(str(experts[step]) for step in steps if 0 <= step < len(experts))
        counts[path] += 1
        quality[path] += earned
    total = len(episodes.quality)
    return [
        {"asked": list(path), "share": count / total, "quality": quality[path] / count}
        for path, count in counts.most_common()
    ]
