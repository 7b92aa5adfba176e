from __future__ import annotations

import json
import os
import stat

import pytest

from experts import InputError
from experts.io.atomic import replacing, writable_folder, write_json


def test_the_target_changes_only_at_the_end(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with replacing(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    assert os.listdir(target.parent) == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail():
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_file_has_ordinary_permissions(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    (tmp_path / "b.json").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "b.json")]
    assert modes[0] == modes[1]
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out='.*file/sub': cannot be written .*choose a folder"):
        writable_folder("out", tmp_path / "file" / "sub")
    assert writable_folder("out", tmp_path / "a" / "b").is_dir()
