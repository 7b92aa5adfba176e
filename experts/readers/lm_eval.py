"""Sample logs of lm-evaluation-harness (`--log_samples`): `<model>/samples_<task>_<date>.jsonl`.

Each row is a document: `doc`, `arguments` (the prompt with its few-shot examples), `resps`, and one column
per metric. The folder names the model (`org__name`), the file names the task. The latest date of a task is
read, and the first of several filters (`strict-match`, `flexible-extract`).

Source: EleutherAI/lm-evaluation-harness, `lm_eval/loggers/evaluation_tracker.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from ..io.errors import InputError
from .files import Record, records
from .outcome import Outcome, ReaderOptions, estimated_tokens, number, text

__all__ = ["METRICS", "NOTE", "read"]

NOTE = (
    "lm-evaluation-harness logs no token counts: costs from prices estimate 4 characters per token of the "
    "whole prompt and the answer, and one token per multiple-choice answer"
)
METRICS = ("acc", "exact_match", "acc_norm", "pass@1", "em", "f1", "prompt_level_strict_acc", "mc2")
_QUESTIONS = ("question", "query", "problem", "prompt", "input", "instruction", "text", "sentence")
_NAME = re.compile(r"samples_(?P<task>.+?)_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)$")


def read(files: Sequence[Path], options: ReaderOptions) -> Iterator[Outcome]:
    """Yield the outcome of each document.

    Args:
        files: sample logs; other files are skipped.
        options: `metric` names the score to use.

    Raises:
        InputError: a row has no known metric, or not the one of the options.
    """
    for (model, task), file in _latest(files).items():
        first_filter: Any = None
        for index, row in enumerate(records(file)):
            filter_name = row.get("filter")
            first_filter = filter_name if index == 0 else first_filter
            if filter_name != first_filter:
                continue
            place = f"{file}: row {index}"
            context, answer = _context(row), _answer(row)
            yield Outcome(
                query=f"{task}/{row.get('doc_id', index)}",
                expert=model,
                quality=number(row, _metric(row, options.metric, place), place),
                prompt=_question(row) or context,
                group=task,
                tokens_in=estimated_tokens(context),
                tokens_out=estimated_tokens(answer),
            )


def _latest(files: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """The latest file of each model and task."""
    latest: dict[tuple[str, str], tuple[str, Path]] = {}
    for file in files:
        stem = file.name.removesuffix(".gz").removesuffix(".jsonl")
        if not stem.startswith("samples_"):
            continue
        match = _NAME.match(stem)
        task = match["task"] if match else stem.removeprefix("samples_")
        date = match["date"] if match else ""
        key = (file.parent.name.replace("__", "/"), task)
        if key not in latest or latest[key][0] < date:
            latest[key] = (date, file)
    return {key: file for key, (_, file) in latest.items()}


def _metric(row: Record, metric: str | None, place: str) -> str:
    stated: Any = row.get("metrics")
    listed = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    names = [metric] if metric is not None else [*(name for name in METRICS if name in row), *listed]
    for name in names:
        if name in row:
            return name
    fix = f"name one with --metric; the row has {', '.join(listed) or ', '.join(row)}"
    raise InputError("metric", metric, f"{place} has no such score", fix)


def _context(row: Record) -> str | None:
    """The prompt as the model saw it; lists in older logs, `gen_args_0` in newer ones."""
    arguments: Any = row.get("arguments")
    if isinstance(arguments, dict):
        first: Any = cast("dict[str, Any]", arguments).get("gen_args_0", {})
        return text(cast("dict[str, Any]", first).get("arg_0")) if isinstance(first, dict) else None
    while isinstance(arguments, list) and arguments:
        arguments = cast("list[Any]", arguments)[0]
    return text(arguments) if isinstance(arguments, str) else None


def _question(row: Record) -> str | None:
    """The document's own question, without few-shot examples."""
    doc: Any = row.get("doc")
    if isinstance(doc, dict):
        values = cast("dict[str, Any]", doc)
        for name in _QUESTIONS:
            if isinstance(values.get(name), str) and values[name]:
                return values[name]
    return None


def _answer(row: Record) -> str:
    """The generated text, or a letter for an answer that was selected by its likelihood."""
    answer: Any = row.get("resps")
    while isinstance(answer, list) and answer:
        answer = cast("list[Any]", answer)[0]
    if isinstance(answer, str) and not re.fullmatch(r"-?[\d.e+-]+|-?inf", answer):
        return answer
    return "A"
