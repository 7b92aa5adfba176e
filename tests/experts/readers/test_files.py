"""Rows of files: every kind gives the same ones, broken lines are named, pickles are never opened."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experts import InputError
from experts.readers import records, result_files

ROWS = [{"prompt": "a, b\nc", "score": 1}, {"prompt": 'say "x"', "score": 0}]


def _write(folder: Path) -> dict[str, Path]:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    texts = {
        "a.jsonl": lines,
        "a.json": json.dumps(ROWS),
        "a.csv": 'prompt,score\n"a, b\nc",1\n"say ""x""",0\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")
    return {path.name: path for path in folder.iterdir()}


def test_every_kind_of_file_holds_the_same_rows(tmp_path: Path) -> None:
    found = {
        name: [(row["prompt"], int(row["score"])) for row in records(path)]
        for name, path in _write(tmp_path).items()
    }
    assert set(found) == {"a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.parquet"}
    assert all(rows == [("a, b\nc", 1), ('say "x"', 0)] for rows in found.values())


def test_a_folder_is_read_below_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/z.csv", "a.csv", "notes.txt"):
        (tmp_path / name).write_text("x\n")
    assert [path.name for path in result_files(tmp_path)] == ["a.csv", "z.csv"]


def test_long_answers_in_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("prompt,answer\nx," + "y" * 200_000 + "\n")
    assert len(next(records(path))["answer"]) == 200_000


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "renamed.parquet", "renamed.csv"])
def test_a_pickle_is_refused_unopened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(InputError, match=r"is a pickle.*to_parquet"):
        next(records(path))
    with pytest.raises(InputError, match="is a pickle"):
        result_files(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": \n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is not an object"),
        ("a.json", '{"x": 1}', "is not an array"),
        ("a.json", "[", "is not JSON from entry 1 on"),
        ("a.json", '[{"x": 1}, {"y": ', "is not JSON from entry 2 on"),
        ("a.json", '[{"x": 1} {"y": 1}]', "is not JSON from entry 1 on"),
        ("a.json", "[1]", "entry 1 is not an object"),
        ("a.csv", "x,y\n1,2,3\n", "line 2 has more values"),
        ("a.parquet", "PAR?", "not a readable Parquet"),
        ("a.docx", "x", "unknown kind '.docx'"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        list(records(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"x": "\xe9"}\n'),
        ("a.json", b'[{"x": "\xe9"}]'),
        ("a.csv", b"x\n\xe9\n"),
        ("a.jsonl.gz", b'{"x": 1}\n'),
        ("a.json.gz", gzip.compress(b'[{"x": 1}]' * 99, mtime=0)[:-20]),
    ],
)
def test_what_is_no_text_is_told_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read .*; save it as UTF-8"):
        list(records(path))


def test_an_array_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [{"x": [i, {"y": "],"}], "z": "é" * (i * 997 % 4001)} for i in range(200)]
    for indent in (None, 2):
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert list(records(path)) == rows
    path.write_text(json.dumps(rows)[:-9])
    read = records(path)
    assert [next(read) for _ in range(199)] == rows[:-1]
    with pytest.raises(InputError, match="is not JSON from entry 200 on"):
        next(read)
    path.write_text(" [ ] ")
    assert list(records(path)) == []


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no result files"):
        result_files(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        result_files(tmp_path / "absent")
    (tmp_path / "only.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="is a pickle"):
        result_files(tmp_path)
