from __future__ import annotations

import json
import os

import pytest

from experts import InputError
from experts.io import owned_folder
from experts.io.owned_folder import MARKER, claim_folder, mark, replacing_folder


@pytest.fixture(params=["exchange", "two renames"])
def swap(request, monkeypatch):
    """Both ways to swap folders."""
    if request.param == "two renames":
        monkeypatch.setattr(owned_folder, "_exchanged", lambda first, second: False)


def write(target, content="one"):
    with replacing_folder(target) as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "file.txt").write_text(content)


def read(target):
    return (target / "sub" / "file.txt").read_text()


@pytest.mark.usefixtures("swap")
def test_a_folder_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    target = tmp_path / "out"
    write(target, "one")
    write(target, "two")
    assert read(target) == "two"
    assert os.listdir(tmp_path) == ["out"]


def test_the_folder_can_be_exchanged_in_one_step_here(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    (first / "one").touch()
    if not owned_folder._exchanged(first, second):
        assert os.uname().sysname != "Linux"
        return
    assert os.listdir(second) == ["one"]
    assert os.listdir(first) == []


@pytest.mark.usefixtures("swap")
def test_a_failure_leaves_the_old_folder(tmp_path):
    write(tmp_path / "out")

    def fail():
        with replacing_folder(tmp_path / "out") as fresh:
            (fresh / "half").touch()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert read(tmp_path / "out") == "one"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "parity.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds files that this toolkit did not write \(parity.json\)"):
        write(target)
    assert os.listdir(target) == ["parity.json"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "notes.txt").write_text("mine"), r"did not write \(notes.txt\)"),
        (lambda folder: (folder / "sub/file.txt").write_text("two"), r"were changed since \(sub/file.txt\)"),
        (lambda folder: (folder / MARKER).unlink(), r"did not write \(sub/file.txt\)"),
        (lambda folder: (folder / MARKER).write_text("[" * 100_000), r"did not write \(sub/file.txt\)"),
        (lambda folder: os.symlink(folder, folder / "link"), r"did not write \(link\)"),
    ],
)
def test_files_that_a_user_added_or_changed_are_kept(tmp_path, change, problem):
    target = tmp_path / "out"
    write(target)
    change(target)
    before = sorted(map(str, target.rglob("*")))
    with pytest.raises(InputError, match=problem):
        write(target, "three")
    assert sorted(map(str, target.rglob("*"))) == before


def test_files_that_were_removed_and_caches_of_python_do_not_count(tmp_path):
    target = tmp_path / "out"
    write(target)
    (target / "sub" / "__pycache__").mkdir()
    (target / "sub" / "__pycache__" / "x.pyc").touch()
    write(target, "two")
    assert read(target) == "two"


def test_files_links_and_dangling_links_are_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    for name in ("file", "link"):
        with pytest.raises(InputError, match="exists and is not a folder"):
            write(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_kill_between_two_renames_is_mended_by_the_next_call(tmp_path, monkeypatch):
    monkeypatch.setattr(owned_folder, "_exchanged", lambda first, second: False)
    target = tmp_path / "out"
    write(target)
    killed = tmp_path / f".out.{_machine()}-{_dead()}-1.old"
    target.rename(killed)
    (tmp_path / f".out.{_machine()}-{_dead()}-1.new").mkdir()

    def fail():
        with replacing_folder(target):
            assert read(target) == "one"  # restored first
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert os.listdir(tmp_path) == ["out"]
    assert read(target) == "one"


def test_a_claimed_folder_keeps_foreign_files_and_refuses_foreign_names(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "log.txt").write_text("mine")
    claim_folder(folder, "run", ["run.json"])
    claim_folder(folder, "run", ["run.json"])
    assert (folder / "log.txt").read_text() == "mine"
    with pytest.raises(InputError, match="is the folder of a run; choose another"):
        claim_folder(folder, "comparison", ["results.json"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"did not write \(run.json\)"):
        claim_folder(tmp_path / "other", "run", ["run.json"])
    assert os.listdir(tmp_path / "other") == ["run.json"]


def test_the_marker_holds_sizes_and_digests(tmp_path):
    (tmp_path / "a").write_text("x")
    mark(tmp_path)
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert json.loads((tmp_path / MARKER).read_text())["files"] == {"a": [1, digest]}


def _machine():
    from experts.io.temporaries import _MACHINE

    return _MACHINE


def _dead():
    """A process that has ended."""
    import subprocess
    import sys

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
