"""What tokens pay for a layer's load: by hand, and its mean always the load."""

from __future__ import annotations

import math

import pytest
import torch

from envs.layer_load import LoadRule, apply_capacity, token_penalties, tokens_per_expert
from experts import InputError

EXPERTS = torch.tensor([[[0], [0], [0], [1], [2], [0]], [[1], [1], [3], [2], [0], [3]]])  # 3 is no expert


def slow_load(rule, ids, total):
    n = [sum(i == e for i in ids) for e in range(total)]
    runs = sum(n)
    if rule.kind == "share":
        device = rule.placement or range(total)
        f = [sum(n[e] for e in range(total) if device[e] == d) / runs for d in range(max(device) + 1)]
        return len(f) * sum(v * v for v in f) - 1
    tiles = [math.ceil(v / rule.tile) for v in n]
    fewest = math.ceil(runs / rule.tile)
    if rule.placement is None:
        return sum(tiles) / fewest - 1
    devices = max(rule.placement) + 1
    busiest = max(sum(tiles[e] for e in range(total) if rule.placement[e] == d) for d in range(devices))
    return busiest / math.ceil(fewest / devices) - 1


@pytest.mark.parametrize(
    "rule",
    [
        LoadRule(),
        LoadRule(placement=(0, 1, 1)),
        LoadRule("tiles", tile=2),
        LoadRule("tiles", tile=2, placement=(1, 0, 0)),
    ],
)
def test_the_mean_penalty_is_the_load(rule):
    rule.check(3)
    paid = token_penalties(rule, EXPERTS, 3)
    for lane in range(2):
        assert paid[lane].mean().item() == pytest.approx(
            slow_load(rule, EXPERTS[lane].flatten().tolist(), 3), abs=1e-6
        )


def test_two_slots_a_token():
    experts = torch.tensor([[[0, 1], [0, 3], [2, 1]]])
    assert tokens_per_expert(experts, 3).tolist() == [[2, 2, 1]]
    assert token_penalties(LoadRule(), experts, 3).mean().item() == pytest.approx(
        3 * (0.16 + 0.16 + 0.04) - 1
    )


def test_no_expert_has_no_penalty():
    no_expert = torch.full((1, 4, 1), 2)
    assert token_penalties(LoadRule(), no_expert, 2).eq(0).all()
    assert token_penalties(LoadRule("tiles"), no_expert, 2).eq(0).all()


def test_capacity_is_kept_in_order():
    experts = torch.tensor([[[0, 1], [0, 1], [0, 1], [1, 3]]])
    kept = apply_capacity(experts, 3, 1.0)  # 7 runs, ceil(7 / 3) = 3 slots each
    assert kept.tolist() == [[[0, 1], [0, 1], [0, 1], [3, 3]]]
    assert apply_capacity(experts, 3, None) is experts
    assert tokens_per_expert(apply_capacity(experts, 3, 0.4), 3).tolist() == [[1, 1, 0]]


def test_mistakes_are_told():
    with pytest.raises(InputError, match="use share or tiles"):
        LoadRule("even")
    with pytest.raises(InputError, match=r"load\.tile=0"):
        LoadRule(tile=0)
    for placement in ((0, 1), (0, 2, 2), (1, 1, 1)):
        with pytest.raises(InputError, match=r"load\.placement"):
            LoadRule(placement=placement).check(3)
