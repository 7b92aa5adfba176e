"""The undo of a patch: taken from original gates only, and never lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sharded_mixtures import gates_of, routers_like, write_mixture

import train_router
from experts import InputError
from router_rl.exports.transformers import apply_patch, extract_patch, write_patch

Files = dict[str, bytes]


def files(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with `model`, its `patch`, and `other`, another patch for it."""
    write_mixture("sharded", tmp_path)
    write_patch(routers_like(), tmp_path / "model", tmp_path / "other")
    return tmp_path


def test_the_same_command_twice_keeps_the_undo(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(home / "model")
    words = ["patch", str(home / "patch"), "--model", str(home / "model"), "--undo", str(home / "undo")]
    assert train_router.main([*words, "--json"]) == 0
    patched, undo = files(home / "model"), files(home / "undo")
    capsys.readouterr()
    assert train_router.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"][:2] == [
        "the model is already patched; the undo was kept",
        "the model already has these routers; nothing was changed",
    ]
    assert (files(home / "model"), files(home / "undo")) == (patched, undo)
    apply_patch(home / "undo", home / "model")
    assert files(home / "model") == before


def test_an_undo_of_a_patched_model_is_refused(home: Path) -> None:
    apply_patch(home / "patch", home / "model")
    patched = files(home / "model")
    for refused in (
        lambda: apply_patch(home / "patch", home / "model", undo=home / "undo"),
        lambda: apply_patch(home / "other", home / "model", undo=home / "undo"),
        lambda: extract_patch(home / "model", home / "undo"),
    ):
        with pytest.raises(InputError, match="already patched"):
            refused()
        assert not (home / "undo").exists()
        assert files(home / "model") == patched


def test_a_model_without_a_record_is_patched_if_it_has_the_gates(home: Path) -> None:
    apply_patch(home / "patch", home / "model")
    (home / "model" / "router_patch.json").unlink()
    with pytest.raises(InputError, match="already patched"):
        apply_patch(home / "patch", home / "model", undo=home / "undo")
    apply_patch(home / "patch", home / "model")
    assert json.loads((home / "model" / "router_patch.json").read_text())["original"] is None


def test_a_damaged_record_hides_the_original_but_not_the_undo(home: Path) -> None:
    before = files(home / "model")
    apply_patch(home / "patch", home / "model", undo=home / "undo")
    record = home / "model" / "router_patch.json"
    record.write_text(record.read_text().replace('"experts_per_token": 1', '"experts_per_token": 2'))
    with pytest.raises(InputError, match="already patched"):
        apply_patch(home / "other", home / "model", undo=home / "second")
    assert "is damaged" in apply_patch(home / "undo", home / "model").warnings[0]
    assert files(home / "model") == before


def test_a_second_patch_keeps_the_undo_of_the_original(home: Path) -> None:
    before = files(home / "model")
    apply_patch(home / "patch", home / "model", undo=home / "undo")
    undo = files(home / "undo")
    applied = apply_patch(home / "other", home / "model", undo=home / "undo")
    assert applied.warnings[0] == "the model is already patched; the undo was kept"
    assert files(home / "undo") == undo
    apply_patch(home / "undo", home / "model")
    assert files(home / "model") == before
    apply_patch(home / "other", home / "model", undo=home / "undo")  # again from the original


def test_an_undo_folder_with_anything_else_is_refused(home: Path) -> None:
    shutil.copytree(home / "other", home / "trained")
    (home / "notes").mkdir()
    (home / "notes" / "a.txt").write_text("mine")
    (home / "file").write_text("mine")
    before = files(home)
    for name, message in (
        ("trained", "does not have the original routers"),
        ("notes", "is not the undo of this model"),
        ("file", "is not the undo of this model"),
    ):
        with pytest.raises(InputError, match=message):
            apply_patch(home / "patch", home / "model", undo=home / name)
        with pytest.raises(InputError, match=message):
            extract_patch(home / "model", home / name)
        assert files(home) == before
    apply_patch(home / "patch", home / "model")
    patched = files(home)
    with pytest.raises(InputError, match="does not have the original routers"):  # the trained patch itself
        apply_patch(home / "other", home / "model", undo=home / "patch")
    assert files(home) == patched


