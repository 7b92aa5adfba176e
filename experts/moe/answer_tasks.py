"""Deterministic problems with verifiable answers, and text in which people answer them, often wrongly.

A prompt is the end of a note in plain words, with a request and four digits. The request is worded in several
ways, and no single byte says which task it is. Prompts and answers of all tasks have one form:

    prompt, up to its `=`                  right answer    common mistake
    ain. please mirror the row 7391=       1937            1397    reverse: exchanges the ends only
    ain. please rank the row 7391=         1379            1739    sort: moves the smallest to the front only
    ain. please total the row 7391=        0208            9998    sums: writes 9 for a sum above 9

An answer of `sums` has the sums of neighbouring digits modulo ten, and last that of the last and first
digit. The text has the common mistake in `MISTAKEN` of the answers, as text from people may have; the
verifier accepts only the right answer.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ANSWER",
    "MISTAKEN",
    "PROMPT",
    "TASKS",
    "WORDS",
    "common_mistake",
    "problem_text",
    "right_answer",
    "score",
    "text_of",
    "text_rows",
    "verify",
]

TASKS = ("reverse", "sort", "sums")
WORDS = 128  # tokens are the bytes of ASCII
PROMPT, ANSWER = 32, 4  # bytes of every prompt, with its `=`, and of every answer
MISTAKEN = 0.6  # share of the text's answers with the common mistake
_VERBS = {
    "reverse": ("mirror", "invert", "turn", "flip", "undo"),
    "sort": ("arrange", "order", "rank", "align", "settle"),
    "sums": ("add", "total", "sum", "tot up", "combine"),
}
_TASK_OF = {verb.split()[0]: task for task, verbs in _VERBS.items() for verb in verbs}
_OBJECTS = ("the figures", "the digits", "the row", "my list", "all of it")
_NOTES = (
    "thank you for the note of monday.",
    "the train was late again.",
    "i hope that you are well.",
    "it rained for most of the week.",
    "we met at the market last year.",
    "the garden needs some work.",
    "my sister sends her love.",
    "the meeting was moved to friday.",
)
_POLITE = ("please", "could you", "kindly", "now", "pray")


def right_answer(task: str, digits: str) -> str:
    """Return the answer that the verifier accepts.

    Args:
        task: a name in `TASKS`.
        digits: of the prompt.

    >>> [right_answer(task, "7391") for task in TASKS]
    ['1937', '1379', '0208']
    """
    if task == "reverse":
        return digits[::-1]
    if task == "sort":
        return "".join(sorted(digits))
    return "".join(str(total % 10) for total in _sums(digits))


def common_mistake(task: str, digits: str) -> str:
    """Return the answer that is given in a hurry; it is right for some digits.

    Args:
        task: a name in `TASKS`.
        digits: of the prompt.

    >>> [common_mistake(task, "7391") for task in TASKS]
    ['1397', '1739', '9998']
    """
    if task == "reverse":
        return digits[-1] + digits[1:-1] + digits[0]
    if task == "sort":
        first = min(digits)
        return first + digits.replace(first, "", 1)
    return "".join(str(min(total, 9)) for total in _sums(digits))


def problem_text(task: str, number: int) -> tuple[str, str]:
    """Return a prompt of `PROMPT` bytes and its four digits, determined by task and number.

    Args:
        task: a name in `TASKS`.
        number: any integer.
    """
    rng = random.Random(f"{task}/{number}")
    digits = "".join(str(rng.randrange(10)) for _ in range(ANSWER))
    request = f"{rng.choice(_POLITE)} {rng.choice(_VERBS[task])} {rng.choice(_OBJECTS)} {digits}="
    return f"{rng.choice(_NOTES)} {request}"[-PROMPT:], digits


def text_rows(task: str, first: int, count: int, mistaken: float = MISTAKEN) -> np.ndarray:
    """Return prompts with the answers that the text has.

    Args:
        task: a name in `TASKS`.
        first: number of the first problem.
        count: number of problems.
        mistaken: share of the answers with the common mistake; 0: all are right.

    Returns:
        [count, PROMPT + ANSWER] int64.
    """
    texts = ("".join(text_of(task, number, mistaken)) for number in range(first, first + count))
    return np.array([list(text.encode("ascii")) for text in texts], dtype=np.int64)


def text_of(task: str, number: int, mistaken: float = MISTAKEN) -> tuple[str, str]:
    """Return a prompt and the answer that the text has.

    Args:
        task: a name in `TASKS`.
        number: of the problem.
        mistaken: probability of the common mistake; 0: the answer is right.
    """
    prompt, digits = problem_text(task, number)
    wrong = random.Random(f"answer/{task}/{number}").random() < mistaken
    return prompt, (common_mistake if wrong else right_answer)(task, digits)


def verify(prompts: Tensor, answers: Tensor) -> Tensor:
    """Return 1 where an answer is right, else 0, [B] float32; it reads the task and the digits in the prompt.

    Args:
        prompts: [B, PROMPT] int64.
        answers: [B, ANSWER] int64.
    """
    right = [list(_right(bytes(prompt).decode("ascii")).encode("ascii")) for prompt in prompts.tolist()]
    return (answers == torch.tensor(right).reshape(answers.shape)).all(dim=1).float()


def score(prompt: str, reference: str | None, answer: str) -> float:
    """Return 1 for the right answer, else 0; a scorer for `problem.scorer`.

    Args:
        prompt: of a problem.
        reference: not used: the text's answer may be mistaken.
        answer: that was generated.

    >>> score("please mirror the row 7391=", "1397", " 1937")
    1.0
    """
    return float(answer.strip() == _right(prompt))


def _right(prompt: str) -> str:
    """The right answer to a prompt, whose words say the task."""
    task = next(_TASK_OF[word] for word in prompt.split() if word in _TASK_OF)
    return right_answer(task, prompt[-ANSWER - 1 : -1])


def _sums(digits: str) -> list[int]:
    values = [int(digit) for digit in digits]
    return [one + two for one, two in zip(values, values[1:] + values[:1], strict=True)]
