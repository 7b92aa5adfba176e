"""What the hooks do to a process that is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from experts import OutcomeTable
from experts.io.atomic import replacing

from .kill_points import counted, killed_at


def outcomes(root: Path, work: Callable[[], object]) -> list[dict[str, bytes]]:
    """The files that are there after a kill at each operation."""
    after: list[dict[str, bytes]] = []
    count = len(counted(root, work))
    for point in range(count + 1):
        for path in root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert killed_at(root, point, work) == (point < count)
        after.append({path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()})
    return after[:-1]


def test_what_is_not_flushed_is_lost(tmp_path: Path) -> None:
    def work() -> None:
        with (tmp_path / "a").open("w") as stream:
            stream.write("flushed")
            stream.flush()
            stream.write(" and not")
            (tmp_path / "b").mkdir()

    assert outcomes(tmp_path, work) == [{}, {"a": b"flushed"}, {"a": b"flushed"}]
    assert (tmp_path / "a").read_text() == "flushed and not"


def test_nothing_cleans_up(tmp_path: Path) -> None:
    def work() -> None:
        with replacing(tmp_path / "a") as temporary:  # removes the temporary file on an exception
            temporary.write_text("new")

    left = [tuple(files.items()) for files in outcomes(tmp_path, work)]
    assert left[0] == ()
    assert {name for files in left for name, _ in files} > {"a"}
    assert {content for files in left for _, content in files} == {b"", b"n", b"new"}


def test_temporary_folders_stay(tmp_path: Path) -> None:
    def work() -> None:
        with TemporaryDirectory(dir=tmp_path) as folder:
            (Path(folder) / "a").write_text("x")
            os.rename(Path(folder) / "a", Path(folder) / "b")

    assert [len(files) for files in outcomes(tmp_path, work)] == [0, 0, 1, 1, 1, 0]


def test_a_write_that_is_cut_leaves_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    nothing, half = outcomes(tmp_path, lambda: save_file({"x": torch.arange(100)}, path))
    assert nothing == {}
    whole = path.read_bytes()
    assert len(half["a.safetensors"]) == len(whole) // 2
    assert whole.startswith(half["a.safetensors"])
    assert load_file(path)["x"].equal(torch.arange(100))
    assert outcomes(tmp_path, lambda: path.write_bytes(b"1234")) == [{}, {path.name: b"12"}]


def test_the_next_run_is_another_process(tmp_path: Path) -> None:
    names: list[str] = []
    assert killed_at(
        tmp_path, 1, lambda: (names.append(str(os.getpid())), (tmp_path / "a").write_bytes(b"x"))
    )
    assert names != [str(os.getpid())]


def test_a_table_is_never_half_written(tmp_path: Path) -> None:
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=np.array(["x"]),
        features=np.ones((1, 1)),
        quality=np.ones((1, 2)),
        cost=np.ones((1, 2)),
        split=np.array(["train"]),
    )
    after = outcomes(tmp_path, lambda: table.write(tmp_path / "t.parquet"))
    whole = (tmp_path / "t.parquet").read_bytes()
    written = [content for files in after for content in files.values()]
    assert any(0 < len(content) < len(whole) for content in written)
    assert all(files.get("t.parquet", whole) == whole for files in after)


def test_operations_elsewhere_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()

    def work() -> None:
        (tmp_path / "out").write_text("x")
        os.replace(tmp_path / "out", tmp_path / "in" / "a")

    assert counted(tmp_path / "in", work) == ["replace a"]


@pytest.mark.parametrize("swallow", [True, False])
def test_a_dead_process_changes_nothing(swallow: bool, tmp_path: Path) -> None:
    def work() -> None:
        try:
            (tmp_path / "a").mkdir()
        except BaseException:
            if not swallow:
                raise
        (tmp_path / "b").mkdir()

    assert killed_at(tmp_path, 0, work)
    assert list(tmp_path.iterdir()) == []
