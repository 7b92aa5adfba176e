"""How good an answer is, 0 to 1, by its text and the reference."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..io.errors import InputError, unknown_name

__all__ = ["JUDGED", "SCORERS", "Scorer", "exact_match", "multiple_choice", "numeric", "scorer_named"]

# (prompt, reference or None, answer) to quality in [0, 1].
Scorer = Callable[[str, "str | None", str], float]

# A sign counts where nothing stands before it: 10-20 ends on 20, GPT-4 on 4.
_NUMBER = r"(?:(?<![\w.)])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?:\s*/\s*\d+)?"

JUDGED = "judge"  # the scorer that is a model, see judging.py


def exact_match(prompt: str, reference: str | None, answer: str) -> float:
    """1 if answer and reference are the same words, up to case, white space and a full stop at the end.

    >>> exact_match("Capital of France?", "Paris", " paris. ")
    1.0
    """
    return float(_plain(answer) == _plain(_needed(reference)))


def multiple_choice(prompt: str, reference: str | None, answer: str) -> float:
    """1 if the letter that the answer settles on is the reference's.

    The letter is the last of `answer is (C)`, `answer: C` or `\\boxed{C}`, else the one that the answer
    begins with (`C`, `(C)`, `C.`, `C) ...`), else the only capital A to J that stands alone (I, the word,
    aside).

    >>> multiple_choice("...", "C", "B is wrong, so the answer is (C).")
    1.0
    """
    return float(_letter(answer) == _needed(reference).strip(" ().").upper())


def numeric(prompt: str, reference: str | None, answer: str) -> float:
    """1 if the number that the answer ends on is the reference, to a relative 1e-6.

    It is what follows `####` or stands in `\\boxed{}`, else the last number. Thousands separators, currency
    signs and units are skipped; `3/4` and `75%` are read as written (75% is 75).

    >>> numeric("...", "1,234.5", "So it costs $1234.50 in all.")
    1.0
    """
    wanted = _number(_needed(reference))
    if wanted is None:
        raise InputError("reference", reference, "holds no number", "give a number, or use another scorer")
    found = _number(answer)
    return float(found is not None and math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9))


SCORERS: dict[str, Scorer] = {
    "exact_match": exact_match,
    "multiple_choice": multiple_choice,
    "numeric": numeric,
}


def scorer_named(name: str) -> Scorer:
    """Return a scorer by its name, or the Python function that `module:function` names.

    Such a function is called with prompt, reference and answer, all text; modules are also looked for in the
    current folder.

    Raises:
        InputError: there is no such scorer, module or function.
    """
    if ":" not in name:
        if name not in SCORERS:
            raise unknown_name("scorer", name, [*SCORERS, JUDGED, "module:function"])
        return SCORERS[name]
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError("scorer", name, f"cannot be imported ({error})", "write module:function") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise InputError("scorer", name, "cannot be called", "name a function")

    def checked(prompt: str, reference: str | None, answer: str) -> float:
        try:
            outcome: Any = found(prompt, reference, answer)
            quality = float(outcome)
        except Exception as error:
            problem = f"failed on the answer {answer[:60]!r} ({error!r})"
            raise InputError("scorer", name, problem, "mend it; no answer is asked for again") from error
        if not 0.0 <= quality <= 1.0:
            raise InputError(
                "scorer", name, f"returned {quality}", "return 0 to 1; no answer is asked for again"
            )
        return quality

    return checked


def _needed(reference: str | None) -> str:
    if reference is None:
        fix = "add a reference column, or use a scorer that needs none (judge, module:function)"
        raise InputError("reference", None, "is missing", fix)
    return reference


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".").strip()


def _letter(answer: str) -> str | None:
    # A small letter counts where only brackets and full stops follow: "the answer is a bit long" has none.
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
    found = re.findall(_NUMBER, text)
    if not found:
        return None
    top, _, bottom = found[-1].replace(",", "").partition("/")
    return float(top) / (float(bottom or 1) or 1.0)  # over 0 is no fraction
