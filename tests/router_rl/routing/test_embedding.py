"""Sentence embeddings from a model's folder and from an ONNX file agree with what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.problems.prompt_features import FeatureConfig
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import RouterError, TextFeatures, load
from router_rl.routing.embedding import Embedding

WORDS = ["[PAD]", "[UNK]", "haus", "prime", "root", "satz"]
WIDTH = 4


def _tokenizer() -> Any:
    tokenizer: Any = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny transformers model with its tokenizer."""
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(path)
    fast = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ONNX model that looks token vectors up, with its tokenizer."""
    path = tmp_path_factory.mktemp("onnx")
    vectors = np.arange(len(WORDS) * WIDTH, dtype=np.float32).reshape(-1, WIDTH)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["vectors", "input_ids"], ["states"])],
        "lookup",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["T", "L"])],
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["T", "L", WIDTH])],
        [numpy_helper.from_array(vectors, "vectors")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        path / "model.onnx",
    )
    _tokenizer().save(str(path / "tokenizer.json"))
    return path / "model.onnx"


def test_a_folder_by_hand(folder: Path) -> None:
    found = Embedding(path=folder, size=WIDTH)(["prime root", "haus"], None)
    model = BertModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        long = model(torch.tensor([[3, 4]])).last_hidden_state.mean(dim=1)
        short = model(torch.tensor([[2]])).last_hidden_state.mean(dim=1)  # padding changes nothing
    expected = torch.nn.functional.normalize(torch.cat([long, short]), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_an_onnx_file_by_hand(onnx_file: Path) -> None:
    found = Embedding(path=onnx_file, size=WIDTH, max_tokens=2)(["prime root haus", "satz"], None)
    expected = torch.tensor([[14.0, 15.0, 16.0, 17.0], [20.0, 21.0, 22.0, 23.0]])
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1))
    assert Embedding(path=onnx_file, size=WIDTH)([], None).shape == (0, WIDTH)


@pytest.mark.parametrize("kind", ["folder", "onnx_file"])
def test_an_export_carries_its_model(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: Path = request.getfixturevalue(kind)
    prompts = np.array([f"{WORDS[2 + i % 4]} {WORDS[2 + (i // 4) % 4]}" for i in range(40)], dtype=object)
    _, unique = np.unique(prompts, return_index=True)
    prompts = prompts[unique]
    right = np.array([prompt.startswith(("haus", "satz")) for prompt in prompts], dtype=float)
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=prompts,
        features=None,
        quality=np.stack([right, 1 - right], axis=1),
        cost=np.ones((len(prompts), 2)),
        split=np.array(["train", "train", "validation", "test"])[np.arange(len(prompts)) % 4],
        prompt=prompts,
    )
    config = FeatureConfig(text="none", length=False, embedding=model)
    router = fit("ridge", RoutingProblem(table, Objective(compute_weight=0.0), features=config))
    export(router, tmp_path / "router", rows=table)
    again = load(tmp_path / "router")
    export(again, tmp_path / "again")
    (tmp_path / "router").rename(tmp_path / "elsewhere")
    for place in ("elsewhere", "again"):
        loaded = load(tmp_path / place)
        asked = ["haus satz", "root root"]
        torch.testing.assert_close(
            loaded.route(asked).logits, router.route(asked).logits, atol=1e-4, rtol=1e-4
        )


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"lacks config.json"):
        Embedding(path=tmp_path, size=1)(["x"], None)
    with pytest.raises(RouterError, match=r"model.onnx is missing"):
        TextFeatures([Embedding(path=tmp_path / "model.onnx", size=1)])(["x"])
