"""Any folder in Llama, Mistral or Qwen form becomes a trunk and a tail."""

from __future__ import annotations

import pytest
import torch

from experts import InputError
from experts.moe.frozen_base import load_base, load_tokenizer

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


def test_weights_in_pickles_are_not_read(dense, tmp_path):
    model = dense(tmp_path / "model", "llama")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds no model that can be read .*safetensors") as caught:
        load_base(tmp_path / "model", depth=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [lambda folder: load_base(folder, depth=2), load_tokenizer])
def test_a_name_is_not_looked_up_on_a_server(load, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "experts.moe.frozen_base.transformers_library", lambda: pytest.fail("asked transformers")
    )
    with pytest.raises(InputError, match="base='organisation/model': is not a folder"):
        load("organisation/model")


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "llama", "vocab_size": "x"}', "{}"])
def test_a_damaged_configuration_is_one_line(dense, tmp_path, content):
    dense(tmp_path / "model", "llama")
    (tmp_path / "model" / "config.json").write_text(content)
    for load in (lambda folder: load_base(folder, depth=2), load_tokenizer):
        with pytest.raises(InputError, match="holds no model that can be read") as caught:
            load(tmp_path / "model")
        assert "\n" not in str(caught.value)
