"""The text of a token-level pool made of a user's own prompts, whose answers a function scores.

A sequence is a prompt with its reference answer. The rest of the sequence is filled with other problems of
its part, as text is packed for a language model, which changes nothing before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..io.errors import InputError
from .padding import answer_lengths
from .sequences import Sequences
from .tail import Tail
from .text_parts import Measure, TextSizes, measured_part, measured_parts, read_documents
from .texts import split_documents
from .token_pool import Problems

__all__ = ["PromptTexts", "RoutedText", "Score", "routed_text"]

Score = Callable[[str, "str | None", str], float]
"""From a prompt, its reference and an answer to 0 (wrong) to 1 (right)."""

_FIELD = "problem.prompts"
_SHARES = (0.0, 0.6, 0.15, 0.25)
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class PromptTexts:
    """Prompts, and how their answers are scored.

    Attributes:
        name: of the file, for errors.
        prompt: each as the model reads it.
        reference: the right answers, None where there is none.
        score: of an answer.
        group: the task of each prompt; None: they are one task.
        split: train, validation or test; None: by a hash of the prompt, 60%, 15% and 25%.
        answer_tokens: maximum number of tokens of an answer; None: those of the longest reference.
    """

    name: str
    prompt: Sequence[str]
    reference: Sequence[str | None]
    score: Score
    group: Sequence[str] | None = None
    split: Sequence[str] | None = None
    answer_tokens: int | None = None

    def tasks(self) -> list[str]:
        """Return the task of each prompt."""
        return [Path(self.name).stem] * len(self.prompt) if self.group is None else list(self.group)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class RoutedText:
    """Text that was measured under frozen experts.

    Attributes:
        parts: `train`, `validation` and `test` sequences.
        names: of the texts or tasks, in the order of the ids in `Sequences.domain`.
        domains: the experts that have a text or tasks of their own name; the names begin with them.
        problems: how prompts are answered; None for plain text.
    """

    parts: Mapping[str, Sequences]
    names: tuple[str, ...]
    domains: tuple[str, ...]
    problems: Problems | None = None


def routed_text(
    texts: Path | str | PromptTexts,
    experts: Sequence[str],
    tokenizer: Any,
    sizes: TextSizes,
    tail: Tail,
    measure: Measure,
    *,
    keep: Path | None = None,
) -> RoutedText:
    """Measure plain text or prompts.

    Args:
        texts: a folder of `*.jsonl` documents, or prompts.
        experts: names that texts or tasks may share; empty if the experts have no domains.
        tokenizer: of the model.
        sizes: how much text is used; of prompts, at most `train`, `validation` and `test`, whose length with
            an answer is at most `length` + 1 tokens.
        tail: the routed layers, which identify kept measurements.
        measure: measures the sequences of a part.
        keep: folder for the measurements; a later call with the same experts and texts reads them.

    Raises:
        InputError: texts or prompts do not fit; names the option, the value and the fix.
    """
    if isinstance(texts, PromptTexts):
        return _prompts(texts, experts, tokenizer, sizes, tail, measure, keep)
    documents = read_documents(texts)
    # The texts of experts come first, in the experts' order, so that domain e is expert e's.
    domains = tuple(takewhile(documents.__contains__, experts))
    named = [*domains, *(name for name in documents if name not in domains)]
    of_text = {name: documents[name] for name in named}
    parts = measured_parts(of_text, tokenizer, sizes, tail, measure, keep=keep)
    return RoutedText(parts=parts, names=tuple(named), domains=domains)


def _prompts(
    texts: PromptTexts,
    experts: Sequence[str],
    tokenizer: Any,
    sizes: TextSizes,
    tail: Tail,
    measure: Measure,
    keep: Path | None,
) -> RoutedText:
    tasks, end = texts.tasks(), tokenizer.eos_token_id
    alike = bool(experts) and set(tasks) <= set(experts)
    names = tuple(experts) if alike else tuple(sorted(set(tasks)))
    rows = _split(texts, sizes)
    chosen = [row for part in rows.values() for row in part]
    asked = {row: _encoded(tokenizer, texts.prompt[row], special=True) for row in chosen}
    wanted: dict[int, list[int]] = {}
    for row in chosen:
        reference = texts.reference[row]
        if reference is not None:
            wanted[row] = [*_encoded(tokenizer, reference), *([] if end is None else [end])]
    answer = texts.answer_tokens or max((len(ids) for ids in wanted.values()), default=0)
    if not answer:
        fix = "give the maximum number of tokens of an answer, or a column reference"
        raise InputError("problem.answer_tokens", None, f"{texts.name} has no reference answers", fix)
    _check_length(texts, asked, wanted, answer, sizes.length)
    width = max(len(asked[row]) + len(wanted.get(row, [])) for row in chosen)
    pad = 0 if end is None else int(end)
    parts: dict[str, Sequences] = {}
    for part, own in rows.items():
        texts_of = [asked[row] + wanted.get(row, []) for row in own]
        tokens, source = _filled(texts_of, max(width, 2))
        domain = np.array([names.index(tasks[row]) for row in own], dtype=np.int64)[source]
        measured = measured_part(tokens, domain, part, tail, measure, keep=keep)
        lengths = np.array([len(asked[row]) for row in own], dtype=np.int64)
        parts[part] = replace(measured, prompt=lengths)
    verify = _verifier(texts, asked, tokenizer, end, pad)
    problems = Problems(answer=answer, verify=verify, end=end, pad=pad)
    domains = names if alike else ()
    return RoutedText(parts=parts, names=names, domains=domains, problems=problems)


def _split(texts: PromptTexts, sizes: TextSizes) -> dict[str, list[int]]:
    """The rows of each part, without copies of a prompt, in an order that does not depend on the file's."""
    first: dict[str, int] = {}
    for row, prompt in enumerate(texts.prompt):
        other = first.setdefault(prompt, row)
        if texts.reference[other] != texts.reference[row]:
            problem = f"has the prompt of row {other} again in row {row}, with another reference"
            raise InputError(_FIELD, texts.name, problem, "give each prompt one reference")
    if texts.split is None:
        by_part = split_documents(list(first), _SHARES)
    else:
        by_part = {part: [p for p, row in first.items() if texts.split[row] == part] for part in _PARTS}
    rows: dict[str, list[int]] = {}
    for part in _PARTS:
        ordered = sorted(by_part[part], key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
        rows[part] = [first[prompt] for prompt in ordered[: getattr(sizes, part)]]
        if not rows[part]:
            problem = f"has no prompt of the part {part} among {len(first)} different prompts"
            raise InputError(_FIELD, texts.name, problem, "add prompts, or a column split")
    return rows


def _encoded(tokenizer: Any, text: str, *, special: bool = False) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=special)["input_ids"]]


