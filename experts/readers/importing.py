"""Import of evaluation results into an outcome table: read, priced, checked, with a report of findings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ..io.atomic import writable_file
from ..io.checked_options import CheckedOptions
from ..io.errors import InputError
from ..io.progress import track
from ..io.value_range import Positive, Seed
from ..table.findings import Finding, findings, prompt_findings
from ..table.missing_outcomes import answered_mean
from ..table.outcome_table import OutcomeTable
from ..table.prices import LITELLM, read_prices, token_costs
from ..table.splitting import SPLITS, allow_leaks, complete_split, unleaked
from .assembly import Assembled, assemble
from .columnar import columns_of
from .files import records, result_files
from .missing_values import fill_missing
from .outcome import ALIASES, ReaderOptions
from .registry import FORMATS, find_format

__all__ = ["ImportOptions", "ImportReport", "expert_names", "import_results"]


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The result of an import.

    Attributes:
        format: of the results.
        cost_unit: of the table.
        queries: number of queries read.
        experts: mean quality and cost of each expert in the table, over the queries that it answered.
        kept: number of rows written.
        dropped: number of rows left out, by reason.
        missing: number of outcomes that the table lacks.
        findings: see `experts.table.findings`.
        best_single: mean quality of the best expert.
        oracle: mean quality of the best expert on each row, of those that answered.
        notes: of the table.
    """

    format: str
    cost_unit: str
    queries: int
    experts: dict[str, dict[str, float]]
    kept: int
    dropped: dict[str, int]
    missing: int
    findings: tuple[Finding, ...]
    best_single: float
    oracle: float
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ImportOptions(CheckedOptions):
    """How results are read.

    Attributes:
        format: wide, long, routellm, routerbench, llmrouter, lm-eval; auto: detected from the first row.
        prices: litellm, or a YAML table of US dollars per million tokens; costs are then computed from
            tokens.
        on: date of the prices, such as 2024-07-01; null: the latest.
        cost_unit: unit of the costs in the source: usd, flops or seconds; null: the format's default.
        metric: the score to use if there are several (lm-eval), such as acc_norm.
        full_marks: maximum score in the source, such as 10 or 100; qualities are divided by it.
        missing: rows: drop queries without all experts; experts: drop experts without all queries; keep:
            keep both, the table is sparse. Validation and test rows without all experts are then dropped.
        drop_leaks: drop rows whose prompt is also in another split or fold. Test rows are kept, and
            validation rows rather than training rows.
        seed: random seed of the split, if the source has none.
    """

    format: str = "auto"
    prices: str | Path | None = None
    on: str | None = None
    cost_unit: str | None = None
    metric: str | None = None
    full_marks: Positive = 1.0
    missing: Literal["rows", "experts", "keep"] = "rows"
    drop_leaks: bool = False
    seed: Seed = 0


