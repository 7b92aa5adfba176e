"""The packaged pool with verified answers: small, offline, and each expert is right on its task only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts.moe.answer_pool import EXPERTS, WEIGHTS, answer_pool
from experts.moe.answer_pretrain import train_together
from experts.moe.answer_tasks import ANSWER, PROMPT, TASKS
from experts.moe.decoding import generate
from experts.moe.padding import Prompts
from experts.moe.token_pool import TokenPool


@pytest.fixture(scope="module")
def pool() -> TokenPool:
    return answer_pool(4, 4, 60)


def test_the_weights_are_under_a_megabyte() -> None:
    assert WEIGHTS.stat().st_size + EXPERTS.stat().st_size < 1_000_000


def test_each_expert_answers_its_own_task_and_no_other(pool: TokenPool) -> None:
    part = pool.parts["test"]
    prompts, problems = torch.from_numpy(part.tokens[:, :PROMPT]), pool.problems
    assert problems is not None
    right = np.zeros((pool.tail.experts, len(TASKS)))
    for expert in range(pool.tail.experts):

        def choose(layer: int, x: torch.Tensor, expert: int = expert) -> tuple[torch.Tensor, torch.Tensor]:
            shape = (*x.shape[:-1], 1)
            return torch.full(shape, expert), torch.ones(shape)

        made = generate(pool.base, pool.tail, Prompts(prompts), ANSWER, choose)
        found = problems.verify(prompts, made).numpy()
        right[expert] = [found[part.domain[:, 0] == task].mean() for task in range(len(TASKS))]
    own = np.eye(pool.tail.experts, len(TASKS), dtype=bool)
    assert right[own].min() >= 0.9
    assert right[~own].max() <= 0.5


def test_the_general_expert_predicts_the_answers_of_the_text_best(pool: TokenPool) -> None:
    part = pool.parts["test"]
    loss = part.path_loss[:, :, -ANSWER:].mean(axis=2)
    for task in range(len(TASKS)):
        assert loss[part.domain[:, 0] == task].mean(axis=0).argmin() == len(TASKS)
    np.testing.assert_allclose(part.path_loss[:, -1], part.dense_loss, atol=1e-5)


def test_parts_hold_as_many_problems_of_each_task_and_share_none(pool: TokenPool) -> None:
    for name, count in (("train", 4), ("validation", 4), ("test", 60)):
        assert np.bincount(pool.parts[name].domain[:, 0]).tolist() == [count] * len(TASKS)
    texts = [{bytes(row.astype(np.uint8)) for row in part.tokens} for part in pool.parts.values()]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]


@pytest.mark.slow
def test_training_lowers_the_loss_and_repeats() -> None:
    def curve(steps: int) -> list[float]:
        losses: list[float] = []
        train_together(steps, 40, lambda step, loss, made: losses.append(loss))
        return losses

    first = curve(6)
    assert first[5] < first[0]
    assert first == curve(6)
