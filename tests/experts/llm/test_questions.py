"""Prompts mean the same in every file format."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experts import InputError
from experts.llm import read_questions

ROWS = {
    "prompt": ['Say "hi",\nplease', "1 + 2 ="],
    "reference": ["hi", "3"],
    "group": ["talk", "sums"],
}


def write(path, rows):
    table = pa.table(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows)
            writer.writeheader()
            writer.writerows(table.to_pylist())
    else:
        import json

        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_reads(tmp_path, kind):
    found = read_questions(write(tmp_path / f"p.{kind}", ROWS))
    assert found.prompt.tolist() == ROWS["prompt"]
    assert found.reference.tolist() == ROWS["reference"]
    assert found.group is not None
    assert found.group.tolist() == ROWS["group"]
    assert found.query_id.tolist() == ["q0", "q1"]
    assert found.split is None
    assert len(read_questions(tmp_path / f"p.{kind}", limit=1)) == 1


def test_numbers_are_read_as_text_and_other_columns_are_left_alone(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "reference": 3, "x": [1]}\n{"prompt": "b", "query_id": null}\n')
    found = read_questions(path)
    assert found.reference.tolist() == ["3", None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"question": ["a"]}, "prompt=None: .* row 0 is missing"),
        ({"prompt": ["a", ""]}, "prompt=None: .* row 1 is missing"),
        ({"prompt": ["a", "b"], "query_id": ["x", "x"]}, "query_id='x': .* rows 0 and 1 have the same"),
        ({"prompt": ["a", "b"], "group": ["x", None]}, "group=None: .* row 1 is missing"),
        ({"prompt": ["a", "b"], "query_id": ["x", None]}, "query_id=None: .* row 1 is missing"),
    ],
)
def test_says_which_row_is_wrong(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_questions(write(tmp_path / "p.parquet", rows))


def test_says_which_file_is_wrong(tmp_path):
    (tmp_path / "p.txt").write_text("a")
    (tmp_path / "p.parquet").write_text("a")
    (tmp_path / "e.jsonl").write_text("")
    for name in ("p.txt", "p.parquet", "none.csv", "e.jsonl"):
        with pytest.raises(InputError, match=name):
            read_questions(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "\\ud800"}\n', r"prompt='\\ud800': .* row 0 holds half a surrogate pair"),
        (b'{"prompt": "a", "reference": "\\udfff"}\n', r"reference='\\udfff': .* row 0 holds half"),
        (b'{"prompt": "  "}\n', "prompt=None: .* row 0 is missing"),
        (b'{"prompt": NaN}\n', "prompt=None: .* row 0 is missing"),
        (b"[" * 100_000, "prompts='.*jsonl': is nested too deeply"),
        (b"\xff", "prompts='.*jsonl': cannot be read"),
    ],
)
def test_hostile_prompts_are_named(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_questions(path)
    for other, problem in ((tmp_path / "absent", "no such file"), (tmp_path, "is not a regular file")):
        with pytest.raises(InputError, match=f"prompts='.*': {problem}"):
            read_questions(other)
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(InputError, match=r"prompts='.*a.docx': is of an unknown kind"):
        read_questions(tmp_path / "a.docx")