def import_results(
    source: Path | str,
    out: Path | str,
    *,
    options: ImportOptions | None = None,
    progress: bool = True,
    **changes: Any,
) -> ImportReport:
    """Import results as an outcome table; the file is written only if the whole table is valid.

    Memory holds the prompts, a few numbers for each pair of query and expert, and the answers of
    `answer/<expert>` columns, which the table keeps. Wide Parquet that is a table already is read by columns,
    and large ones stay in files (`columnar.py`). Missing prompts, groups, splits and folds of some rows
    are reported, and the column is kept.

    Args:
        source: a file, or a folder of files.
        out: the Parquet file to write.
        options: how results are read; the defaults if None.
        progress: show progress on stderr.
        changes: fields of `ImportOptions`, in place of those of `options`.

    Raises:
        InputError: names the file, the field, the value and the fix.
    """
    given = replace(options or ImportOptions(), **changes)
    files = result_files(Path(source))
    format_name = find_format(given.format, files)
    reader = FORMATS[format_name]
    _check_used(given, format_name)
    out = writable_file("out", out)
    direct = given.prices is None and given.full_marks == 1.0 and not given.drop_leaks
    columns = columns_of(files, progress=progress) if direct and format_name == "wide" else None
    if columns is not None:
        columns["notes"], dropped, queries = (), {}, len(columns["query_id"])
        ids = [] if columns.get("prompt") is None else columns["query_id"].tolist()
        numbers = {name: columns.get(name, _none(columns["quality"])) for name in ("tokens_in", "tokens_out")}
        numbers |= {name: columns[name] for name in ("quality", "cost")}
        messages = [*prompt_findings(ids, columns), *findings(columns["experts"], numbers)]
        columns["cost_unit"] = given.cost_unit or reader.cost_unit
    else:
        columns, dropped, messages, queries = _by_rows(Path(source), files, format_name, given, progress)
    columns["source"] = f"imported from {Path(source).name} ({format_name})"
    table = OutcomeTable(**allow_leaks(complete_split(columns, seed=given.seed)))
    table.write(out)
    quality, price = answered_mean(table.quality), answered_mean(table.cost)
    return ImportReport(
        format=format_name,
        cost_unit=table.cost_unit,
        queries=queries,
        experts={
            expert: {"quality": float(q), "cost": float(c)}
            for expert, q, c in zip(table.experts, quality, price, strict=True)
        },
        kept=len(table),
        dropped={reason: count for reason, count in dropped.items() if count},
        missing=table.missing,
        findings=tuple(messages),
        best_single=float(quality.max()),
        oracle=float(np.fmax.reduce(table.quality, axis=1).mean(dtype=np.float64)),
        notes=table.notes,
    )


def _none(like: np.ndarray) -> np.ndarray:
    """Unknown numbers in the shape of others, without memory."""
    return np.broadcast_to(np.float32(np.nan), like.shape)


def _by_rows(
    source: Path, files: list[Path], format_name: str, given: ImportOptions, progress: bool
) -> tuple[dict[str, Any], dict[str, int], list[Finding], int]:
    """The fields of a table, the number of rows dropped by reason, findings and the number of queries."""
    reader = FORMATS[format_name]
    outcomes = reader.read(files, ReaderOptions(metric=given.metric))
    read = assemble(track(outcomes, "reading outcomes", None, shown=progress))
    if not read.query:
        raise InputError("source", str(source), "has no outcomes", "give results with rows")
    cost, priced = _costs(read, given.prices, given.on)
    numbers = {**read.numbers, "cost": cost, "quality": _scaled(read, given.full_marks)}
    experts, rows, dropped = _complete(read, numbers, given.missing)
    rows, dropped["features are missing"] = _with_features(read, rows)
    query = [read.query[row] for row in rows]
    facts, incomplete = fill_missing(query, _taken(read.facts, rows))
    _check_split(query, facts)
    incomplete += _empty_columns(files[0], facts, len(rows))
    if given.missing == "keep":
        reason = "an expert is missing in validation or test"
        rows, facts, dropped[reason] = _complete_held_out(numbers, experts, rows, facts)
    if given.drop_leaks:
        kept = unleaked(facts)
        dropped["leaking prompt"] = len(rows) - len(kept)
        rows, facts = rows[kept], _taken(facts, kept)
    messages = [
        *incomplete,
        *prompt_findings([read.query[row] for row in rows], facts),
        *findings(read.experts, numbers),
    ]
    if read.repeated:
        message = f"{read.repeated} outcomes repeat an expert on a query; the first of each counts"
        messages.append(Finding(kind="repeated", count=read.repeated, message=message))
    columns = {**_outcomes(read, numbers, experts, rows), **_facts(read, rows, facts)}
    columns["cost_unit"] = "usd" if priced else given.cost_unit or reader.cost_unit
    columns["notes"] = (priced, *reader.notes) if priced else ()
    return columns, dropped, messages, len(read.query)


