"""Grading by a judge model: its request, and the grade in its reply."""

from __future__ import annotations

import re

from .asking import Request
from .endpoints import Judge

__all__ = ["grade_in", "grading_prompt", "judgement"]


def judgement(judge: Judge, prompt: str, reference: str | None, answer: str) -> Request:
    """Return the request that asks a judge to grade an answer.

    Args:
        judge: the model and its prompt.
        prompt: what the answer replies to.
        reference: the correct answer; None if there is none.
        answer: the answer to grade.
    """
    return Request(judge.endpoint, grading_prompt(judge, prompt, answer, reference))


def grading_prompt(judge: Judge, prompt: str, answer: str, reference: str | None = None) -> str:
    """Return the prompt of a judge or a verifier.

    Args:
        judge: the model and its prompt.
        prompt: what the answer replies to.
        answer: the answer to grade.
        reference: the correct answer; None if there is none.
    """
    parts = {"prompt": prompt, "reference": reference or "(none)", "answer": answer}
    # In one pass, so that braces in a prompt or an answer are not replaced.
    return re.sub(r"\{(prompt|reference|answer)\}", lambda match: parts[match[1]], judge.prompt)


def grade_in(reply: str, scale: float) -> float | None:
    """Return the last number of a judge's reply divided by the highest grade, or None if it is not a grade.

    Args:
        reply: the judge's text.
        scale: the highest grade.

    Returns:
        In [0, 1].

    >>> grade_in("Grade: 7", 10.0)
    0.7
    """
    numbers = re.findall(r"-?\d+(?:\.\d+)?", re.sub(rf"\s*(?:/|out of)\s*{scale:g}\b", "", reply))
    grade = float(numbers[-1]) / scale if numbers else -1.0
    return grade if 0.0 <= grade <= 1.0 else None
