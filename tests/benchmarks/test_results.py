"""The list of published tables: every page of results is in it, and what is stale is found."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_scripts import benchmark

from experts import OutcomeTable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results() -> Any:
    return benchmark("results")


def test_documents_and_scripts_exist(results: Any) -> None:
    epoch, tables = results.read_tables()
    assert len({table.name for table in tables}) == len(tables) > 20
    for table in tables:
        assert (ROOT / table.document).is_file(), table.name
        assert (ROOT / shlex.split(table.command)[1]).is_file(), table.name
        assert 1 <= table.epoch <= epoch
        assert 0 < table.minutes <= 300
        assert ("FOLDER" in table.command) or not table.data


def test_every_document_of_results_has_a_table(results: Any) -> None:
    _, tables = results.read_tables()
    listed = {table.document for table in tables}
    pages = {f"docs/benchmarks/{path.name}" for path in (ROOT / "docs" / "benchmarks").glob("*.md")}
    assert len(pages) > 10
    # `make test-runtimes` writes the table of runtimes, and a test of its own says whether it is stale.
    assert pages <= {*listed, "docs/benchmarks/sealed.md", "docs/benchmarks/runtimes.md"}


def test_a_table_is_stale_by_epoch_or_by_data(results: Any, tmp_path: Path) -> None:
    data = tmp_path / "some.parquet"
    data.write_bytes(b"outcomes")
    table = results.Published(
        name="one",
        document="docs/RESULTS.md",
        command="python benchmarks/em.py",
        minutes=1.0,
        epoch=2,
        data={"some.parquet": results.digest_of_file(data)},
    )
    assert results.reason_of(table, 2, tmp_path) is None
    assert results.reason_of(table, 3, tmp_path) == "measured in epoch 2, now 3"
    data.write_bytes(b"other outcomes")
    assert results.reason_of(table, 2, tmp_path) == "some.parquet has changed"
    assert results.reason_of(table, 2, None) is None
    data.unlink()
    assert results.reason_of(table, 2, tmp_path) == "some.parquet has changed"
    text = results.listing([table], {"one": "some.parquet has changed"})
    assert text.splitlines()[-1] == "1 of 1 are stale, 1 minutes."


def test_the_digests_are_those_of_the_shared_tables(
    results: Any, shared_table: Callable[[str], Path]
) -> None:
    folder = shared_table("README.md").parent
    _, tables = results.read_tables()
    assert {results.reason_of(table, table.epoch, folder) for table in tables} == {None}


def test_a_command_that_fails_leaves_no_file(results: Any, tmp_path: Path) -> None:
    from rich.console import Console

    script = tmp_path / "script.py"
    fields = {"name": "one", "document": "", "minutes": 1.0, "epoch": 1, "data": {}}
    table = results.Published(command=f"python {script} FOLDER", **fields)
    script.write_text("import sys; print('half'); sys.exit(1)")
    results._measure(table, tmp_path, tmp_path / "out", Console(stderr=True))
    assert not (tmp_path / "out").exists()
    script.write_text("import sys; print('folder', sys.argv[1])")
    results._measure(table, tmp_path, tmp_path / "out", Console(stderr=True))
    assert (tmp_path / "out" / "one.md").read_text() == f"folder {tmp_path}\n"


def test_sealed_rows_stay_out_until_they_are_opened() -> None:
    real_tables = benchmark("real_tables")
    rows = 60
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=np.arange(rows),
        quality=np.ones((rows, 2)),
        cost=np.ones((rows, 2)),
        features=None,
        split=np.full(rows, "train"),
        prompt=np.array([f"question {row}" for row in range(rows)]),
        fold=np.arange(rows) % 5,
    )
    developed = real_tables.split_by_fold(table, sealed=True, open_sealed=False)
    assert (developed.fold < 4).all()
    assert set(developed.fold[developed.split == "test"]) == {3}
    opened = real_tables.split_by_fold(table, sealed=True, open_sealed=True)
    tested = opened.part("test")
    assert set(tested.fold) == {4}
    assert set(real_tables.sealed_part(tested.prompt)) == {0}
    assert 0 < len(tested) < rows // 5
    assert set(real_tables.split_by_fold(table, sealed=False, open_sealed=False).split[table.fold == 4]) == {
        "test"
    }
