"""Any folder in Llama, Mistral or Qwen form becomes a trunk and a tail."""

from __future__ import annotations

import pytest
import torch

from experts import InputError
from experts.moe.frozen_base import load_base

TOKENS = torch.arange(18).reshape(2, 9) % 64


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_trunk_and_tail_are_the_model(dense, tmp_path, kind):
    model = dense(tmp_path / "model", kind)
    base = load_base(tmp_path / "model", depth=2)
    assert base.below == 1
    tail = base.tail({"one": base.dense(), "two": base.dense()})
    walk = tail.along(base.trunk(TOKENS), 0)
    ours = torch.nn.functional.linear(tail.norm(walk), tail.head)
    torch.testing.assert_close(ours, model(input_ids=TOKENS).logits, atol=1e-5, rtol=1e-4)
    assert all(not parameter.requires_grad for parameter in base.model.parameters())


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(InputError, match="give a folder with"):
        load_base(tmp_path, depth=2)


def test_what_a_gguf_file_needs_is_told(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr(
        "experts.moe.frozen_base.find_spec", lambda name: None if name == "accelerate" else name
    )
    with pytest.raises(InputError, match="pip install accelerate"):
        load_base(tmp_path, depth=2)
