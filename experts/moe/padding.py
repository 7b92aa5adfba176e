"""Padding in front of short prompts, so that prompts of several lengths are generated in one batch.

Tokens never attend to the padding, and the first token of a prompt has position 0: an answer is the one that
the prompt has alone, to rounding.

Legend: S sequences, P tokens of the longest prompt, A tokens of an answer, T tokens of a pass, K tokens that
ran so far.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Prompts", "answer_lengths", "attention_mask", "positions", "routed_tokens"]


class Prompts(NamedTuple):
    """Prompts of one batch.

    Attributes:
        tokens: [S, P] int64; shorter prompts have padding in front.
        start: [S] int64, the number of padding tokens; None where no prompt has any.
    """

    tokens: Tensor
    start: Tensor | None = None


def positions(start: Tensor | None, first: int, count: int) -> Tensor:
    """Return the positions of a pass's tokens, [S, T] int64, or [1, T] without padding; 0 for padding.

    Args:
        start: [S] int64, padding of each sequence; None: none.
        first: tokens before this pass.
        count: T.
    """
    places = torch.arange(first, first + count).unsqueeze(0)
    return places if start is None else (places - start.unsqueeze(1)).clamp(min=0)


def attention_mask(start: Tensor | None, first: int, count: int) -> Tensor | None:
    """Return what is added to attention scores, [S, 1, T, K] float32; None where attention is just causal.

    Padding attends to itself alone, because the softmax of no score is not a number.

    Args:
        start: [S] int64, padding of each sequence; None: none.
        first: tokens before this pass.
        count: T.
    """
    if start is None:
        return None
    query, key = torch.arange(first, first + count).unsqueeze(1), torch.arange(first + count)
    seen = (key <= query) & ((key >= start[:, None, None]) | (key == query))
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min).unsqueeze(1)


def answer_lengths(answers: Tensor, end: int | None) -> Tensor:
    """Return the tokens of each answer up to its first end token, that one included, [S] int64.

    Args:
        answers: [S, A] int64.
        end: the token that ends an answer; None: answers have all A tokens.

    >>> answer_lengths(torch.tensor([[4, 9, 9], [4, 5, 6]]), end=9)
    tensor([2, 3])
    """
    whole = torch.full((len(answers),), answers.shape[1])
    if end is None:
        return whole
    ends = answers == end
    return torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, whole)


def routed_tokens(prompts: Prompts, answers: Tensor, end: int | None, count: int) -> Tensor | None:
    """Return which of the tokens that passed the experts belong to a prompt or its answer, [S, T] bool.

    The last token of an answer is not run, and neither would a sequence be after its end; None: all belong.

    Args:
        prompts: of the batch.
        answers: [S, A] int64.
        end: the token that ends an answer; None: none does.
        count: T, prompt tokens and the answer's tokens that were run.
    """
    if prompts.start is None and end is None:
        return None
    place, length = torch.arange(count), prompts.tokens.shape[1]
    last = (length + answer_lengths(answers, end) - 1).unsqueeze(1)
    first = 0 if prompts.start is None else prompts.start.unsqueeze(1)
    return (place >= first) & (place < last)
