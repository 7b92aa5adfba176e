"""How evenly experts, and the devices they live on, are used: pure functions of shares, counts and runs.

A share is the part of all decisions that an expert took; a decision that runs k experts counts 1/k for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import entr

from experts import InputError

__all__ = [
    "CAPACITY_FACTOR",
    "TILE",
    "check_placement",
    "device_shares",
    "drops",
    "ideal_tiles",
    "load_cv",
    "load_report",
    "max_over_mean",
    "share_entropy",
    "tiles",
]

CAPACITY_FACTOR = 1.25  # of the drops that every table reports (Fedus et al. 2021, table 1)
TILE = 128  # rows of a grouped matmul's tile


def load_cv(shares: np.ndarray) -> float:
    """Coefficient of variation of shares [N]: `sqrt(N sum f^2 - 1)`, 0 if uniform.

    >>> load_cv(np.array([1.0, 0.0]))
    1.0
    """
    shares = np.asarray(shares, dtype=np.float64)
    return float(np.sqrt(max(len(shares) * np.square(shares).sum() - 1.0, 0.0)))


def max_over_mean(shares: np.ndarray) -> float:
    """Largest share over the mean share, from shares [N]: 1 if uniform, N if collapsed.

    With one device an expert, a synchronous step takes this many times as long as a balanced one.
    """
    shares = np.asarray(shares, dtype=np.float64)
    return float(shares.max() / shares.mean())


def share_entropy(shares: np.ndarray) -> float:
    """Entropy of shares [N] in nats: log N if uniform, 0 if one expert does everything.

    >>> round(share_entropy(np.array([0.5, 0.5])), 4)
    0.6931
    """
    return float(entr(np.asarray(shares, dtype=np.float64)).sum())


def drops(runs: np.ndarray, factor: float, window: int) -> float:
    """Fraction of runs that find no room, first come first served.

    In each window of W decisions an expert has `ceil(factor * n / N)` slots, n being the runs asked for in
    the window (T k where every decision runs k experts); the last window may be shorter.

    Args:
        runs: [T, N] bool, which experts each decision runs; rows in order of arrival.
        factor: the capacity factor c, above 0.
        window: W.

    Source: Switch Transformers, Fedus et al. 2021, eq. 3, https://arxiv.org/abs/2101.03961.

    >>> drops(np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=bool), 1.0, 4)
    0.25
    """
    asked = dropped = 0
    for first in range(0, len(runs), window):
        batch = np.asarray(runs[first : first + window], dtype=bool)
        counts = batch.sum(axis=0)
        # A hair less: 1.1 * 10 is a little above 11, and ceil would grant a slot that the formula does not.
        capacity = math.ceil(factor * int(counts.sum()) / batch.shape[1] - 1e-9)
        asked += int(counts.sum())
        dropped += int(np.maximum(counts - capacity, 0).sum())
    return dropped / asked if asked else 0.0


def tiles(counts: np.ndarray, tile: int = TILE) -> int:
    """Tiles of a grouped matmul, `sum_e ceil(n_e / tile)`: what a GPU computes, whatever is asked for.

    Args:
        counts: [N] int, rows each expert takes at once.
        tile: rows of a tile.

    >>> tiles(np.array([129, 127, 0]))
    3
    """
    return int(-(-np.asarray(counts) // tile).sum())


def ideal_tiles(counts: np.ndarray, tile: int = TILE) -> int:
    """The fewest tiles that hold as many rows, `ceil(T k / tile)`.

    >>> ideal_tiles(np.array([129, 127, 0]))
    2
    """
    return int(-(-np.asarray(counts).sum() // tile))


def check_placement(placement: Sequence[int], experts: int) -> np.ndarray:
    """Device of each expert [N] int64.

    Raises:
        InputError: not one device an expert, or devices that are not numbered 0, 1, ... without a gap.
    """
    devices = np.asarray(placement, dtype=np.int64)
    if len(devices) != experts:
        raise InputError(
            "placement", list(placement), f"{len(devices)} devices for {experts} experts", "give one each"
        )
    if devices.min() < 0:
        raise InputError("placement", list(placement), "a device is negative", "number devices from 0")
    empty = sorted(set(range(int(devices.max()))) - set(devices.tolist()))
    if empty:
        problem = f"device {empty[0]} has no expert"
        raise InputError("placement", list(placement), problem, "number devices from 0 without a gap")
    return devices


def device_shares(shares: np.ndarray, devices: np.ndarray) -> np.ndarray:
    """Share of all decisions that the experts of each device took.

    Args:
        shares: [N] float.
        devices: [N] int64, as `check_placement` returns.

    >>> device_shares(np.array([0.5, 0.25, 0.25]), np.array([0, 1, 0])).tolist()
    [0.75, 0.25]
    """
    return np.bincount(devices, weights=shares)


def load_report(
    share: np.ndarray, dropped: float, window: int, placement: Sequence[int] | None = None
) -> dict[str, Any]:
    """Every measure of load, as JSON.

    Args:
        share: [T, N] float, how each decision divided among the experts.
        dropped: `drops` of the same decisions, in the order played, at `CAPACITY_FACTOR`.
        window: decisions over which it was counted.
        placement: the device of each expert, or None.

    Raises:
        InputError: the placement does not fit the experts.
    """
    shares = share.mean(axis=0, dtype=np.float64)
    counts = (share > 0).sum(axis=0)
    used, ideal = tiles(counts), ideal_tiles(counts)
    report: dict[str, Any] = {
        "cv": load_cv(shares),
        "max_over_mean": max_over_mean(shares),
        "drops": {"capacity_factor": CAPACITY_FACTOR, "window": window, "fraction": dropped},
        "tiles": {"rows": TILE, "used": used, "ideal": ideal, "ratio": used / ideal},
    }
    if placement is not None:
        devices = check_placement(placement, len(shares))
        by_device = device_shares(shares, devices)
        report["devices"] = {
            "placement": devices.tolist(),
            "shares": by_device.tolist(),
            "cv": load_cv(by_device),
            "max_over_mean": max_over_mean(by_device),
        }
    return report
