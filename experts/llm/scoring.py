"""Scorers: the quality of an answer, 0 to 1, by its text and the reference."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..io.errors import InputError, unknown_name

__all__ = [
    "JUDGED",
    "READERS",
    "SCORERS",
    "Scorer",
    "exact_match",
    "multiple_choice",
    "numeric",
    "scorer_named",
]

# (prompt, reference or None, answer) to quality in [0, 1].
Scorer = Callable[[str, "str | None", str], float]

# A minus sign is read only with nothing before it: 10-20 ends in 20, GPT-4 in 4.
_NUMBER = r"(?:(?<![\w.)])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?:\s*/\s*\d+)?"

JUDGED = "judge"  # the name of the scorer that is a language model, see judging.py


def exact_match(prompt: str, reference: str | None, answer: str) -> float:
    """Return 1 if answer and reference are equal up to case, white space and a final full stop, else 0.

    Args:
        prompt: not used.
        reference: the correct answer.
        answer: the text to score.

    Raises:
        InputError: there is no reference.

    >>> exact_match("Capital of France?", "Paris", " paris. ")
    1.0
    """
    return float(_plain(answer) == _plain(_needed(reference)))


def multiple_choice(prompt: str, reference: str | None, answer: str) -> float:
    r"""Return 1 if the letter of the answer is the reference's, else 0.

    The letter is the last of `answer is (C)`, `answer: C` or `\boxed{C}`, else the one at the start of the
    answer (`C`, `(C)`, `C.`, `C) ...`), else the only capital A to J that is a word (except I).

    Args:
        prompt: not used.
        reference: the correct letter.
        answer: the text to score.

    Raises:
        InputError: there is no reference.

    >>> multiple_choice("...", "C", "B is wrong, so the answer is (C).")
    1.0
    """
    return float(_letter(answer) == _needed(reference).strip(" ().").upper())


def numeric(prompt: str, reference: str | None, answer: str) -> float:
    r"""Return 1 if the final number of the answer equals the reference to a relative 1e-6, else 0.

    The final number follows `####` or is in `\boxed{}`, else it is the last one. Thousands separators,
    currency signs and units are skipped; `3/4` is 0.75 and `75%` is 75.

    Args:
        prompt: not used.
        reference: the correct number.
        answer: the text to score.

    Raises:
        InputError: there is no reference, or it has no number.

    >>> numeric("...", "1,234.5", "So it costs $1234.50 in all.")
    1.0
    """
    expected = _number(_needed(reference))
    if expected is None:
        raise InputError("reference", reference, "has no number", "give a number, or use another scorer")
    final = _number(answer)
    return float(final is not None and math.isclose(final, expected, rel_tol=1e-6, abs_tol=1e-9))


SCORERS: dict[str, Scorer] = {
    "exact_match": exact_match,
    "multiple_choice": multiple_choice,
    "numeric": numeric,
}


def scorer_named(name: str) -> Scorer:
    """Return the scorer of a name.

    Args:
        name: a key of `SCORERS`, or `module:function` for a Python function that is called with the prompt,
            the reference and the answer and returns 0 to 1. Modules are also searched in the current folder.

    Raises:
        InputError: the scorer, module or function does not exist.
    """
    if ":" not in name:
        if name not in SCORERS:
            raise unknown_name("scorer", name, [*SCORERS, JUDGED, "module:function"])
        return SCORERS[name]
    module, _, function = name.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        scorer: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError("scorer", name, f"cannot be imported ({error})", "write module:function") from error
    finally:
        sys.path.remove(folder)
    if not callable(scorer):
        raise InputError("scorer", name, "cannot be called", "name a function")

    def checked(prompt: str, reference: str | None, answer: str) -> float:
        try:
            outcome: Any = scorer(prompt, reference, answer)
            quality = float(outcome)
        except Exception as error:
            problem = f"failed on the answer {answer[:60]!r} ({error!r})"
            raise InputError(
                "scorer", name, problem, "correct it; answers are kept, so no request is repeated"
            ) from error
        if not 0.0 <= quality <= 1.0:
            raise InputError(
                "scorer",
                name,
                f"returned {quality}",
                "return 0 to 1; answers are kept, so no request is repeated",
            )
        return quality

    return checked


def _number_text(text: str) -> str | None:
    number = _number(text)
    return None if number is None else f"{number:.7g}"  # to the tolerance of `numeric`


def _needed(reference: str | None) -> str:
    if reference is None:
        fix = "add a reference column, or use a scorer that needs none (judge, module:function)"
        raise InputError("reference", None, "is missing", fix)
    return reference


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".").strip()


def _letter(answer: str) -> str | None:
    # A small letter is read only if brackets or full stops follow: "the answer is a bit long" has none.
    letter = r"([A-J]\b|[a-j](?=[)\]}]|[.\s*]*$))"
    settled = re.findall(r"(?:(?i:answer\s*(?:is|:))|\\boxed\{)[\s(\[*:]*" + letter, answer)
    if settled:
        return settled[-1].upper()
    first = re.match(r"[\s(\[*]*([A-Ja-j])(?:[\s).\]:*,]*$|[).\]:*,])", answer)
    if first:
        return first[1].upper()
    alone = set(re.findall(r"(?<![A-Za-z])([A-HJ])(?![A-Za-z'])", answer))
    return alone.pop() if len(alone) == 1 else None


def _number(text: str) -> float | None:
    for pattern in (r"####(.*)", r"\\boxed\{([^{}]*)\}"):
        marked = re.findall(pattern, text)
        if marked:
            text = marked[-1]
            break
    numbers = re.findall(_NUMBER, text)
    if not numbers:
        return None
    top, _, bottom = numbers[-1].replace(",", "").partition("/")
    return float(top) / (float(bottom or 1) or 1.0)  # a denominator of 0 is ignored


# What each scorer compares: two answers are the same where these texts are. None: the answer has none.
READERS: dict[str, Callable[[str], str | None]] = {
    "exact_match": lambda text: _plain(text) or None,
    "multiple_choice": _letter,
    "numeric": _number_text,
}
