from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from experts.moe.segments import FFN, average, by_disagreement, cut, mean, take


def run(ffn: FFN, x: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, ffn.gate)) * F.linear(x, ffn.up), ffn.down)


def random_ffn(seed: int, neurons: int = 12, hidden: int = 5) -> FFN:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return FFN(draw(neurons, hidden), draw(neurons, hidden), draw(hidden, neurons))


X = torch.randn(7, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize(("segments", "shared"), [(2, 1), (3, 1), (4, 3), (12, 5)])
def test_all_segments_together_are_the_network(segments: int, shared: int) -> None:
    ffn = random_ffn(0)
    common, own = cut([ffn], segments, shared)
    assert len(own) == segments - shared
    assert common.gate.shape == (12 // segments * shared, 5)
    assert all(part.down.shape == (5, 12 // segments) for part in own)
    # The shared neurons pass through float32 where they are averaged.
    torch.testing.assert_close(
        run(common, X) + sum(run(part, X) for part in own), run(ffn, X), atol=1e-5, rtol=0
    )


def test_any_order_of_the_neurons_is_the_network() -> None:
    ffn = random_ffn(0)
    shuffled = take(ffn, torch.randperm(12))
    torch.testing.assert_close(run(shuffled, X), run(ffn, X), atol=1e-12, rtol=0)


def test_segments_of_one_network_stand_together() -> None:
    ffns = [random_ffn(seed) for seed in range(3)]
    common, own = cut(ffns, 4, 1)
    shared = by_disagreement(ffns)[:3].sort().values
    routed = torch.tensor([f for f in range(12) if f not in shared])
    assert common.up.equal(average([take(ffn, shared) for ffn in ffns]).up)
    for at, ffn in enumerate(ffns):
        for part in range(3):
            assert own[3 * at + part].down.equal(ffn.down[:, routed[3 * part : 3 * part + 3]])


def test_what_is_shared_is_what_agrees() -> None:
    first = random_ffn(0)
    second = FFN(first.gate.clone(), first.up.clone(), first.down.clone())
    second.gate[[0, 2, 3]] += torch.tensor([[1.0], [2.0], [3.0]])
    second.up[5] += 0.1
    second.down[:, 7] -= 0.2
    assert by_disagreement([first, second]).tolist() == [1, 4, 6, 8, 9, 10, 11, 5, 7, 0, 2, 3]


def test_the_mean_by_hand() -> None:
    half = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    assert mean(iter([half, 3 * half])).tolist() == [2.0, 4.0]
    assert average([FFN(half, half, half), FFN(half, half, half)]).up.dtype == torch.bfloat16
