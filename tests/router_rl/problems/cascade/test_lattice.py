from __future__ import annotations

import pytest
import torch

from router_rl.problems.cascade.lattice import Lattice


def slow(policy, lattice, quality, price, members=frozenset()):
    """The value of a policy [S, 2 N] for one query, by recursion over sets."""
    experts = len(quality)
    place = next(
        index
        for index, row in enumerate(lattice.asked.tolist())
        if {e for e, on in enumerate(row) if on} == members
    )
    value = 0.0
    for expert in range(experts):
        value += float(policy[place, experts + expert]) * float(quality[expert])
        chance = float(policy[place, expert])
        if chance > 0.0:
            later = slow(policy, lattice, quality, price, members | {expert})
            value += chance * (later - float(price[expert]))
    return value


@pytest.mark.parametrize(("experts", "limit", "sets"), [(4, 3, 15), (3, 3, 8), (5, 1, 6), (2, 3, 4)])
def test_values_are_those_of_the_recursion(experts, limit, sets):
    lattice = Lattice(experts, limit)
    assert lattice.asked.shape == (sets, experts)
    generator = torch.Generator().manual_seed(0)
    may = torch.cat([lattice.askable, lattice.asked], dim=1)
    chance = torch.rand(3, sets, 2 * experts, generator=generator) * may
    chance /= chance.sum(dim=-1, keepdim=True)
    quality, price = (torch.rand(3, experts, generator=generator) for _ in range(2))
    found = lattice.values(chance, quality, price)
    for row in range(3):
        assert float(found[row, 0]) == pytest.approx(
            slow(chance[row], lattice, quality[row], price[row]), abs=1e-5
        )
