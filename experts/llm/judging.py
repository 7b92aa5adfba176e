"""Answers graded by a model: what it is asked, and how its reply is read."""

from __future__ import annotations

import re

from .asking import Request
from .endpoints import Judge

__all__ = ["grade_in", "judgement"]


def judgement(judge: Judge, prompt: str, reference: str | None, answer: str) -> Request:
    """What the judge is asked about an answer."""
    parts = {"prompt": prompt, "reference": reference or "(none)", "answer": answer}
    # In one pass, so that braces in a prompt or an answer stay what they are.
    filled = re.sub(r"\{(prompt|reference|answer)\}", lambda match: parts[match[1]], judge.prompt)
    return Request(judge.endpoint, filled)


def grade_in(reply: str, scale: float) -> float | None:
    """The last number of a judge's reply over the best grade, or None where that is no grade.

    >>> grade_in("Grade: 7", 10.0)
    0.7
    """
    found = re.findall(r"-?\d+(?:\.\d+)?", re.sub(rf"\s*(?:/|out of)\s*{scale:g}\b", "", reply))
    grade = float(found[-1]) / scale if found else -1.0
    return grade if 0.0 <= grade <= 1.0 else None