def _check_length(
    texts: PromptTexts, asked: dict[int, list[int]], wanted: dict[int, list[int]], answer: int, length: int
) -> None:
    for row, ids in asked.items():
        if not ids:
            raise InputError(_FIELD, texts.name, f"row {row} has a prompt without tokens", "drop the row")
    total = {row: len(ids) + max(answer, len(wanted.get(row, []))) for row, ids in asked.items()}
    long = [row for row, tokens in total.items() if tokens > length + 1]
    if long:
        problem = (
            f"is too small for {len(long)} of {len(total)} prompts with their answers; row "
            f"{max(long, key=total.__getitem__)} of {texts.name} needs {max(total.values()) - 1}"
        )
        raise InputError("problem.length", length, problem, "use a larger one, or shorter prompts")


def _filled(texts: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [S, width] of each text and what follows it, and the text that each is from.

    Every second text follows, because the validation part is halved so.

    >>> tokens, source = _filled([[1, 2], [3, 4, 5], [6]], 4)
    >>> tokens.tolist(), source.tolist()
    ([[1, 2, 6, 1], [3, 4, 5, 3], [6, 1, 2, 6]], [[0, 0, 2, 0], [1, 1, 1, 1], [2, 0, 0, 2]])
    """
    tokens, source = (np.zeros((len(texts), width), dtype=np.int64) for _ in range(2))
    for row in range(len(texts)):
        same = range(row % 2, len(texts), 2)
        at, place = 0, same.index(row)
        while at < width:
            other = same[place % len(same)]
            part = texts[other][: width - at]
            tokens[row, at : at + len(part)], source[row, at : at + len(part)] = part, other
            at, place = at + len(part), place + 1
    return tokens, source


def _verifier(
    texts: PromptTexts, asked: dict[int, list[int]], tokenizer: Any, end: int | None, pad: int
) -> Callable[[Tensor, Tensor], Tensor]:
    rows = {_unpadded(ids, pad): row for row, ids in asked.items()}
    if len(rows) < len(asked):
        problem = "has prompts of the same tokens"
        raise InputError(_FIELD, texts.name, problem, "drop one of each two")

    def verify(prompts: Tensor, answers: Tensor) -> Tensor:
        scores: list[float] = []
        lengths = answer_lengths(answers, end).tolist()
        for prompt, answer, length in zip(prompts.tolist(), answers.tolist(), lengths, strict=True):
            row = rows[_unpadded(prompt, pad)]
            text = str(tokenizer.decode(answer[:length], skip_special_tokens=True))
            scores.append(texts.score(texts.prompt[row], texts.reference[row], text))
        return torch.tensor(scores, dtype=torch.float32)

    return verify


def _unpadded(ids: Sequence[int], pad: int) -> tuple[int, ...]:
    first = next((place for place, token in enumerate(ids) if token != pad), len(ids))
    return tuple(ids[first:])
