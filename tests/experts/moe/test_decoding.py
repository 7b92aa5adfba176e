"""Generation with kept keys and values does what a full pass over each longer text does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from experts.moe.decoding import generate, greedy, sampled
from experts.moe.frozen_base import Base
from experts.moe.padding import Prompts, answer_lengths, attention_mask, positions, routed_tokens
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
    made = generate(base, tail, Prompts(prompts), COUNT, choose)
    assert torch.equal(made, slowly(base, tail, prompts, COUNT, choose))
    assert len(set(made.flatten().tolist())) > 3  # the answers differ, so equality means something


def test_every_token_but_the_last_is_routed_once(base: Base, tail: Tail) -> None:
    seen: list[tuple[int, int]] = []

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((layer, x.shape[1]))
        return torch.zeros(*x.shape[:-1], 1, dtype=torch.int64), torch.ones(*x.shape[:-1], 1)

    generate(base, tail, Prompts(torch.zeros(2, 4, dtype=torch.int64)), 3, choose)
    assert seen == [(0, 4), (1, 4), (0, 1), (1, 1), (0, 1), (1, 1)]


def test_sampled_tokens_follow_the_softmax_and_the_seed() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    draw = [sampled(torch.Generator().manual_seed(3), 0.5)(logits) for _ in range(2)]
    assert torch.equal(*draw)
    shares = torch.bincount(draw[0], minlength=3) / len(logits)
    torch.testing.assert_close(shares, (2.0 * logits[0]).softmax(dim=-1), atol=0.01, rtol=0)


def test_greedy_ties_go_to_the_lowest_id() -> None:
    assert greedy(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [1]


@pytest.mark.parametrize("k", [1, 2])
def test_padding_changes_no_answer(base: Base, tail: Tail, k: int) -> None:
    """Prompts of several lengths in one batch are answered as each is alone."""
    generator, lengths = torch.Generator().manual_seed(3), (1, 4, 7, 7, 2)
    own = [torch.randint(23, (1, length), generator=generator) for length in lengths]
    choose, longest = by_input(tail, k), max(lengths)
    padded = torch.cat([torch.nn.functional.pad(each, (longest - each.shape[1], 0), value=9) for each in own])
    start = torch.tensor([longest - length for length in lengths])
    together = generate(base, tail, Prompts(padded, start), COUNT, choose)
    alone = torch.cat([slowly(base, tail, each, COUNT, choose) for each in own])
    assert torch.equal(together, alone)
    without = generate(base, tail, Prompts(padded), COUNT, choose)
    assert not torch.equal(without[[0, 1, 4]], alone[[0, 1, 4]])  # padding that is seen changes answers
    assert torch.equal(without[2:4], alone[2:4])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trunk_reads_repeated_prompts_once(
    base: Base,
    ffns: dict[str, list[dict[str, Tensor]]],
    dtype: torch.dtype,
    padded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three generations of each prompt, with routes of their own, are what they are without `copies`."""
    tail, read = base.tail(ffns, dtype), list[tuple[int, ...]]()
    tokens = torch.randint(23, (4, 5), generator=torch.Generator().manual_seed(3)).repeat_interleave(3, dim=0)
    start = torch.tensor([0, 3, 1, 0]).repeat_interleave(3) if padded else None
    shift = torch.randn(12, 1, tail.experts, generator=torch.Generator().manual_seed(4))

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        experts = (x[..., : tail.experts] + shift).argmax(dim=-1, keepdim=True)
        return experts, torch.ones(experts.shape)

    wanted = generate(base, tail, Prompts(tokens, start), COUNT, choose)
    trunk = Base.trunk

    def watched(self: Base, tokens: Tensor, *others: Any, **named: Any) -> Tensor:
        read.append(tuple(tokens.shape))
        return trunk(self, tokens, *others, **named)

    monkeypatch.setattr(Base, "trunk", watched)
    made = generate(base, tail, Prompts(tokens, start), COUNT, choose, copies=3)
    assert read == [(4, 5)] + [(12, 1)] * (COUNT - 1)
    assert torch.equal(made, wanted)
    assert not torch.equal(made[::3], made[1::3])


def test_padded_inputs_of_the_gates_are_those_of_each_prompt(base: Base, tail: Tail) -> None:
    own = torch.randint(23, (1, 5), generator=torch.Generator().manual_seed(4))
    padded, start = torch.nn.functional.pad(own, (3, 0), value=9), torch.tensor([3])
    hidden = base.trunk(padded, start=start)
    torch.testing.assert_close(hidden[:, 3:], base.trunk(own), atol=1e-5, rtol=1e-5)
    for layer in range(tail.depth):
        wanted = tail.attend(layer, base.trunk(own))
        found = tail.attend(layer, hidden, start=start)
        for one, two in zip(found, wanted, strict=True):
            assert bool(one.isfinite().all())
            torch.testing.assert_close(one[:, 3:], two, atol=1e-5, rtol=1e-5)


def test_an_answer_ends_at_its_end_token(base: Base, tail: Tail) -> None:
    prompts = Prompts(torch.randint(23, (9, 3), generator=torch.Generator().manual_seed(3)))
    whole = generate(base, tail, prompts, COUNT, by_input(tail, 1))
    end = int(whole[0, 2])
    ended = generate(base, tail, prompts, COUNT, by_input(tail, 1), end=end)
    lengths = answer_lengths(whole, end)
    assert 1 < int(lengths[0]) <= 3
    for one, two, length in zip(ended, whole, lengths, strict=True):
        assert torch.equal(one[:length], two[:length])
        assert (one[length:] == end).all()
    passes: list[int] = []

    def counted(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        passes.append(x.shape[1])
        return by_input(tail, 1)(layer, x)

    first = Prompts(prompts.tokens[:1])
    generate(base, tail, first, COUNT, counted, end=end)
    assert len(passes) == tail.depth * int(lengths[0])  # no pass after the end of all answers


def test_masks_and_positions_of_padding() -> None:
    start = torch.tensor([0, 2])
    assert positions(start, 1, 3).tolist() == [[1, 2, 3], [0, 0, 1]]
    assert positions(None, 1, 3).tolist() == [[1, 2, 3]]
    assert attention_mask(None, 0, 3) is None
    mask = attention_mask(start, 0, 4)
    assert mask is not None
    assert (mask[1, 0] == 0).int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert (mask[0, 0] == 0).int().tolist() == torch.ones(4, 4).tril().int().tolist()


def test_tokens_that_belong_to_no_answer_are_left_out() -> None:
    prompts = Prompts(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]))
    answers = torch.tensor([[5, 9, 9, 9], [5, 6, 7, 8]])
    found = routed_tokens(prompts, answers, 9, 6)
    assert found is not None
    assert found.int().tolist() == [[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]]
    assert routed_tokens(Prompts(prompts.tokens), answers, None, 6) is None
