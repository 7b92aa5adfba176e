"""LoRA adapters as donors: merged here as PEFT merges them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experts import InputError
from experts.moe import assemble
from experts.moe.donors import open_base, open_donor

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

FFN = ["gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def adapter(dense: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Return a function that writes an adapter of `base` with PEFT, and returns PEFT's merged model."""
    import peft
    import transformers

    dense(tmp_path / "base")

    def make(name: str, targets: list[str] = FFN, **fields: Any) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        config = peft.LoraConfig(
            **{"r": 4, "lora_alpha": 6, "target_modules": targets, "init_lora_weights": False, **fields}
        )
        torch.manual_seed(sum(map(ord, name)))
        adapted = peft.get_peft_model(model, config)
        adapted.save_pretrained(tmp_path / name)
        return adapted.merge_and_unload()

    return make


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"down_proj": 20, "layers.1.mlp.up_proj": 3}, "rank_pattern": {"gate_proj": 2}},
    ],
)
def test_a_merged_tensor_is_pefts(
    adapter: Callable[..., Any], tmp_path: Path, fields: dict[str, Any]
) -> None:
    merged = adapter("code", **fields).state_dict()
    base = open_base(tmp_path / "base")
    donor = open_donor(base, tmp_path / "code")
    for name in base.weights.shapes:
        torch.testing.assert_close(donor.tensor(name), merged[name], atol=1e-6, rtol=1e-5)
        assert (name in donor.weights) == (".mlp." in name)
    changed = "model.layers.0.mlp.up_proj.weight"
    assert not torch.allclose(donor.tensor(changed), base.tensor(changed), atol=1e-3)


def test_a_mixture_of_adapters_is_that_of_the_merged_models(
    adapter: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("code", "german"):
        adapter(name).save_pretrained(tmp_path / "merged" / name)
    adapters = [tmp_path / name for name in ("code", "german")]
    merged = [tmp_path / "merged" / name for name in ("code", "german")]
    assemble(tmp_path / "base", adapters, tmp_path / "one", progress=False)
    assemble(tmp_path / "base", merged, tmp_path / "two", progress=False)
    files = sorted((tmp_path / "two").glob("*.safetensors"))
    assert len(files) > 2
    for path in files:
        ours, theirs = load_file(tmp_path / "one" / path.name), load_file(path)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-5)


def test_adapted_attention_is_told_by_its_distance(adapter: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("code", "german"):
        adapter(name, [*FFN, "q_proj"] if name == "code" else FFN)
    made = assemble(
        tmp_path / "base", [tmp_path / "code", tmp_path / "german"], tmp_path / "out", progress=False
    )
    assert made.trunk_distance["code"] > 0.01
    assert made.trunk_distance["german"] == 0.0


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"use_dora": True}, "use_dora True; merging it is not supported"),
        ({"bias": "all"}, "bias 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"lora_alpha": "much"}, "is not an adapter's configuration"),
    ],
)
def test_other_adapters_are_refused(
    adapter: Callable[..., Any], tmp_path: Path, fields: dict[str, Any], match: str
) -> None:
    adapter("code")
    path = tmp_path / "code" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(InputError, match=match):
        open_donor(open_base(tmp_path / "base"), tmp_path / "code")


def test_damaged_adapters_are_refused(adapter: Callable[..., Any], tmp_path: Path) -> None:
    adapter("code")
    base = open_base(tmp_path / "base")
    path = tmp_path / "code" / "adapter_model.safetensors"
    state = load_file(path)
    first = next(name for name in state if "lora_A" in name)

    def refused(changed: dict[str, torch.Tensor], match: str) -> None:
        save_file({name: tensor.clone() for name, tensor in changed.items()}, path)
        with pytest.raises(InputError, match=match):
            open_donor(base, tmp_path / "code")

    refused({name: tensor for name, tensor in state.items() if name != first}, "whole pairs of LoRA factors")
    refused({**state, first: state[first][:, 1:].contiguous()}, "which the base has as")
    refused({**state, first: torch.full_like(state[first], torch.nan)}, "finite LoRA factors")
    refused({**state, "base_model.model.lm_head.lora_embedding_A": state[first]}, "none of a linear layer")
    path.write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        open_donor(base, tmp_path / "code")