def expert_names(source: Path | str, *, options: ImportOptions, progress: bool = True) -> tuple[str, ...]:
    """Return the names of the experts in results, in the order of their first outcome.

    Args:
        source: a file, or a folder of files.
        options: `format` and `metric` are used.
        progress: show progress on stderr.

    Raises:
        InputError: names the file, the field, the value and the fix.
    """
    files = result_files(Path(source))
    reader = FORMATS[find_format(options.format, files)]
    outcomes = reader.read(files, ReaderOptions(metric=options.metric))
    names = dict.fromkeys(each.expert for each in track(outcomes, "reading names", None, shown=progress))
    if not names:
        raise InputError("source", str(source), "has no outcomes", "give results with rows")
    return tuple(names)


def _check_used(given: ImportOptions, format_name: str) -> None:
    """Check that every option has a use."""
    if given.metric is not None and not FORMATS[format_name].metrics:
        scores = "; ".join(
            f"{name}: {', '.join(each.metrics)}" for name, each in FORMATS.items() if each.metrics
        )
        problem = f"has no use, because results in the format {format_name} have one score a row"
        raise InputError("metric", given.metric, problem, f"leave it out; scores are known of {scores}")
    if given.on is not None and (given.prices is None or str(given.prices) == LITELLM):
        problem = "has no use without prices that have dates"
        raise InputError("on", given.on, problem, "give --prices FILE.yaml, or leave it out")


def _costs(read: Assembled, prices: str | Path | None, on: str | date | None) -> tuple[np.ndarray, str]:
    """Costs [T, N], computed if prices are given, and a note that names the prices."""
    stated = read.numbers["cost"]
    if prices is None:
        present = ~np.isnan(read.numbers["quality"])
        lacking = np.argwhere(present & np.isnan(stated))
        if len(lacking):
            row, expert = (int(index) for index in lacking[0])
            problem = (
                f"query {read.query[row]!r} has no cost, like {len(lacking)} of {present.sum()} outcomes"
            )
            name = read.experts[expert]
            fix = (
                f"fill it in (wide results: the column cost/{name}), or give --prices: litellm, or a YAML "
                "table, per million tokens or per `call`; --print-prices writes one to fill in"
            )
            raise InputError("cost", name, problem, fix)
        return stated, ""
    table = read_prices(prices, read.experts, on)
    priced = [table.prices[expert] for expert in read.experts]
    cost = token_costs(priced, read.numbers["tokens_in"], read.numbers["tokens_out"])
    wrong = np.argwhere(np.isnan(cost) & ~np.isnan(read.numbers["quality"]))
    if len(wrong):
        row, expert = (int(index) for index in wrong[0])
        problem = f"query {read.query[row]!r} has no token counts, which its price needs"
        fix = "add tokens_in and tokens_out, or give its price for a `call`"
        raise InputError("prices", read.experts[expert], problem, fix)
    return cost.astype(np.float32), f"prices: {table.source}"


def _scaled(read: Assembled, full_marks: float) -> np.ndarray:
    """Qualities in [0, 1]."""
    quality = read.numbers["quality"] / full_marks
    wrong = np.argwhere((quality < 0.0) | (quality > 1.0))
    if len(wrong):
        row, expert = (int(index) for index in wrong[0])
        value = float(read.numbers["quality"][row, expert])
        problem = f"query {read.query[row]!r} scores outside 0 to {full_marks:g}"
        fix = "give the source's highest score, such as --full-marks 10 or 100"
        raise InputError(f"quality/{read.experts[expert]}", value, problem, fix)
    return quality


