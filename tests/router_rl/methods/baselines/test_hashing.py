"""Hash routing: the hash by hand, balance, and that it never changes its mind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import HashScorer


def _by_hand(row: np.ndarray, multipliers: list[int], experts: int) -> list[float]:
    """The documented formula in Python's unbounded integers."""
    mask = 2**64 - 1
    bits = [int(value) for value in (row + np.float32(0)).view(np.int32)]
    key = sum(m * b for m, b in zip(multipliers, bits, strict=True)) & mask
    scores = []
    for expert in range(experts):
        z = (key + (expert + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        scores.append(((z ^ (z >> 31)) >> 40) / 2**24)
    return scores


def test_equals_the_formula() -> None:
    scorer = HashScorer(5, 3)
    scorer.draw(7)
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    x[0] = 0.0
    x[1, 0] = -0.0
    expected = [_by_hand(row, scorer.multipliers.tolist(), 3) for row in x.numpy()]
    assert scorer(x).tolist() == expected


def test_golden() -> None:
    # Of a stored router the hash must not move between releases; computed by `_by_hand`.
    scorer = HashScorer(2, 2)
    with torch.no_grad():
        scorer.multipliers.copy_(torch.tensor([3, -5]))
    assert scorer(torch.tensor([[1.0, -2.5]])).tolist() == [[0.17624080181121826, 0.8327870965003967]]
    assert _by_hand(np.array([1.0, -2.5], dtype=np.float32), [3, -5], 2) == [
        0.17624080181121826,
        0.8327870965003967,
    ]


def test_signs_of_zero_are_one() -> None:
    scorer = HashScorer(3, 4)
    scorer.draw(0)
    assert scorer(torch.tensor([[0.0, 1.0, -0.0]])).equal(scorer(torch.tensor([[-0.0, 1.0, 0.0]])))


@pytest.mark.parametrize("seed", range(3))
def test_is_balanced_and_not_a_function_of_the_answer(kinds: OutcomeTable, seed: int) -> None:
    objective = Objective()
    router = fit("hash", RoutingProblem(kinds, objective), seed=seed)
    found = measure(router, kinds, objective, 10.0)
    assert np.abs(found.shares - 0.25).max() < 0.07
    assert found.means()["quality"] == pytest.approx(kinds.quality.mean(), abs=0.05)


def test_two_choices_of_a_hash_are_balanced_too(kinds: OutcomeTable) -> None:
    router = fit("hash", RoutingProblem(kinds, Objective(), select="topk", k=2))
    experts = router(torch.tensor(kinds.features)).experts
    for place in range(2):
        share = torch.bincount(experts[:, place], minlength=4) / len(experts)
        assert (share - 0.25).abs().max() < 0.07


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_the_export_hashes_alike(kinds: OutcomeTable, tmp_path: Path, format: str) -> None:
    parity = export(
        fit("hash", RoutingProblem(kinds, Objective())), tmp_path / "out", format=format, rows=kinds
    )
    assert parity.index_agreement == 1.0
    assert parity.logits_max_error == 0.0
