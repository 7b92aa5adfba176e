"""LLMRouter's files (ulab-uiuc/LLMRouter): routing logs, and the scores prepared for RouterDC.

Logs: JSON Lines, a row a query and model, with `query`, `task_name`, `model_name`, `performance`,
`input_tokens`, `output_tokens`, `response_time`. Scores: an array of `{"question", "scores": {model: n}}`,
split by the file's name. `cluster_id` is not read: it is computed from the scores, so it leaks the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from ..io.errors import InputError
from .files import distinct_names, records
from .long import outcome_of
from .outcome import Outcome, ReaderOptions, estimated_tokens, first_of, integer, number, text

__all__ = ["NOTE", "read"]

NOTE = (
    "LLMRouter's prepared scores have no token counts: costs from prices estimate 4 characters per token, "
    "and one token per answer"
)
_SPLITS = ("train", "validation", "test")


def read(files: Sequence[Path], options: ReaderOptions) -> Iterator[Outcome]:
    """Yield the outcome of each model in each row.

    Args:
        files: routing logs or prepared scores.
        options: not used.

    Raises:
        InputError: a row is of neither form.
    """
    file_names = distinct_names(files, lambda file: file.stem)
    for file in files:
        split = next((name for name in _SPLITS if name in file.stem), None)
        for index, row in enumerate(records(file)):
            place = f"{file}: row {index}"
            if "model_name" in row:
                outcome = outcome_of(row, place, f"{row.get('task_name')}\0{row.get('query')}")
                yield outcome._replace(split=outcome.split or split)
                continue
            scores: Any = row.get("scores")
            if not isinstance(scores, dict):
                problem = f"row {index} has neither `model_name` nor `scores`"
                raise InputError("source", str(file), problem, "name another --format")
            for model in cast("dict[str, Any]", scores):
                yield Outcome(
                    query=f"{file_names[file]}:{index}",
                    expert=model,
                    quality=number(cast("dict[str, Any]", scores), model, place),
                    prompt=text(first_of(row, "prompt")),
                    group=text(first_of(row, "group")),
                    split=text(first_of(row, "split")) or split,
                    fold=integer(row, "fold", place),
                    tokens_in=estimated_tokens(first_of(row, "prompt")),
                    tokens_out=1.0,
                )
