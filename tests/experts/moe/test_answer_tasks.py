"""Problems of the answers pool: the same for everybody, and verified by a second reading of the prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts.moe.answer_tasks import (
    ANSWER,
    MISTAKEN,
    PROMPT,
    TASKS,
    WORDS,
    common_mistake,
    problem_text,
    right_answer,
    score,
    text_of,
    text_rows,
    verify,
)


@pytest.mark.parametrize("task", TASKS)
def test_the_verifier_accepts_right_answers_only(task: str) -> None:
    right, wrong = (torch.from_numpy(text_rows(task, 0, 300, mistaken=share)) for share in (0.0, 1.0))
    prompts = right[:, :PROMPT]
    assert torch.equal(prompts, wrong[:, :PROMPT])
    assert verify(prompts, right[:, PROMPT:]).tolist() == [1.0] * 300
    same = (right == wrong).all(dim=1)  # a mistake that happens to be right
    assert torch.equal(verify(prompts, wrong[:, PROMPT:]), same.float())
    assert 0.02 < float(same.float().mean()) < 0.35


@pytest.mark.parametrize("task", TASKS)
def test_the_scorer_agrees_with_the_verifier(task: str) -> None:
    for number in range(200):
        prompt, answer = text_of(task, number)
        row = torch.from_numpy(text_rows(task, number, 1))
        assert score(prompt, answer, f" {answer}\n") == float(verify(row[:, :PROMPT], row[:, PROMPT:]))
        assert score(prompt, "9999", text_of(task, number, 0.0)[1]) == 1.0
        assert score(prompt, "", "") == score(prompt, "12", answer[:3]) == 0.0


@pytest.mark.parametrize("task", TASKS)
def test_text_is_the_same_for_everybody_and_mistaken_as_often_as_it_says(task: str) -> None:
    rows = text_rows(task, 5, 2000)
    assert rows.shape == (2000, PROMPT + ANSWER)
    assert rows.max() < WORDS
    np.testing.assert_array_equal(rows[1:3], text_rows(task, 6, 2))
    right = text_rows(task, 5, 2000, mistaken=0.0)
    wrong = text_rows(task, 5, 2000, mistaken=1.0)
    tellable = (right != wrong).any(axis=1)
    share = (rows != right).any(axis=1)[tellable].mean()
    assert abs(share - MISTAKEN) < 0.04


def test_no_prompt_loses_its_request_or_digits() -> None:
    for task in TASKS:
        for number in range(300):
            prompt, digits = problem_text(task, number)
            assert len(prompt) == PROMPT
            assert prompt.endswith(f" {digits}=")


def test_hand_worked_answers() -> None:
    assert [right_answer(task, "5580") for task in TASKS] == ["0855", "0558", "0385"]
    assert [common_mistake(task, "5580") for task in TASKS] == ["0585", "0558", "9985"]
