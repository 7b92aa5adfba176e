"""Rows of files: every kind gives the same ones, broken lines are named, pickles are never opened."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from contextlib import suppress
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"x,y\n1\n", "line 2 has fewer values than the header has names"),
        ("a.csv", b"x,y,x\n1,2,3\n", "the header has the column 'x' 2 times"),
        ("a.csv", b'x,y\n1,"2\n3,4\n5,6\n', "line 4 cannot be read"),
        ("a.jsonl", b'{"x": 1, "y": 2, "x": 3}\n', "line 1 is not JSON .it has the key 'x' 2 times"),
        ("a.json", b'[{"x": 1, "x": 3}]', "entry 1 is not JSON .it has the key 'x' 2 times"),
        ("a.json", b'[{"x": 1}] [{"x": 2}]', "goes on after its array"),
        ("a.jsonl", b'{"x": ' * 100_000, "nested too deeply"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.jsonl", b'{"x": ' + b"9" * 5000 + b"}\n", "line 1 is not JSON"),
        ("a.json", b'[{"x": ' + b"9" * 5000 + b"}]\n", "entry 1 is not JSON"),
    ],
)
def test_what_would_lose_a_value_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(records(path))
    assert path.read_bytes() == content


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfx,y\n1,2\n"))
    assert list(records(path)) == [{"x": "1", "y": "2"}]


def test_a_column_of_parquet_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([[1], [2]], names=["quality/a", "quality/a"]), path)
    with pytest.raises(InputError, match=r"quality/a=2: occurs 2 times in .*rename one column"):
        list(records(path))


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    whole = _write(tmp_path)["a.parquet"].read_bytes()
    path = tmp_path / "b.parquet"
    for at in range(4, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with suppress(InputError):  # any other error fails the test
            list(records(path))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    for path in (tmp_path / "fifo.csv", Path("/dev/zero")):
        with pytest.raises(InputError, match="is not a regular file"):
            result_files(path)
        with pytest.raises(InputError, match="is not a regular file"):
            next(records(path))
    for path in (tmp_path / ("x" * 5000), tmp_path / "a\0b"):
        with pytest.raises(InputError, match=r"no such file or folder|cannot be read"):
            result_files(path)
