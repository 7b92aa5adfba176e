"""The random stream of a lane: a counter-based generator.

Lane i of a core with seed s draws the same numbers as a single lane with seed s + i, on every device. The
only state is the counter. SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2714064.2660195).
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["query_rows"]

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def query_rows(seed: Tensor, drawn: Tensor, queries: int) -> Tensor:
    """The query that a lane draws, a function of its seed and its counter only.

    Args:
        seed: [B] int64, the random streams.
        drawn: [B] int64, the counter: queries drawn before.
        queries: T.

    Returns:
        [B] int64 in 0..T - 1, uniform.
    """
    z = _splitmix(_splitmix(seed * _GOLDEN) + drawn * _GOLDEN)
    return (z & 0x7FFFFFFFFFFFFFFF) % queries


def _splitmix(z: Tensor) -> Tensor:
    """The SplitMix64 finaliser on int64 tensors, whose multiplication wraps like that of uint64."""
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)  # an int64 shift keeps the sign; the mask drops it
