from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from envs.stream import query_rows

MASK = 2**64 - 1


def splitmix(z):
    """The finaliser of SplitMix64 on unsigned Python integers, as published."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def reference(seed, drawn, queries):
    stream = splitmix((seed * 0x9E3779B97F4A7C15) & MASK)
    return (splitmix((stream + drawn * 0x9E3779B97F4A7C15) & MASK) & (2**63 - 1)) % queries


def rows_of(seed, count, queries):
    return query_rows(torch.full((count,), seed), torch.arange(count), queries)


def test_stream_0_is_the_published_splitmix64():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    found = rows_of(0, 5, 2**63 - 1).tolist()
    assert found == [0, *(value & (2**63 - 1) for value in published)]


def test_golden():
    assert rows_of(0, 8, 1000).tolist() == [0, 727, 700, 679, 636, 747, 90, 913]
    assert rows_of(1, 8, 1000).tolist() == [871, 247, 846, 231, 630, 955, 353, 182]


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**40 + 7, 2**63 - 1, -1])
@pytest.mark.parametrize("queries", [1, 2, 19, 1000, 2**31 + 11])
def test_equals_unsigned_python_integers(seed, queries):
    assert rows_of(seed, 50, queries).tolist() == [reference(seed, n, queries) for n in range(50)]
    assert rows_of(seed, 50, queries).dtype == torch.int64


@pytest.mark.parametrize("seed", [0, 1, 2, 77])
def test_is_uniform_within_a_lane_and_its_next_draw_is_independent(seed):
    rows = rows_of(seed, 40_001, 7).numpy()
    assert stats.chisquare(np.bincount(rows, minlength=7)).pvalue > 1e-3
    pairs = np.bincount(7 * rows[:-1] + rows[1:], minlength=49)
    assert stats.chisquare(pairs).pvalue > 1e-3


@pytest.mark.parametrize("drawn", [0, 1, 2, 500])
def test_is_uniform_across_lanes(drawn):
    rows = query_rows(torch.arange(40_000), torch.full((40_000,), drawn), 7).numpy()
    assert stats.chisquare(np.bincount(rows, minlength=7)).pvalue > 1e-3


@pytest.mark.parametrize("apart", [1, 2, 64])
def test_lanes_are_independent(apart):
    first, second = rows_of(5, 40_000, 7).numpy(), rows_of(5 + apart, 40_000, 7).numpy()
    assert stats.chisquare(np.bincount(7 * first + second, minlength=49)).pvalue > 1e-3
    late = rows_of(5 + apart, 40_001, 7).numpy()[1:]  # a stream is not its neighbour's, one draw on
    assert stats.chisquare(np.bincount(7 * first + late, minlength=49)).pvalue > 1e-3


def test_no_two_lanes_share_a_stream():
    seeds = torch.arange(1000).repeat_interleave(4)
    rows = query_rows(seeds, torch.arange(4).repeat(1000), 2**31).reshape(1000, 4)
    assert len({tuple(row) for row in rows.tolist()}) == 1000


def test_every_query_is_drawn():
    assert set(rows_of(3, 2000, 100).tolist()) == set(range(100))
