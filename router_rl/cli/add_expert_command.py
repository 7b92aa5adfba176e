"""`add-expert`: add an expert to a trained router from its answers to a few queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from experts import InputError
from experts.io.value_range import Count

from ..reports.newcomer_view import advice_of, newcomer_view
from ..reports.terminal import progress_of
from .command import Command

__all__ = ["COMMAND", "add_expert"]

err = Console(stderr=True)


def add_expert(
    run: Path,
    *,
    table: str,
    out: Path,
    probes: Path | None = None,
    expert: str | None = None,
    suggest: Count | None = None,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Add an expert to a trained router, from its answers to 20 to 200 queries of the run's table.

    The outcomes of the new expert on the other queries are estimated, and the run's method is fitted again to
    the table with one more expert; no expert is asked again. With --suggest, nothing is fitted: OUT gets the
    queries to ask next.

    Args:
        run: the run folder.
        table: the table that the run was trained on.
        out: the new run folder; with --suggest, a JSON Lines file, as `collect --prompts` reads it.
        probes: a Parquet file with query_id, quality/NAME and cost/NAME of the new expert, such as a table
            that `collect` made of it and one of the old experts.
        expert: name of the new expert, if the probes have several.
        suggest: number of queries to write, in place of fitting; without probes, the first ones to ask.
        allow_leakage: accept prompts that are in two splits; every output then says so.
    """
    from experts import open_table
    from experts.readers.probes import read_probes

    from ..studies.add_expert import Extension
    from ..studies.runs import read_run

    trained = read_run(run)
    _check_output(out, suggest)
    if probes is None and suggest is None:
        raise InputError(
            "probes", None, "there are no answers of the new expert", "give --probes or --suggest"
        )
    rows = open_table(table, allow_leakage=allow_leakage)
    answers = None if probes is None else read_probes(probes, rows, expert)
    extension = Extension(trained, rows, answers)
    if suggest is not None:
        return _suggested(extension, suggest, out)
    return _added(extension, out)


def _check_output(out: Path, suggest: int | None) -> None:
    if suggest is not None and out.is_dir():
        raise InputError("out", str(out), "is a folder", "give a JSON Lines file, such as probes.jsonl")
    if suggest is None and out.is_file():
        raise InputError("out", str(out), "is a file", "give a folder for the new run")


def _suggested(extension: Any, count: int, out: Path) -> dict[str, Any]:
    from experts.io.atomic import replacing

    table = extension.table
    chosen = extension.suggested(count)
    reference = None if table.extra is None or "reference" not in table.extra.column_names else table.extra
    lines: list[str] = []
    for row in chosen.tolist():
        line = {"query_id": str(table.query_id[row])}
        for name, column in (("prompt", table.prompt), ("group", table.group)):
            if column is not None:
                line[name] = str(column[row])
        if reference is not None:
            line["reference"] = str(reference["reference"][row].as_py())
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    with replacing(out) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    result: dict[str, Any] = {"suggested": len(lines), "prompts": str(out)}
    if extension.probes is not None:
        result["open_value"] = extension.open_value(extension.newcomer())
    return result


def _added(extension: Any, out: Path) -> dict[str, Any]:
    from ..methods.training_loop import Snapshot
    from ..studies.add_expert import add_expert as fit_again

    with progress_of("training", err) as progress:

        def callback(snapshot: Snapshot) -> None:
            progress(snapshot.step, snapshot.total, snapshot.message)

        added = fit_again(extension, out, callback)
    gain = added.gain.to_json()
    return {
        "run": str(out),
        "router": added.run.facts["router"],
        "table": str(out / "table.parquet"),
        "expert": extension.probes.expert,
        "probes": len(extension.probes.rows),
        "method": added.run.facts["method"],
        "gain": gain,
        "open_value": added.open_value,
        "cost_unit": added.table.cost_unit,
        "advice": advice_of(gain, added.open_value),
        "notes": list(added.table.notes),
    }


COMMAND = Command(run=add_expert, view=newcomer_view, positional=(("run", Path, "a run folder of `train`"),))
