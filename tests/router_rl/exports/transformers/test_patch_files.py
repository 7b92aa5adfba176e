"""Patches that were edited or damaged are refused before the model changes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from sharded_mixtures import routers_like, write_mixture

from experts import InputError
from router_rl.exports.transformers import apply_patch, extract_patch, write_patch, write_routers
from router_rl.exports.transformers.patch_files import seal
from router_rl.routing import RouterError

WEIGHTS, DESCRIPTION = "router_patch.safetensors", "router_patch.json"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with `model`, a patch of `version-1` and one of `version-2`."""
    write_mixture("single", tmp_path)
    (tmp_path / "patch").rename(tmp_path / "version-1")
    write_patch(routers_like(), tmp_path / "model", tmp_path / "version-2")
    return tmp_path


def edit(patch: Path, **fields: Any) -> None:
    """Change fields of a description, with a digest that fits."""
    description = {**json.loads((patch / DESCRIPTION).read_text()), **fields}
    if description["schema_version"] == 2:
        description = seal(description)
    (patch / DESCRIPTION).write_text(json.dumps(description))


def refused(home: Path, version: str, message: str) -> None:
    before = {path: path.read_bytes() for path in (home / "model").iterdir()}
    with pytest.raises(InputError, match=message):
        apply_patch(home / version, home / "model", undo=home / "undo")
    assert {path: path.read_bytes() for path in (home / "model").iterdir()} == before
    assert not (home / "undo").exists()


@pytest.mark.parametrize("k", [-1, 0, 3, 99, True, 1.0, "1", None, [1], 10**400])
@pytest.mark.parametrize("version", ["version-1", "version-2"])
def test_experts_per_token_out_of_range(version: str, k: Any, home: Path) -> None:
    edit(home / version, experts_per_token=k)
    refused(home, version, f"{DESCRIPTION} has experts_per_token=")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"experts": 99, "experts_per_token": 99}, "has other layers or experts than the model"),
        ({"layers": [0, 5]}, "has other layers or experts than the model"),
        ({"layers": "all"}, "layers='all'"),
        ({"layers": [True]}, "layers="),
        ({"experts": 0}, "experts=0"),
        ({"model_type": 3}, "model_type=3"),
        ({"applies_to": None}, "applies_to=None"),
        ({"schema_version": True}, "schema version True"),
        ({"schema_version": 1.0}, "schema version 1.0"),
        ({"schema_version": 9}, "schema version 9"),
    ],
)
@pytest.mark.parametrize("version", ["version-1", "version-2"])
def test_other_fields(version: str, fields: dict[str, Any], message: str, home: Path) -> None:
    edit(home / version, **fields)
    refused(home, version, message)


def test_the_digest_covers_the_description(home: Path) -> None:
    path = home / "version-2" / DESCRIPTION
    description = json.loads(path.read_text())
    assert description["experts_per_token"] == 1
    for name, value in (("experts_per_token", 2), ("restores", True), ("architecture", "Other"), ("more", 1)):
        path.write_text(json.dumps({**description, name: value}))
        refused(home, "version-2", f"{DESCRIPTION} was changed after it was written")
    path.write_text(json.dumps(description))
    apply_patch(home / "version-2", home / "model")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "[" * 100_000, "{}", "\x00", "9" * 5000])
def test_text_that_is_no_description(text: str, home: Path) -> None:
    (home / "version-2" / DESCRIPTION).write_text(text)
    refused(home, "version-2", f"{DESCRIPTION} is damaged; write the patch again")


def replace_weights(patch: Path, data: bytes) -> None:
    (patch / WEIGHTS).write_bytes(data)
    description = json.loads((patch / DESCRIPTION).read_text())
    name = "digest" if description["schema_version"] == 1 else "weights"
    edit(patch, **{name: hashlib.sha256(data).hexdigest()})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("version", ["version-1", "version-2"])
