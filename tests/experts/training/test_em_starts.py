"""Starts of EM: balanced, seeded, and found without labels."""

from __future__ import annotations

import torch

from experts.training import kmeans_responsibilities, random_responsibilities


def test_a_random_start_is_balanced_and_seeded():
    one, two = (random_responsibilities(11, 4, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.sum(dim=0).sort().values.tolist() == [2, 3, 3, 3]
    assert (one.sum(dim=1) == 1).all()


def test_kmeans_gives_each_cluster_to_one_expert():
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(60) % 3
    x = 10.0 * torch.eye(3, dtype=torch.float64)[group]
    x = x + torch.randn(60, 3, generator=generator, dtype=torch.float64)
    start = kmeans_responsibilities(x, 3, seed=0)
    for number in range(3):
        assert (start[group == number] == start[number]).all()
    assert start.sum(dim=0).tolist() == [20, 20, 20]