def _complete(
    read: Assembled, numbers: dict[str, np.ndarray], missing: str
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """The experts and rows of a table, and the number of rows dropped by reason.

    Without missing outcomes, unless these are kept: then of the rows that some expert answered.
    """
    lacking = np.isnan(numbers["quality"]) | np.isnan(numbers["cost"])
    experts = np.arange(len(read.experts))
    if missing == "keep":
        numbers["quality"][lacking] = numbers["cost"][lacking] = np.nan
        rows = np.flatnonzero(~lacking.all(axis=1))
        return experts[~lacking.all(axis=0)], rows, {"no expert answered": len(lacking) - len(rows)}
    if missing == "experts":
        answered = ~lacking.all(axis=1)
        experts = experts[~lacking[answered].any(axis=0)]
        if len(experts) < 2:
            problem = f"leaves {len(experts)} experts with an outcome on every query"
            raise InputError("missing", missing, problem, "use --missing rows")
    rows = np.flatnonzero(~lacking[:, experts].any(axis=1))
    if len(rows) == 0:
        problem = "no query has every expert"
        raise InputError("missing", missing, problem, "use --missing experts, or check the query ids")
    return experts, rows, {"an expert is missing": len(lacking) - len(rows)}


def _complete_held_out(
    numbers: dict[str, np.ndarray], experts: np.ndarray, rows: np.ndarray, facts: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """The rows without incomplete ones of validation or test, their facts, and how many are left out."""
    split = facts.get("split")
    if split is None or len(set(split)) < 2:  # the split is made later, and keeps incomplete rows in train
        return rows, facts, 0
    complete = ~np.isnan(numbers["quality"][np.ix_(rows, experts)]).any(axis=1)
    kept = np.flatnonzero(complete | (split == "train"))
    return rows[kept], _taken(facts, kept), len(rows) - len(kept)


def _with_features(read: Assembled, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """The rows with features, and the number of the others; all rows if no row has features."""
    features: list[np.ndarray | None] = read.facts["features"].tolist()
    kept = np.array([row for row in rows if features[row] is not None], dtype=np.int64)
    if len(kept) == 0:
        return rows, 0
    width = len(features[kept[0]])
    for row in kept:
        if len(features[row]) != width:
            problem = f"query {read.query[row]!r}: the first row has {width}"
            fix = "give every row the same number of features"
            raise InputError("features", len(features[row]), problem, fix)
    return kept, len(rows) - len(kept)


def _empty_columns(file: Path, facts: dict[str, np.ndarray], rows: int) -> list[Finding]:
    """The findings on columns that a file has and no row fills."""
    present = next(records(file), {})
    names = ("prompt", "group", "split", "fold", "features")
    return [
        Finding(kind="missing_values", count=rows, message=f"no row has a {name}; the column is left out")
        for name in names
        if name not in facts and any(each in present for each in ALIASES.get(name, (name,)))
    ]


def _check_split(query: list[str], facts: dict[str, np.ndarray]) -> None:
    for name, split in zip(query, facts.get("split", ()), strict=False):
        if split not in SPLITS:
            raise InputError("split", split, f"query {name!r}: is unknown", f"use {', '.join(SPLITS)}")


def _taken(facts: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in facts.items()}


def _outcomes(
    read: Assembled, numbers: dict[str, np.ndarray], experts: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
    """The fields of an OutcomeTable on the outcomes; a number that is missing everywhere is left out."""
    names = tuple(read.experts[index] for index in experts)
    columns: dict[str, Any] = {
        "experts": names,
        "quality": numbers["quality"][np.ix_(rows, experts)],
        "cost": numbers["cost"][np.ix_(rows, experts)],
    }
    for kind in ("tokens_in", "tokens_out", "latency_s", "confidence"):
        values = numbers[kind][np.ix_(rows, experts)]
        if not np.isnan(values).all():
            columns[kind] = values
    answers = {
        f"answer/{name}": pa.array([read.answers[name].get(int(row)) for row in rows], type=pa.string())
        for name in names
        if name in read.answers
    }
    if answers:
        columns["extra"] = pa.table(answers)
    return columns


def _facts(read: Assembled, rows: np.ndarray, facts: dict[str, np.ndarray]) -> dict[str, Any]:
    """The fields of an OutcomeTable on the queries."""
    columns: dict[str, Any] = {
        "query_id": np.array([read.query[row].replace("\0", "/") for row in rows], dtype=object),
        "features": None,
        **facts,
    }
    if columns["features"] is not None:
        columns["features"] = np.stack(columns["features"].tolist())
    if "fold" in columns:
        columns["fold"] = columns["fold"].astype(np.int64)
    return columns