def test_outputs_apart_from_inputs(home: Path) -> None:
    before = files(home)
    model, patch = home / "model", home / "patch"
    for out, undo, message in (
        (None, patch, "undo=.*is the folder of patch"),
        (None, model, "undo=.*is the folder of model"),
        (None, model / "undo", "undo=.*lies inside the folder of model"),
        (home / "out", home / "out", "is the folder of"),
        (home / "out", home / "out" / "undo", "undo=.*lies inside the folder of out"),
        (model / "out", None, "out=.*lies inside the folder of model"),
        (patch, None, "out=.*is the folder of patch"),
        (None, home / "link", "undo=.*is the folder of patch"),
    ):
        if undo == home / "link":
            undo.symlink_to(patch)
        with pytest.raises(InputError, match=message):
            apply_patch(patch, model, out, undo=undo)
    (home / "link").unlink()
    with pytest.raises(InputError, match="lies inside the folder of model"):
        write_patch(routers_like(), model, model / "patch")
    with pytest.raises(InputError, match="is the folder of model"):
        extract_patch(model, model)
    assert files(home) == before


def test_a_handover_does_not_replace_an_undo(home: Path) -> None:
    routers = routers_like()
    extract_patch(home / "model", home / "undo")
    before = files(home)
    for name, message in (("undo", "original routers of a model"), ("patch", "version 1, which may be")):
        with pytest.raises(InputError, match=message):
            write_patch(routers, home / "model", home / name)
    assert files(home) == before
    write_patch(routers, home / "model", home / "other")
    assert files(home / "other") != {name: before[f"other/{name}"] for name in files(home / "other")}
    (home / "other" / "router_patch.json").write_text("{}")
    with pytest.raises(InputError, match="did not write"):
        write_patch(routers, home / "model", home / "other")


def test_a_copy_is_written_once_and_known_again(home: Path) -> None:
    before = files(home / "model")
    apply_patch(home / "patch", home / "model", home / "out", undo=home / "undo")
    once = files(home)
    applied = apply_patch(home / "patch", home / "model", home / "out", undo=home / "undo")
    assert "the copy already has these routers; nothing was changed" in applied.warnings
    assert files(home) == once
    with pytest.raises(InputError, match=r"out=.*exists"):
        apply_patch(home / "other", home / "model", home / "out")
    assert files(home / "model") == before
    apply_patch(home / "undo", home / "out")
    assert files(home / "out") == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_undo_keeps_every_bit(dtype: torch.dtype, home: Path) -> None:
    """float32 would lose bits of float64."""
    for path in (home / "model").glob("*.safetensors"):
        tensors = {
            name: torch.randn(value.shape).double().to(dtype) for name, value in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
    before = {path.name: path.read_bytes() for path in (home / "model").iterdir()}
    patch = write_patch(routers_like(), home / "model", home / "new")
    apply_patch(patch, home / "model", undo=home / "undo")
    assert {path.name: path.read_bytes() for path in (home / "model").iterdir()} != before
    apply_patch(home / "undo", home / "model")
    assert {path.name: path.read_bytes() for path in (home / "model").iterdir()} == before


def test_an_undo_of_version_1_is_accepted(home: Path) -> None:
    """Version 1 did not mark an undo; its gates are compared."""
    extract_patch(home / "model", home / "undo")
    description = json.loads((home / "undo" / "router_patch.json").read_text())
    del description["restores"]
    description |= {"schema_version": 1, "digest": description.pop("weights")}
    (home / "undo" / "router_patch.json").write_text(json.dumps(description))
    before, undo = gates_of(home / "model"), files(home / "undo")
    apply_patch(home / "patch", home / "model", undo=home / "undo")
    assert files(home / "undo") == undo
    apply_patch(home / "undo", home / "model")
    assert gates_of(home / "model") == before
