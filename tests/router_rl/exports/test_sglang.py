"""The file that goes to SGLang answers in its type, and with the same fields where it is absent."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch

from router_rl.exports import export


class StandardTopKOutput(NamedTuple):
    """As in sglang/srt/layers/moe/topk.py; its layers ask the type, not the fields, what it is."""

    topk_weights: torch.Tensor
    topk_ids: torch.Tensor
    router_logits: torch.Tensor


def test_the_contract(made, exported, tmp_path: Path) -> None:
    router = made("mlp", "top2")
    export(router, tmp_path / "out", format="sglang")
    hidden = torch.randn(5, 4)
    output = exported(tmp_path / "out").load().topk_output(hidden)
    assert output._fields == StandardTopKOutput._fields
    assert (output.topk_weights.dtype, output.topk_ids.dtype) == (torch.float32, torch.int32)
    with torch.no_grad():
        expected = router(hidden)
    assert output.topk_ids.long().equal(expected.experts)
    torch.testing.assert_close(output.router_logits, expected.logits, atol=1e-4, rtol=1e-4)


def test_its_own_type_where_it_is_installed(
    made, exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(made("mlp", "top2"), tmp_path / "out", format="sglang")
    for name in ("sglang", "sglang.srt", "sglang.srt.layers", "sglang.srt.layers.moe"):
        package = ModuleType(name)
        package.__path__ = []  # type: ignore[attr-defined]
        package.__spec__ = type("Spec", (), {"name": name})()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, package)
    leaf = ModuleType("sglang.srt.layers.moe.topk")
    leaf.StandardTopKOutput = StandardTopKOutput  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, leaf.__name__, leaf)
    output = exported(tmp_path / "out").load().topk_output(torch.randn(5, 4))
    assert type(output) is StandardTopKOutput
