"""YAML is read within limits, and what is wrong is said in one line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from experts import InputError
from experts.io.yaml_file import MAX_BYTES, read_yaml

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_reads_plain_values_with_merged_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfcommon: &c {x: 1, y: 2}\nmine: {<<: *c, y: 3}\n")
    assert read_yaml("models", path) == {"common": {"x": 1, "y": 2}, "mine": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (LAUGHS, "it has more than 200,000 values"),
        ("[" * 100 + "]" * 100, "nests deeper than 32"),
        ("[" * 100_000, "nest"),
        ("x: " * 3, "mapping values are not allowed"),
        ("&a [*a]", "alias 'a' is not of a complete value"),
        ("prices: {a: 1, b: 2, a: 3}", "the key 'a' occurs twice"),
        ("x: 2024-13-45", "is not YAML"),
        ("x: " + "9" * 5000, "is not YAML"),
        ("? [1]\n: 2", "is not YAML"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a\0b", "is not YAML"),
        (b"\xff\xfe", "is not YAML"),
    ],
)
def test_a_hostile_file_is_one_line_in_no_time(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.monotonic()
    with pytest.raises(InputError, match=problem) as caught:
        read_yaml("models", path)
    assert time.monotonic() - began < 5
    assert str(caught.value).startswith(f"models={str(path)!r}: is not YAML")
    assert "\n" not in str(caught.value)


def test_only_a_regular_file_of_some_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b" " * (MAX_BYTES + 1))
    for path, problem in (
        (tmp_path, "is a folder"),
        (tmp_path / "fifo", "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / "large", "more than 4,194,304"),
        (tmp_path / "absent", "cannot be read"),
        (tmp_path / ("x" * 5000), "cannot be read"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(InputError, match=problem):
            read_yaml("prices", path)
