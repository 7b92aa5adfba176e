from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experts import InputError
from experts.moe.model_files import Checkpoint, CheckpointWriter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = CheckpointWriter(tmp_path, 2)
    writer.write({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(1)})
    writer.write({"c": torch.ones(4, dtype=torch.bfloat16)})
    writer.finish()
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    found = Checkpoint("base", folder)
    assert found.shapes == {"a": (2, 3), "b": (1,), "c": (4,)}
    assert found.tensor("a").equal(torch.arange(6.0).reshape(2, 3))
    assert found.tensor("c").dtype == torch.bfloat16
    assert "b" in found
    assert "d" not in found
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 36}
    assert index["weight_map"]["c"] == "model-00002-of-00002.safetensors"


def test_folders_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"experts=.*is not a folder"):
        Checkpoint("experts", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        Checkpoint("base", tmp_path / "empty")
    damaged = folder / "model-00002-of-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors cannot be read"):
        Checkpoint("base", folder)
    damaged.unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors is missing"):
        Checkpoint("base", folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be used: weight_map is missing; copy it again"):
        Checkpoint("base", folder)


@pytest.mark.parametrize(
    ("weight_map", "problem"),
    [
        ([], r"weight_map is \[\], not an object"),
        ({"a": 1}, r"weight_map\.a is 1, not a text"),
        ({"a": "../other.safetensors"}, r"names '\.\./other\.safetensors'"),
        ({"a": "/etc/passwd"}, "names '/etc/passwd'"),
    ],
)
def test_an_edited_index_is_refused(folder: Path, weight_map: object, problem: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=problem):
        Checkpoint("base", folder)
