"""JSON with limits and types: what is read, and one line for what is not."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest

from experts import InputError
from experts.io import json_file
from experts.io.json_file import read_json, sealed
from experts.io.json_types import check_type, parse_json

ROOT = Path(__file__).parents[3]


class Named(TypedDict):
    name: str


class Entry(Named, total=False):
    size: int
    values: list[float]
    inside: Named


@dataclass(frozen=True, kw_only=True)
class Options:
    weight: float
    window: int = 3
    budget: float | None = None


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": [1, -2.5, null, true, "\\u00e9"]}', {"a": [1, -2.5, None, True, "é"]}),
        (b"[" * 64 + b"]" * 64, None),
        (b"18446744073709551615", 2**64 - 1),
        ('"\\ud83d\\ude00 ü"'.encode(), "😀 ü"),
    ],
)
def test_json_is_read(content: bytes, value: Any) -> None:
    assert parse_json(content) == (json.loads(content) if value is None else value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 65 + b"]" * 65, "nests deeper than 64 levels"),
        (b"[" * 500_000, "nests deeper than 64 levels"),
        (b'{"a": {"b": 1, "b": 2}}', "has the key 'b' twice"),
        (b"[NaN]", "holds NaN, which JSON does not have"),
        (b"[Infinity]", "holds Infinity"),
        (b"[-1e400]", "holds '-1e400', which is not finite"),
        (b"18446744073709551616", "a whole number beyond 64 bits"),
        (b"1" * 10_000, "a whole number beyond 64 bits"),
        (b'["\\udc00"]', "surrogates not allowed"),
        (b'{"\\udc00": 1}', "surrogates not allowed"),
        (b"\xff", "can't decode byte 0xff"),
        (b"", "Expecting value"),
        (b"{'a': 1}", "Expecting property name"),
        (b"1 2", "Extra data"),
    ],
    ids=range(14),
)
def test_other_text_is_refused_in_one_line(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse_json(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (3, float),
        (3, int | None),
        (None, int | None),
        ([], list[int]),
        ((1, 2), Sequence[int]),
        ([1, 2.5], tuple[float, ...]),
        ([1, "a"], tuple[int, str]),
        ({"a": [1]}, Mapping[str, list[int]]),
        ({"name": "x", "more": 3j}, Entry),
        ({"name": "x", "size": 2, "values": [1, 2.5], "inside": {"name": ""}}, Entry),
        ({"weight": 1, "budget": None}, Options),
        ("soft", Literal["hard", "soft"]),
        (3j, Any),
    ],
    ids=str,
)
def test_a_value_of_the_type_is_accepted(value: Any, hint: Any) -> None:
    check_type(value, hint, "field")


@pytest.mark.parametrize(
    ("value", "hint", "problem"),
    [
        (True, int, "field is True, not a whole number"),
        (1, bool, "field is 1, not true or false"),
        (1.0, int, "field is 1.0, not a whole number"),
        ("3", float, "field is '3', not a number"),
        (None, str, "field is None, not a text"),
        ("x", int | None, "field is 'x', not a whole number or null"),
        ([1, [2]], list[int], r"field\[1\] is \[2\], not a whole number"),
        ({"a": 1}, list[int], "field is {'a': 1}, not a list"),
        ([1, 2, 3], tuple[int, str], "field has 3 entries, not 2"),
        ({"a": {"b": "c"}}, dict[str, dict[str, int]], r"field\.a\.b is 'c', not a whole number"),
        ([], dict[str, int], r"field is \[\], not an object"),
        ({}, Entry, r"field\.name is missing"),
        ({"name": "x", "inside": {}}, Entry, r"field\.inside\.name is missing"),
        ({"name": "x", "values": [1, None]}, Entry, r"field\.values\[1\] is None, not a number"),
        ({"weight": 1, "wait": 2}, Options, r"field\.wait is unknown"),
        ({"window": 1}, Options, r"field\.weight is missing"),
        ({"weight": []}, Options | None, r"field\.weight is \[\], not a number"),
        ("other", Literal["hard", "soft"], "field is 'other', not 'hard' or 'soft'"),
        (True, Literal[1], "field is True, not 1"),
        ("x" * 10_000, int, "field is 'xxx"),
    ],
    ids=range(20),
)
def test_a_value_of_another_type_is_refused_by_name(value: Any, hint: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        check_type(value, hint, "field")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_inference_floor_has_the_same_code() -> None:
    names = ROOT / "experts" / "io" / "json_types.py", ROOT / "router_rl" / "routing" / "strict_json.py"
    ours, theirs = (ast.parse(name.read_text(encoding="utf-8")).body for name in names)
    assert ast.dump(ast.Module(ours[1:], [])) == ast.dump(ast.Module(theirs[1:], []))


def refused(path: Path, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        read_json("run", path, Entry, fix="train again")
    message = str(caught.value)
    assert message.startswith(f"run={str(path)!r}: ")
    assert message.endswith("; train again")
    assert "\n" not in message


def test_a_file_is_read_and_its_errors_name_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    refused(path, "cannot be read .No such file")
    refused(tmp_path, "is not a file")
    path.write_text('{"size": 2}')
    refused(path, "cannot be used: name is missing")
    path.write_text("{")
    refused(path, "cannot be used: Expecting")
    refused(tmp_path / "nul\0name", "cannot be read")
    path.write_text('{"name": "x", "size": 2}')
    assert read_json("run", path, Entry, fix="train again") == {"name": "x", "size": 2}


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # sparse: it takes no room on disk
    refused(path, "has more than 268435456 bytes")
    monkeypatch.setattr(json_file, "MAX_BYTES", 9)
    path.write_text('{"name": "x"}')
    refused(path, "has more than 9 bytes")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    refused(tmp_path / "run.json", "is not a file")


def test_a_sealed_file_shows_every_change(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    content = {"name": "x", "size": 2, "values": [0.1, 1e-9]}
    path.write_text(json.dumps(sealed(content), indent=3))
    assert read_json("run", path, Entry, fix="train again") == content
    for change in ({"size": 3}, {"values": [0.1]}, {"more": None}, {"checksum": "sha256:0"}, {"checksum": 1}):
        path.write_text(json.dumps({**sealed(content), **change}))
        refused(path, "it was changed after it was written")
    path.write_text(json.dumps(content))  # of a release without checksums
    assert read_json("run", path, Entry, fix="train again") == content
