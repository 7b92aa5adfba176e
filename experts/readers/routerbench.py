"""RouterBench's tables (Hu et al. 2024, https://arxiv.org/abs/2403.12031), converted from their pickles.

Wide: `sample_id`, `prompt`, `eval_name`, and for each model `<model>` (performance), `<model>|total_cost` (US
dollars) and `<model>|model_response`, which is not read. Long (the raw file): one row per query and model,
with `model_name`, `performance` and `cost`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..io.errors import InputError
from .files import records
from .long import outcome_of
from .outcome import Outcome, ReaderOptions, number, text

__all__ = ["read"]

_COST = "|total_cost"


def read(files: Sequence[Path], options: ReaderOptions) -> Iterator[Outcome]:
    """Yield the outcome of each model in each row; a query is a sample of an evaluation.

    Args:
        files: tables, wide or long.
        options: not used.

    Raises:
        InputError: a row has none of the format's columns.
    """
    for file in files:
        for index, row in enumerate(records(file)):
            place = f"{file}: row {index}"
            group = text(row.get("eval_name"))
            sample = text(row.get("sample_id")) or str(index)
            query = f"{group}/{sample}"
            if "model_name" in row:
                yield outcome_of(row, place, query)._replace(prompt=_plain(row.get("prompt")))
                continue
            models = [name.removesuffix(_COST) for name in row if name.endswith(_COST)]
            if not models:
                fix = "name another --format"
                raise InputError("source", str(file), f"row {index} has no <model>{_COST} column", fix)
            for model in models:
                yield Outcome(
                    query=query,
                    expert=model,
                    quality=number(row, model, place),
                    prompt=_plain(row.get("prompt")),
                    group=group,
                    cost=number(row, model + _COST, place),
                )


def _plain(prompt: object) -> str | None:
    """The text of a prompt that is a list of messages, or the text of such a list."""
    if isinstance(prompt, list):
        return "\n".join(map(str, prompt))
    plain = text(prompt)
    if plain is not None and plain[:2] in ("['", '["') and plain[-1:] == "]":
        return plain[2:-2]
    return plain
