"""A patch of several files that was interrupted: finished or undone by whoever finds it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from sharded_mixtures import gates_of, interrupt, routers_like, write_mixture

import train_router
from experts import InputError
from router_rl.exports.transformers import (
    apply_patch,
    extract_patch,
    host_of_folder,
    host_of_model,
    patch_journal,
    recover_patch,
    write_patch,
)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with a `model` whose patch stopped between two files, `before` and `patched`."""
    write_mixture("sharded", tmp_path)
    shutil.copytree(tmp_path / "model", tmp_path / "before")
    apply_patch(tmp_path / "patch", tmp_path / "model", tmp_path / "patched")
    interrupt(tmp_path / "patch", tmp_path / "model")
    gates = gates_of(tmp_path / "model")
    assert gates not in (gates_of(tmp_path / "before"), gates_of(tmp_path / "patched"))
    return tmp_path


def test_the_same_command_finishes_it(home: Path) -> None:
    applied = apply_patch(home / "patch", home / "model")
    assert applied.warnings[0] == "a patch of the model was interrupted; it is finished now"
    assert files(home / "model") == files(home / "patched")


def test_recover_finishes_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["patch", "--recover", "--model", str(home / "model"), "--json"]
    assert train_router.main(words) == 0
    assert "it is finished now" in json.loads(capsys.readouterr().out)["recovered"]
    assert files(home / "model") == files(home / "patched")
    assert train_router.main(words) == 0
    assert json.loads(capsys.readouterr().out)["recovered"] == "no patch was interrupted"
    for more in (["--out", str(home / "x")], ["--undo", str(home / "x")]):
        assert train_router.main([*words, *more]) == 2
        assert "is not used with --recover" in capsys.readouterr().err
    assert train_router.main(["patch", "--model", str(home / "model")]) == 2
    assert "patch=None: is missing" in capsys.readouterr().err
    assert train_router.main(["patch", "--recover", "--model", str(home / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_new_file_that_is_lost_undoes_it(home: Path) -> None:
    next(iter((home / "model" / "router_patch.journal" / "after").glob("*.safetensors"))).unlink()
    message = recover_patch(home / "model")
    assert message is not None
    assert "it is undone now" in message
    assert files(home / "model") == files(home / "before")


def test_a_new_file_that_is_damaged_undoes_it(home: Path) -> None:
    path = next(iter((home / "model" / "router_patch.journal" / "after").glob("*.safetensors")))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    recover_patch(home / "model")
    assert files(home / "model") == files(home / "before")


def test_a_model_that_lost_both_is_not_called_patched(home: Path) -> None:
    name = next(iter((home / "model" / "router_patch.journal" / "after").glob("*.safetensors"))).name
    content = (home / "model" / name).read_bytes()
    for path in (home / "model" / name, home / "model" / "router_patch.journal" / "after" / name):
        path.write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(InputError, match=f"{name} is neither the old file nor the new one"):
            apply_patch(home / "patch", home / "model")
    (home / "model" / name).write_bytes(content)  # copied again, as the message says
    recover_patch(home / "model")
    assert files(home / "model") == files(home / "before")


def test_a_damaged_journal_is_an_error(home: Path) -> None:
    plan = home / "model" / "router_patch.journal" / "journal.json"
    for text in (plan.read_text().replace("00003", "00002"), "{", "[" * 100_000, "[]"):
        plan.write_text(text)
        with pytest.raises(InputError, match=r"journal\.json is damaged"):
            recover_patch(home / "model")


def test_no_library_loads_a_mixture_of_gates(home: Path) -> None:
    import transformers

    with pytest.raises(ValueError, match="unfinished router patch: run train-router patch --recover"):
        transformers.AutoModelForCausalLM.from_pretrained(home / "model")


def test_whoever_reads_the_model_says_so(home: Path) -> None:
    with pytest.warns(UserWarning, match="it is finished now"):
        host_of_folder(home / "model")
    assert files(home / "model") == files(home / "patched")


def test_an_undo_is_not_taken_from_it(home: Path) -> None:
    with pytest.warns(UserWarning, match="finished"), pytest.raises(InputError, match="already patched"):
        extract_patch(home / "model", home / "undo")
    assert not (home / "undo").exists()


def test_an_error_after_it_was_finished_says_so(home: Path) -> None:
    with pytest.raises(InputError, match=r"already patched \(.*it is finished now\); leave it out"):
        apply_patch(home / "patch", home / "model", undo=home / "undo")


def test_a_loaded_model_of_such_a_folder_is_refused(home: Path) -> None:
    class Loaded:
        config: Any = type("Config", (), {"name_or_path": str(home / "model")})

    with pytest.raises(InputError, match="loaded while its folder was being patched"):
        host_of_model(Loaded())


def test_a_running_patch_is_left_alone(home: Path) -> None:
    before = files(home / "model")
    running = FileLock(home / "model" / "router_patch.journal" / "lock")
    with running, pytest.raises(InputError, match="is being patched by another process"):
        recover_patch(home / "model")
    after = files(home / "model")
    after.pop("router_patch.journal/lock", None), before.pop("router_patch.journal/lock", None)
    assert after == before


def test_a_rename_that_fails_restores_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mixture("sharded", tmp_path)
    before = files(tmp_path / "model")
    move, moved = patch_journal._move, []

    def fail(source: Path, target: Path) -> None:
        if len(moved) == 3:
            raise OSError(30, "Read-only file system")
        moved.append(target.name)
        move(source, target)

    monkeypatch.setattr(patch_journal, "_move", fail)
    with pytest.raises(OSError, match="Read-only"):
        apply_patch(tmp_path / "patch", tmp_path / "model")
    assert files(tmp_path / "model") == before


def test_a_disk_without_space_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mixture("sharded", tmp_path)
    before = files(tmp_path / "model")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"needs 0.0 GB for copies of its files, but 0.0 GB are free"):
        apply_patch(tmp_path / "patch", tmp_path / "model")
    assert files(tmp_path / "model") == before


def test_links_and_modes_of_files(tmp_path: Path) -> None:
    """A snapshot of the Hugging Face cache: links to read-only files, which are never changed."""
    write_mixture("sharded", tmp_path)
    (tmp_path / "blobs").mkdir()
    for path in list((tmp_path / "model").iterdir()):
        path.rename(tmp_path / "blobs" / path.name)
        (tmp_path / "blobs" / path.name).chmod(0o444)
        path.symlink_to(tmp_path / "blobs" / path.name)
    before = files(tmp_path / "blobs")
    apply_patch(tmp_path / "patch", tmp_path / "model", undo=tmp_path / "undo")
    apply_patch(tmp_path / "patch", tmp_path / "model", tmp_path / "out")
    assert files(tmp_path / "blobs") == before
    assert gates_of(tmp_path / "model") == gates_of(tmp_path / "out") != gates_of(tmp_path / "blobs")
    assert (tmp_path / "model" / "model-00002-of-00005.safetensors").stat().st_mode & 0o777 == 0o444
    apply_patch(tmp_path / "undo", tmp_path / "model")
    assert files(tmp_path / "model") == before


def test_only_files_whose_gates_change_are_written(tmp_path: Path) -> None:
    write_mixture("sharded", tmp_path)
    weight = torch.randn(2, 8)
    for number in range(2):
        other = torch.randn(2, 8) if number else weight
        write_patch(routers_like(weight, other), tmp_path / "model", tmp_path / f"patch-{number}")
    apply_patch(tmp_path / "patch-0", tmp_path / "model")
    nodes = {path.name: path.stat().st_ino for path in (tmp_path / "model").iterdir()}
    apply_patch(tmp_path / "patch-1", tmp_path / "model")
    changed = {name for name, node in nodes.items() if (tmp_path / "model" / name).stat().st_ino != node}
    assert len([name for name in changed if name.endswith("safetensors")]) == 1
