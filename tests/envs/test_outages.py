"""Uptime: it stops while the expert is down."""

from __future__ import annotations

import torch

from envs.outages import Outages, draw_outages, is_down, uptime, wall_time

TWO = Outages.of(torch.tensor([2.0, 7.0]).double(), torch.tensor([3.0, 10.0]).double())
TIMES = [0.0, 1.5, 2.0, 2.5, 3.0, 5.0, 7.0, 9.0, 10.0, 12.0]


def test_uptime_by_hand():
    times = torch.tensor(TIMES).double()
    outages = Outages(*(part.expand(len(TIMES), -1) for part in TWO))
    up = uptime(outages, times)
    assert up.tolist() == [0.0, 1.5, 2.0, 2.0, 2.0, 4.0, 6.0, 6.0, 6.0, 8.0]
    assert (
        is_down(outages, times).tolist() == [False] * 2 + [True] * 2 + [False] * 2 + [True] * 2 + [False] * 2
    )
    # The first wall time with that uptime: where uptime stops, the failure.
    assert wall_time(outages, up).tolist() == [0.0, 1.5, 2.0, 2.0, 2.0, 5.0, 7.0, 7.0, 7.0, 12.0]


def test_nothing_fails_without_outages():
    none = Outages.of(torch.zeros(3, 0).double(), torch.zeros(3, 0).double())
    times = torch.tensor([0.0, 1.0, 2.0]).double()
    assert uptime(none, times).equal(times)
    assert wall_time(none, times).equal(times)
    assert not is_down(none, times).any()


def test_spells_have_their_means_and_are_a_function_of_the_seed():
    seed, counter = torch.arange(50), torch.zeros(50, dtype=torch.int64)
    outages = draw_outages(seed, counter, 3, 100, up=4.0, repair=0.5)
    down = outages.returns - outages.fails
    up = outages.fails - torch.cat([torch.zeros(50, 3, 1), outages.returns[..., :-1]], dim=-1)
    assert (down > 0).all()
    assert (up > 0).all()
    assert abs(float(down.mean()) / 0.5 - 1) < 0.03
    assert abs(float(up.mean()) / 4.0 - 1) < 0.03
    again = draw_outages(seed[7:8], counter[7:8], 3, 100, up=4.0, repair=0.5)
    assert again.fails[0].equal(outages.fails[7])
