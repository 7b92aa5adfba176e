"""Generation with kept keys and values does what a full pass over each longer text does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experts.moe.decoding import generate, greedy, sampled
from experts.moe.frozen_base import Base
from experts.moe.tail import Choose, Tail

COUNT = 6


@pytest.fixture(scope="module")
def tail(base: Base, ffns: dict[str, list[dict[str, Tensor]]]) -> Tail:
    return base.tail(ffns)


def by_input(tail: Tail, k: int) -> Choose:
    """Return a router whose choice depends on the gate's input and the layer."""
    weight = torch.randn(tail.depth, tail.experts, tail.hidden, generator=torch.Generator().manual_seed(5))

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        z, experts = (x @ weight[layer].T).sort(dim=-1, descending=True, stable=True)
        return experts[..., :k], z[..., :k].softmax(dim=-1)

    return choose


def slowly(base: Base, tail: Tail, prompts: Tensor, count: int, choose: Choose) -> Tensor:
    """Greedy generation that runs the whole text again for every token."""
    text = prompts
    for _ in range(count):
        logits = tail.logits(tail(base.trunk(text), choose))
        text = torch.cat([text, logits[:, -1:].argmax(dim=-1)], dim=1)
    return text[:, prompts.shape[1] :]


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("length", [1, 5])
def test_it_generates_what_full_passes_generate(base: Base, tail: Tail, k: int, length: int) -> None:
    prompts = torch.randint(23, (7, length), generator=torch.Generator().manual_seed(length))
    choose = by_input(tail, k)
    made = generate(base, tail, prompts, COUNT, choose)
    assert torch.equal(made, slowly(base, tail, prompts, COUNT, choose))
    assert len(set(made.flatten().tolist())) > 3  # the answers differ, so equality means something


def test_every_token_but_the_last_is_routed_once(base: Base, tail: Tail) -> None:
    seen: list[tuple[int, int]] = []

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((layer, x.shape[1]))
        return torch.zeros(*x.shape[:-1], 1, dtype=torch.int64), torch.ones(*x.shape[:-1], 1)

    generate(base, tail, torch.zeros(2, 4, dtype=torch.int64), 3, choose)
    assert seen == [(0, 4), (1, 4), (0, 1), (1, 1), (0, 1), (1, 1)]


def test_sampled_tokens_follow_the_softmax_and_the_seed() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    draw = [sampled(torch.Generator().manual_seed(3), 0.5)(logits) for _ in range(2)]
    assert torch.equal(*draw)
    shares = torch.bincount(draw[0], minlength=3) / len(logits)
    torch.testing.assert_close(shares, (2.0 * logits[0]).softmax(dim=-1), atol=0.01, rtol=0)


def test_greedy_ties_go_to_the_lowest_id() -> None:
    assert greedy(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [1]
