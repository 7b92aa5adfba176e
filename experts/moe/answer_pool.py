"""A packaged token-level pool whose answers can be verified: three tasks, one expert for each.

The base was trained on the text of `answer_tasks.py`, mistakes included; the expert of each task on prompts
of its task with right answers. So the base's own FFN, the general expert, predicts the text's answers best
and makes the common mistakes, and an expert answers its task right and predicts the mistaken text badly.
`answer_pretrain.py` trained them. The model has hidden size 48 and five layers, the last three with experts.
It needs transformers and downloads nothing.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import nn

from .answer_tasks import ANSWER, TASKS, WORDS, text_rows, verify
from .branch import average
from .byte_model import byte_base, byte_model
from .sequences import Sequences, measure_sequences
from .token_pool import GENERAL, Problems, TokenPool, read_ffns

__all__ = ["DEPTH", "EXPERTS", "FIRST", "WEIGHTS", "answer_model", "answer_pool"]

WEIGHTS = Path(__file__).with_name("answer_base.safetensors")
EXPERTS = WEIGHTS.with_name("answer_experts.safetensors")
DEPTH = 3
FIRST = {"train": 0, "validation": 20_000, "test": 40_000}  # the problems of each part
_TREE = ("problems", (0, 1, 2, 3))


def answer_model() -> nn.Module:
    """Return the base's architecture with random weights.

    Raises:
        InputError: transformers is not installed.
    """
    return byte_model(WORDS, layers=5, longest=128)


@lru_cache(maxsize=4)
def answer_pool(train: int = 128, validation: int = 128, test: int = 128) -> TokenPool:
    """Return the pool with problems; every sequence is a prompt with the text's answer.

    Args:
        train: problems of each task in the training part.
        validation: problems of each task in the validation part.
        test: problems of each task in the test part.

    Raises:
        InputError: transformers is not installed.
    """
    counts = {"train": train, "validation": validation, "test": test}
    base, experts = byte_base(answer_model(), WEIGHTS, DEPTH, "answers"), read_ffns(EXPERTS, TASKS)
    tail, mean = base.tail({**experts, GENERAL: base.dense()}), average(list(experts.values()))

    def part(name: str) -> Sequences:
        count = counts[name]
        rows = np.stack([text_rows(task, FIRST[name], count) for task in TASKS], axis=1)
        tokens = rows.reshape(-1, rows.shape[-1])  # the tasks take turns, so that halves have as many of each
        domain = np.tile(np.arange(len(TASKS)), count)[:, None].repeat(tokens.shape[1], axis=1)
        return measure_sequences(base, tail, tokens, domain, batch=64, doing=None)

    return TokenPool(
        name="answers",
        base=base,
        tail=tail,
        average=base.tail({"average": mean, "same": mean}),
        domains=TASKS,
        tree=_TREE,
        parts={name: part(name) for name in FIRST},
        problems=Problems(answer=ANSWER, verify=verify),
    )
