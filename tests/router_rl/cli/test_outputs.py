from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import train_router
from experts.io import atomic
from router_rl.cli.outputs import reserved
from router_rl.cli.registry import find_command

CSV = "query_id,model,quality,cost\na,x,1,1\na,y,0,2\nb,x,0,1\nb,y,1,2\n"


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(CSV)
    return path


def run(capsys, *words):
    """Run a command; return its status and what it wrote to stderr."""
    status = train_router.main([str(word) for word in words])
    return status, capsys.readouterr().err


def test_an_output_that_is_an_input_is_an_error(results, capsys):
    for out in (results, results.parent / "." / "r.csv"):
        assert run(capsys, "import", results, "--out", out) == (
            2,
            f"error: out={str(out)!r}: is also the source; write to another path\n",
        )
    os.symlink(results, results.parent / "link.csv")
    assert run(capsys, "import", results, "--out", results.parent / "link.csv")[0] == 2
    assert results.read_text() == CSV


def test_an_output_inside_an_input_is_an_error(results, capsys):
    out = results.parent / "table.parquet"
    status, error = run(capsys, "import", results.parent, "--out", out)
    assert (status, "lies inside the source; write to another folder" in error) == (2, True)
    assert os.listdir(results.parent) == ["r.csv"]


def test_inputs_given_by_text_are_inputs(results, capsys):
    assert run(capsys, "compare", "--table", results, "--out", results)[1].startswith(
        f"error: out={str(results)!r}: is also the table"
    )
    words = ["import", results, "--prices", results, "--out"]
    assert "is also the prices" in run(capsys, *words, results)[1]


@pytest.mark.parametrize("words", [["--out", ""], ["--out="], ["--out", "x", ""]])
def test_an_empty_value_is_an_error(results, capsys, words, monkeypatch):
    monkeypatch.chdir(results.parent)
    status, error = run(capsys, "import", results, *words)
    assert (status, error.count("\n"), "is empty; give a value" in error) == (2, 1, True)
    assert os.listdir(results.parent) == ["r.csv"]


def test_the_second_of_two_processes_is_refused(results, capsys):
    out = results.parent / "t.parquet"
    code = (
        "from pathlib import Path; from router_rl.cli.outputs import reserved\n"
        "from router_rl.cli.registry import find_command\n"
        f"with reserved(find_command('import'), {{'out': Path({str(out)!r})}}):\n"
        "    print('ready', flush=True); input()"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        refused = run(capsys, "import", results, "--out", out)
        process.kill()
    assert refused == (
        2,
        f"error: out={str(out)!r}: is being written by another process; wait for it, or "
        "write to another path\n",
    )
    assert run(capsys, "import", results, "--out", out)[0] == 0  # a killed process holds nothing
    assert sorted(os.listdir(results.parent)) == ["r.csv", "t.parquet"]


def test_a_folder_changed_in_place_is_reserved_too(tmp_path):
    from dataclasses import replace

    command = replace(find_command("import"), writes=(), changes=("out",))
    with (
        reserved(command, {"out": tmp_path}),
        pytest.raises(ValueError, match="another process"),
        reserved(command, {"out": tmp_path}),
    ):
        pass


def test_a_full_disk_is_one_line_and_keeps_what_was_there(results, capsys, monkeypatch):
    out = results.parent / "t.parquet"
    assert run(capsys, "import", results, "--out", out)[0] == 0
    before = out.read_bytes()

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "sync_file", full)
    text = "error: No space left on device; free some space and give the same command again\n"
    assert run(capsys, "import", results, "--out", out) == (2, text)
    assert out.read_bytes() == before
    assert sorted(os.listdir(results.parent)) == ["r.csv", "t.parquet"]


def test_memory_that_is_not_enough_is_one_line(results, capsys, monkeypatch):
    import torch

    from router_rl.cli import import_command

    monkeypatch.setattr(import_command, "import_results", lambda *_, **__: torch.empty(1 << 60))
    text = "error: the memory is not enough for this input; give a smaller one\n"
    assert run(capsys, "import", results, "--out", results.parent / "t.parquet") == (2, text)


def test_a_bug_keeps_its_traceback(results, capsys, monkeypatch):
    from router_rl.cli import import_command

    monkeypatch.setattr(import_command, "import_results", lambda *_, **__: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        run(capsys, "import", results, "--out", results.parent / "t.parquet")


def test_a_place_that_cannot_be_written_is_found_before_the_work(results, capsys, monkeypatch):
    from router_rl.cli import import_command

    monkeypatch.setattr(import_command, "import_results", lambda *_, **__: pytest.fail("it worked first"))
    (results.parent / "file").write_text("mine")
    for out in ("/proc/table.parquet", results.parent / "file" / "deep" / "table.parquet"):
        status, error = run(capsys, "import", results, "--out", out)
        assert (status, error.startswith("error: out="), error.count("\n")) == (2, True, 1)
        assert "cannot be written" in error


@pytest.fixture
def digits_table(digits, tmp_path):
    path = tmp_path / "digits.parquet"
    digits.take(np.arange(0, len(digits), 12)).write(path)
    return path


def train(capsys, table, out, *words):
    return run(capsys, "train", "--table", table, "--method", "group_label", "--out", out, *words)


def test_a_foreign_router_folder_is_kept(digits_table, tmp_path, capsys):
    foreign = tmp_path / "out" / "router"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("mine")
    status, error = train(capsys, digits_table, tmp_path / "out")
    assert (status, "did not write (router)" in error, error.count("\n")) == (2, True, 1)
    assert os.listdir(tmp_path / "out") == ["router"]
    assert os.listdir(foreign) == ["thesis.txt"]


def test_a_run_is_repeated_and_a_file_added_to_its_router_is_kept(digits_table, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(capsys, digits_table, out)[0] == 0
    assert train(capsys, digits_table, out)[0] == 0
    (out / "router" / "notes.txt").write_text("mine")
    status, error = train(capsys, digits_table, out)
    assert (status, "notes.txt" in error) == (2, True)
    assert (out / "router" / "notes.txt").read_text() == "mine"
    assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".new", ".old"))]


def test_a_damaged_trial_is_found_before_the_good_router_is_replaced(digits_table, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(capsys, digits_table, out)[0] == 0
    good = (out / "router" / "router.safetensors").read_bytes()
    trial = next((out / "trials").iterdir()) / "router" / "router.safetensors"
    trial.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    status, error = train(capsys, digits_table, out)
    assert (status, error.count("\n"), str(trial.parent) in error) == (2, 1, True)
    assert (out / "router" / "router.safetensors").read_bytes() == good


def test_a_folder_that_holds_a_parity_record_is_not_an_export(digits_table, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(capsys, digits_table, out)[0] == 0
    shutil.copytree(out / "router", tmp_path / "mine")
    (tmp_path / "mine" / "photo.jpg").write_text("mine")
    status, error = run(capsys, "export", out, "--out", tmp_path / "mine")
    assert (status, "photo.jpg" in error) == (2, True)
    assert (tmp_path / "mine" / "photo.jpg").exists()