def test_weights_that_are_not_finite(version: str, value: float, home: Path) -> None:
    tensors = load_file(home / version / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = value
    replace_weights(home / version, save(tensors, {"format": "pt"}))
    refused(home, version, "that are not finite numbers; train the routers again")


@pytest.mark.parametrize("version", ["version-1", "version-2"])
def test_weights_that_are_damaged(version: str, home: Path) -> None:
    data = (home / version / WEIGHTS).read_bytes()
    tensors = load(data)
    (home / version / WEIGHTS).write_bytes(data[:-1] + b"x")
    refused(home, version, f"{WEIGHTS} was changed after it was written")
    for damaged in (b"", data[:-1], (1 << 60).to_bytes(8, "little") + data[8:], data[:8] + b"x" + data[9:]):
        replace_weights(home / version, damaged)
        refused(home, version, f"{WEIGHTS} is damaged")
    whole = {name: tensor.to(torch.int64) for name, tensor in tensors.items()}
    replace_weights(home / version, save(whole, {"format": "pt"}))
    refused(home, version, "that are not finite numbers")
    first, *rest = tensors
    replace_weights(home / version, save({first: tensors[first]}, {"format": "pt"}))
    refused(home, version, "has other gates than the model")
    wider = {first: torch.zeros(2, 9), **{name: tensors[name] for name in rest}}
    replace_weights(home / version, save(wider, {"format": "pt"}))
    refused(home, version, "has other gates than the model")


def test_a_file_that_is_too_large_is_not_read(home: Path) -> None:
    """The file has holes, so it needs no space; reading it would need 4 TB of memory."""
    os.truncate(home / "version-2" / WEIGHTS, 1 << 42)
    refused(home, "version-2", f"{WEIGHTS} has {1 << 42} bytes, but the model's gates have at most")
    os.truncate(home / "version-2" / DESCRIPTION, 1 << 42)
    refused(home, "version-2", f"{DESCRIPTION} is damaged")


def test_files_that_are_missing(home: Path) -> None:
    (home / "version-2" / WEIGHTS).unlink()
    refused(home, "version-2", rf"is not a patch \(there is no {WEIGHTS}\)")
    os.mkfifo(home / "version-2" / WEIGHTS)  # reading it would never end
    refused(home, "version-2", "is not a patch")
    refused(home, "nowhere", r"is not a patch \(No such file or directory\)")


def test_values_that_the_model_cannot_store(home: Path) -> None:
    for path in (home / "model").glob("*.safetensors"):
        save_file({name: value.half() for name, value in load_file(path).items()}, path, {"format": "pt"})
    write_patch(routers_like(*torch.full((2, 2, 8), 1e6)), home / "model", home / "version-3")
    refused(home, "version-3", "that overflow in torch.float16; scale the routers")
    with pytest.raises(InputError, match=r"overflow in torch\.float16"):
        write_routers(routers_like(*torch.full((2, 2, 8), 1e6)), home / "model")


def test_routers_that_are_not_finite(home: Path) -> None:
    with pytest.raises(RouterError, match="are not finite"):
        write_patch(routers_like(*torch.full((2, 2, 8), torch.nan)), home / "model", home / "version-3")
    assert not (home / "version-3").exists()


def test_a_model_whose_gates_are_not_finite_has_no_undo(home: Path) -> None:
    for path in (home / "model").glob("*.safetensors"):
        tensors = {
            name: value * (torch.nan if ".gate." in name else 1) for name, value in load_file(path).items()
        }
        save_file(tensors, path, {"format": "pt"})
    with pytest.raises(InputError, match="that are not finite numbers; copy the model again"):
        extract_patch(home / "model", home / "undo")
    assert not (home / "undo").exists()


def test_gates_outside_the_folder_are_refused(home: Path) -> None:
    index = home / "model" / "model.safetensors.index.json"
    names = json.loads(index.read_text())
    names["weight_map"] = {name: f"../moved/{file}" for name, file in names["weight_map"].items()}
    (home / "moved").mkdir()
    for path in (home / "model").glob("*.safetensors"):
        path.rename(home / "moved" / path.name)
    index.write_text(json.dumps(names))
    refused(home, "version-2", "names '../moved/")
