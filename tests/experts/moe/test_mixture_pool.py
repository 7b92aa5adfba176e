"""An existing mixture as a pool: its layers do here what they do in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture_folders import FORMS, SIZES, write_mixture, write_texts

from experts import InputError
from experts.moe.mixture_pool import mixture_pool
from experts.moe.text_parts import TextSizes
from experts.moe.token_pool import TokenPool


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("mixture") / "texts")


def _stock(pool: TokenPool, layer: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's selection in its plainest form: scores, the best groups, the best experts, weights."""
    gates = pool.gates
    assert gates is not None
    logits = x @ gates.weights[layer].T
    score = logits.softmax(-1) if gates.score == "softmax" else logits.sigmoid()
    merit = score if gates.bias is None else score + gates.bias[layer]
    open_to = torch.ones_like(score)
    if gates.groups > 1:
        grouped = merit.unflatten(-1, (gates.groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(gates.kept, dim=-1).indices
        open_to = torch.zeros(grouped.shape[:-1]).scatter(-1, best, 1.0).unsqueeze(-1).expand_as(grouped)
        open_to = open_to.flatten(-2)
    experts = torch.where(open_to > 0, merit, -9.0).topk(gates.k, dim=-1).indices
    weights = score.gather(-1, experts)
    return experts, weights / weights.sum(-1, keepdim=True) if gates.normalised else weights


# Options of the folder by a name.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{form: (form, {}) for form in FORMS},
    "qwen3_moe, not normalised": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen2_moe, not normalised, one expert": (
        "qwen2_moe",
        {"norm_topk_prob": False, "num_experts_per_tok": 1},
    ),
    "olmoe, normalised": ("olmoe", {"norm_topk_prob": True}),
    "deepseek_v3, biases": ("deepseek_v3", {"biases": True}),
    "glm4_moe, biases": ("glm4_moe", {"biases": True}),
    "glm4_moe, biases, one expert": ("glm4_moe", {"biases": True, "num_experts_per_tok": 1}),
    "deepseek_v3, biases, not normalised": ("deepseek_v3", {"biases": True, "norm_topk_prob": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_layers_are_those_of_transformers(texts: Path, tmp_path: Path, name: str) -> None:
    form, more = CASES[name]
    folder = write_mixture(tmp_path / "model", form, **more)
    pool, names = mixture_pool(folder, texts, TextSizes(**SIZES))
    assert names == ("even", "odd")
    part = pool.parts["test"]
    rows = torch.arange(len(part))
    hidden = pool.tail(part.states(rows), lambda layer, x: _stock(pool, layer, x))
    loss = pool.tail.loss(hidden, part.targets(rows)).numpy()
    np.testing.assert_allclose(loss, part.dense_loss, atol=1e-4)
    # Other experts would give other losses: the comparison above can fail.
    hidden = pool.tail(part.states(rows), lambda layer, x: _first(pool, x))
    assert np.abs(pool.tail.loss(hidden, part.targets(rows)).numpy() - part.dense_loss).max() > 0.1
    assert part.path_loss.shape == (len(part), 0, 10)


def test_what_was_measured_is_kept(texts: Path, tmp_path: Path) -> None:
    folder = write_mixture(tmp_path / "model", "mixtral")
    first, _ = mixture_pool(folder, texts, TextSizes(**SIZES), keep=tmp_path / "keep")
    stored = tmp_path / "keep" / "test" / "dense_loss.npy"
    np.save(stored, np.load(stored) + 1)
    again, _ = mixture_pool(folder, texts, TextSizes(**SIZES), keep=tmp_path / "keep")
    np.testing.assert_array_equal(again.parts["test"].dense_loss, first.parts["test"].dense_loss + 1)
    other = write_mixture(tmp_path / "other", "mixtral", num_hidden_layers=2)
    with pytest.raises(InputError, match="other experts or texts"):
        mixture_pool(other, texts, TextSizes(**SIZES), keep=tmp_path / "keep")


@pytest.mark.parametrize(
    ("form", "more", "match"),
    [
        ("qwen3_moe", {"mlp_only_layers": [2]}, r"problem\.model.*gates in the layers \[0, 1\] of 3"),
    ],
)
def test_models_that_do_not_fit(
    texts: Path, tmp_path: Path, form: str, more: dict[str, Any], match: str
) -> None:
    folder = write_mixture(tmp_path / "model", form, **more)
    with pytest.raises(InputError, match=match):
        mixture_pool(folder, texts, TextSizes(**SIZES))


def test_a_folder_that_is_none(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"problem\.model=.*is not a folder"):
        mixture_pool(tmp_path / "none", texts, TextSizes(**SIZES))


def _first(pool: TokenPool, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    assert pool.gates is not None
    experts = torch.arange(pool.gates.k).expand(*x.shape[:-1], -1)
    return experts, torch.full(experts.shape, 1.0 / pool.gates.k)
