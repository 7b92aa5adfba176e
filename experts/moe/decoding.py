"""Generate answers with the routed experts: a prompt in one pass, then one token at a time.

Keys and values of earlier tokens are kept (`transformers.DynamicCache`), in the trunk and in the tail, so
every token is routed once. A token's route stays as it was chosen: later tokens attend to what it left.
Shorter prompts have padding in front, which is routed too, but which no token attends to.

Legend: S prompts, P tokens of the longest prompt, A tokens of an answer, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .frozen_base import Base
from .huggingface import transformers_library
from .padding import Prompts
from .tail import Choose, Tail

__all__ = ["Draw", "generate", "greedy", "sampled"]

Draw = Callable[[Tensor], Tensor]
"""From logits [S, V] float32 to tokens [S] int64."""


def greedy(logits: Tensor) -> Tensor:
    """Return the most likely tokens [S] int64 of logits [S, V]; ties go to the lowest id."""
    return logits.argmax(dim=-1)


def sampled(generator: torch.Generator, temperature: float = 1.0) -> Draw:
    """Return a draw from the softmax of the logits.

    Args:
        generator: of the draws.
        temperature: divides the logits, above 0.
    """

    def draw(logits: Tensor) -> Tensor:
        chances = (logits / temperature).softmax(dim=-1)
        return torch.multinomial(chances, 1, generator=generator).squeeze(-1)

    return draw


@torch.no_grad()
def generate(
    base: Base,
    tail: Tail,
    prompts: Prompts,
    count: int,
    choose: Choose,
    draw: Draw = greedy,
    end: int | None = None,
    copies: int = 1,
) -> Tensor:
    """Return the answers that the routed experts generate.

    Args:
        base: with the trunk.
        tail: the layers with experts.
        prompts: of the batch.
        count: A, tokens to generate.
        choose: the router; it is called with x [S, P, H] for the prompts at each layer, then with [S, 1, H]
            for each token of the answers but the last one.
        draw: selects the next token.
        end: the token that ends an answer; it is repeated after it, and the last passes are left out when
            every answer has ended. None: no answer ends early.
        copies: how many neighbours have the same prompt each; the trunk reads it once for all of them.

    Returns:
        [S, A] int64.
    """
    cache: Any = transformers_library().DynamicCache()
    (tokens, start), first, answers = prompts, 0, []
    states = base.trunk(tokens[::copies], tail.dtype, cache, start=None if start is None else start[::copies])
    if copies > 1:
        states = states.repeat_interleave(copies, dim=0)
        cache.batch_repeat_interleave(copies)
    while True:
        hidden = tail(states, choose, cache, first, start)
        drawn, first = draw(tail.logits(hidden[:, -1])).unsqueeze(-1), first + tokens.shape[1]
        if end is not None and answers:
            drawn = torch.where(tokens == end, end, drawn)
        tokens = drawn
        answers.append(tokens)
        if end is not None and bool((tokens == end).all()):
            answers += [tokens] * (count - len(answers))
        if len(answers) == count:
            return torch.cat(answers, dim=1)
        states = base.trunk(tokens, tail.dtype, cache, first, start)
