"""RouteLLM's evaluation files (Ong et al. 2024, https://arxiv.org/abs/2406.18665; lm-sys/RouteLLM).

MMLU and GSM8K: CSV with `prompt`, a column of True/False for each model, and optionally `<model>_response`.
The group is the file's name (`mmlu_anatomy.csv`: anatomy). MT-Bench: `judgements.jsonl`, one row per
question, turn and model with a score of 0 to 10; the questions are read from `question.jsonl` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..io.errors import InputError
from .files import Record, distinct_names, records
from .outcome import Outcome, ReaderOptions, estimated_tokens, integer, number, text

__all__ = ["NOTE", "is_verdict", "read"]

NOTE = (
    "RouteLLM's files have no token counts: costs from prices estimate 4 characters per token of the prompt "
    "without its few-shot examples, and of the answer if the file has it"
)
_HIGHEST = 10.0  # score of MT-Bench's judge


def read(files: Sequence[Path], options: ReaderOptions) -> Iterator[Outcome]:
    """Yield the outcome of each model in each row.

    Args:
        files: responses or judgements, with the questions.
        options: not used.

    Raises:
        InputError: a file is neither responses nor judgements.
    """
    questions = {
        str(row["question_id"]): row
        for file in files
        for row in (records(file) if file.name.startswith("question") else ())
        if "question_id" in row
    }
    file_names = distinct_names(files, lambda file: file.stem)
    for file in files:
        if file.name.startswith(("question", "contaminated")):
            continue
        for index, row in enumerate(records(file)):
            place = f"{file}: row {index}"
            if "turn" in row and "score" in row:
                yield _judgement(row, questions, place)
            else:
                yield from _responses(row, file, index, file_names[file])


def is_verdict(value: Any) -> bool:
    """Return whether a value is a truth value, or the text True or False."""
    return isinstance(value, bool) or str(value) in ("True", "False")


def _responses(row: Record, file: Path, index: int, name: str) -> Iterator[Outcome]:
    models = [name for name, value in row.items() if is_verdict(value)]
    if not models or "prompt" not in row:
        problem = f"row {index} has no prompt with columns of True and False"
        raise InputError("source", str(file), problem, "name another --format")
    for model in models:
        yield Outcome(
            query=f"{name}:{index}",
            expert=model,
            quality=number(row, model, f"{file}: row {index}"),
            prompt=text(row["prompt"]),
            group=file.stem.removeprefix("mmlu_").removesuffix("_responses"),
            tokens_in=estimated_tokens(row["prompt"]),
            tokens_out=estimated_tokens(row.get(f"{model}_response", "A")),
        )


def _judgement(row: Record, questions: dict[str, Record], place: str) -> Outcome:
    question, model = text(row.get("question_id")), text(row.get("model"))
    turn, score = integer(row, "turn", place), number(row, "score", place)
    for name, value in (("question_id", question), ("model", model), ("turn", turn)):
        if value is None or (name == "turn" and turn is not None and turn < 1):
            fix = "name another --format, or complete the row"
            raise InputError(name, row.get(name), f"{place}: is no {name} of a judgement", fix)
    known = questions.get(str(question), {})
    turns: Any = known.get("turns", [])
    if not isinstance(turns, list) or not all(isinstance(each, str) for each in turns):
        problem = f"the questions beside {place}: question {question!r} has no list of texts"
        raise InputError("turns", turns, problem, "write one text for each turn")
    prompt = "\n\n".join(turns[:turn]) or None
    return Outcome(
        query=f"{question}/{turn}",
        expert=str(model),
        # -1 is a verdict that RouteLLM could not parse.
        quality=None if score is None or score < 0 else score / _HIGHEST,
        prompt=prompt,
        group=text(known.get("category")) or "mt_bench",
        tokens_in=estimated_tokens(prompt),
        tokens_out=None,
    )
