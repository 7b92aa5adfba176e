"""The formats of result files by name, and their detection. A new format is one file and one line here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..io.errors import InputError, unknown_name
from . import llmrouter, lm_eval, long, routellm, routerbench, wide
from .files import Record, records
from .log_formats import detect_log
from .outcome import ALIASES, Reader

__all__ = ["FORMATS", "detect", "find_format"]

FORMATS: dict[str, Reader] = {
    "wide": Reader(
        read=wide.read, about="one row per query, with quality/<expert> and cost/<expert>", notes=(wide.NOTE,)
    ),
    "long": Reader(read=long.read, about="one row per query and expert"),
    "routellm": Reader(
        read=routellm.read, about="RouteLLM's responses and judgements", notes=(routellm.NOTE,)
    ),
    "routerbench": Reader(
        read=routerbench.read, about="RouterBench, converted from its pickles", cost_unit="usd"
    ),
    "llmrouter": Reader(
        read=llmrouter.read, about="LLMRouter's logs and prepared scores", notes=(llmrouter.NOTE,)
    ),
    "lm-eval": Reader(
        read=lm_eval.read,
        about="samples logged by lm-evaluation-harness",
        notes=(lm_eval.NOTE,),
        metrics=lm_eval.METRICS,
    ),
}

_NAMES = ", ".join(FORMATS)


def find_format(name: str, files: Sequence[Path]) -> str:
    """Return the name of a format; `auto` detects it by the first row of the first file with rows.

    Args:
        name: a key of `FORMATS`, or `auto`.
        files: result files.

    Raises:
        InputError: the name is unknown, or no format is detected.
    """
    if name != "auto":
        if name not in FORMATS:
            raise unknown_name("format", name, ["auto", *FORMATS])
        return name
    for file in files:
        # RouteLLM has questions beside its judgements, lm-eval has results_*.json beside its samples.
        if file.name.startswith(("question", "contaminated", "results_")):
            continue
        row = next(records(file), None)
        if row is not None:
            if detect_log(row) is not None:
                problem = "is a log of requests, which does not have the outcomes of every expert"
                raise InputError("source", str(file), problem, "convert it by `log import`")
            detected = detect(row)
            if detected is None:
                shown = ", ".join(map(repr, list(row)[:8])) or "none"
                problem = f"is of no known format; its columns begin {shown}"
                fix = (
                    "name them quality/<expert> and cost/<expert> (one row per query), or model, score, cost "
                    f"and query_id or prompt (one row per query and model), or give --format: {_NAMES}"
                )
                raise InputError("source", str(file), problem, fix)
            return detected
    raise InputError("source", str(files[0]), "has no rows", "give results")


def detect(row: Record) -> str | None:
    """Return the name of a row's format, or None if it is unknown."""
    if any(name.startswith("quality/") for name in row):
        return "wide"
    if any(name.endswith("|total_cost") for name in row) or {"eval_name", "performance"} <= row.keys():
        return "routerbench"
    if {"doc_id", "resps"} <= row.keys():
        return "lm-eval"
    if isinstance(row.get("scores"), dict) or {"query", "model_name", "performance"} <= row.keys():
        return "llmrouter"
    if {"question_id", "model", "turn", "score"} <= row.keys():
        return "routellm"
    if "prompt" in row and sum(routellm.is_verdict(value) for value in row.values()) >= 2:
        return "routellm"
    if all(any(name in row for name in ALIASES[field]) for field in ("expert", "quality")):
        return "long"
    if len(wide.bare_columns(row)) >= 2:
        return "wide"
    return None
