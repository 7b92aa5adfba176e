"""Load-balance metrics of experts and devices: pure functions of shares, counts and selections.

A share is the fraction of all decisions that an expert received; a decision of k experts counts 1/k for each.
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

CAPACITY_FACTOR = 1.25  # of the dropped fraction in all tables (Fedus et al. 2021, table 1)
TILE = 128  # rows of a grouped matmul's tile


def load_cv(shares: np.ndarray) -> float:
    """Return the coefficient of variation of shares [N]: `sqrt(N sum f^2 - 1)`, 0 if uniform.

    >>> load_cv(np.array([1.0, 0.0]))
    1.0
    """
    shares = np.asarray(shares, dtype=np.float64)
    return float(np.sqrt(max(len(shares) * np.square(shares).sum() - 1.0, 0.0)))


def max_over_mean(shares: np.ndarray) -> float:
    """Return the largest share over the mean share of shares [N]: 1 if uniform, N if collapsed.

    With one device per expert, a synchronous step takes this many times as long as a balanced one.
    """
    shares = np.asarray(shares, dtype=np.float64)
    return float(shares.max() / shares.mean())


def share_entropy(shares: np.ndarray) -> float:
    """Return the entropy of shares [N] in nats: log N if uniform, 0 if one expert gets all queries.

    >>> round(share_entropy(np.array([0.5, 0.5])), 4)
    0.6931
    """
    return float(entr(np.asarray(shares, dtype=np.float64)).sum())


def drops(runs: np.ndarray, factor: float, window: int) -> float:
    """Return the fraction of selections beyond an expert's capacity, first come first served.

    In each window of W decisions an expert has capacity for `ceil(factor * n / N)` selections, where n is the
    number of selections in the window (W k if every decision selects k experts). The last window may be
    shorter.

    Args:
        runs: [T, N] bool, experts that each decision selects; rows in order of arrival.
        factor: capacity factor, above 0.
        window: W, decisions per window.

    Source: Switch Transformers, Fedus et al. 2021, eq. 3, https://arxiv.org/abs/2101.03961.

    >>> drops(np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=bool), 1.0, 4)
    0.25
    """
    total = dropped = 0
    for first in range(0, len(runs), window):
        batch = np.asarray(runs[first : first + window], dtype=bool)
        counts = batch.sum(axis=0)
        # Subtract a rounding error: 1.1 * 10 is slightly above 11 in floating point.
        capacity = math.ceil(factor * int(counts.sum()) / batch.shape[1] - 1e-9)
        total += int(counts.sum())
        dropped += int(np.maximum(counts - capacity, 0).sum())
    return dropped / total if total else 0.0


def tiles(counts: np.ndarray, tile: int = TILE) -> int:
    """Return the tiles of a grouped matmul, `sum_e ceil(n_e / tile)`, which a GPU computes in full.

    Args:
        counts: [N] int, rows per expert.
        tile: rows per tile.

    >>> tiles(np.array([129, 127, 0]))
    3
    """
    return int(-(-np.asarray(counts) // tile).sum())


def ideal_tiles(counts: np.ndarray, tile: int = TILE) -> int:
    """Return the minimum number of tiles for as many rows, `ceil(T k / tile)`.

    >>> ideal_tiles(np.array([129, 127, 0]))
    2
    """
    return int(-(-np.asarray(counts).sum() // tile))


def check_placement(placement: Sequence[int], experts: int) -> np.ndarray:
    """Return the device of each expert, [N] int64.

    Args:
        placement: N device numbers.
        experts: N.

    Raises:
        InputError: not one device per expert, or devices are not numbered 0, 1, ... without a gap.
    """
    if max(placement, default=0) >= experts:
        problem = f"{experts} experts are on at most {experts} devices"
        raise InputError("placement", list(placement), problem, "number devices from 0 without a gap")
    if len(placement) != experts:
        raise InputError(
            "placement", list(placement), f"{len(placement)} devices for {experts} experts", "give one each"
        )
    devices = np.asarray(placement, dtype=np.int64)
    if devices.min() < 0:
        raise InputError("placement", list(placement), "a device is negative", "number devices from 0")
    empty = sorted(set(range(int(devices.max()))) - set(devices.tolist()))
    if empty:
        problem = f"device {empty[0]} has no expert"
        raise InputError("placement", list(placement), problem, "number devices from 0 without a gap")
    return devices


def device_shares(shares: np.ndarray, devices: np.ndarray) -> np.ndarray:
    """Return the share of all decisions that each device's experts received.

    Args:
        shares: [N] float.
        devices: [N] int64, as returned by `check_placement`.

    >>> device_shares(np.array([0.5, 0.25, 0.25]), np.array([0, 1, 0])).tolist()
    [0.75, 0.25]
    """
    return np.bincount(devices, weights=shares)


def load_report(
    share: np.ndarray, dropped: float, window: int, placement: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return all load metrics, as JSON.

    Args:
        share: [T, N] float, share of each decision that each expert receives.
        dropped: `drops` of the same decisions, in order of arrival, at `CAPACITY_FACTOR`.
        window: decisions per window of `dropped`.
        placement: device of each expert, or None.

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
