"""The parts of the GPU benchmark that need no GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from router_rl.bench.gates.shapes import SHAPES
from router_rl.routing.kernels import GateRule, naive

FOLDER = Path(__file__).resolve().parents[4] / "benchmarks"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(FOLDER))  # it imports the files beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


gpu = _load("gpu")


def test_without_a_gpu_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main(out=tmp_path / "gpu")
    assert "No GPU here, so nothing was measured" in capsys.readouterr().out
    assert not (tmp_path / "gpu").exists()


def test_byte_floors_by_hand() -> None:
    """Of an H100 at 3.35 TB/s, in microseconds."""
    shapes = {
        "deepseek": SHAPES["DeepSeek-V3"],
        "mixtral": SHAPES["Mixtral-8x7B"],
        "target": gpu.TARGET_SHAPE,
    }
    floors = {
        (name, rows): 1e6 * gpu.floor_seconds(shape, rows, 3.35e12)
        for name, shape in shapes.items()
        for rows in (1, 16_384)
    }
    assert floors["target", 1] == pytest.approx(0.16, abs=0.01)
    assert floors["target", 16_384] == pytest.approx(20.8, abs=0.2)
    assert floors["deepseek", 1] == pytest.approx(1.1, abs=0.05)
    assert floors["deepseek", 16_384] == pytest.approx(71.8, abs=0.4)
    assert floors["mixtral", 1] == pytest.approx(0.02, abs=0.005)
    assert floors["mixtral", 16_384] == pytest.approx(40.2, abs=0.3)


def test_bandwidth() -> None:
    properties = SimpleNamespace(name="a card", memory_clock_rate=2_619_000, memory_bus_width=5120)
    assert gpu.bandwidth_of(properties) == pytest.approx(3.35e12, rel=0.01)
    assert gpu.bandwidth_of(SimpleNamespace(name="NVIDIA H100 80GB HBM3")) == 3.35e12
    assert gpu.bandwidth_of(SimpleNamespace(name="another")) is None


def test_the_tables_and_the_figure() -> None:
    cells = [
        {
            "gate": gpu.TARGET_SHAPE.name,
            "rows": rows,
            "floor_us": floor,
            "quartiles_us": {gpu.OURS: [low, low + 1, low + 2], "transformers, eager": [50.0, 60.0, 70.0]},
        }
        for rows, floor, low in ((1, 0.16, 2.0), (64, 0.2, 3.5), (16_384, 20.8, 24.0))
    ]
    found = {
        "card": "a card",
        "compute_capability": "9.0",
        "torch": "2",
        "cuda": "12",
        "repeats": 9,
        "cells": cells,
    }
    text = gpu.markdown(found)
    assert "| µs at up to 64 rows | ≤ 4 | 4.5 | not met |" in text
    assert "| over the byte floor at 16,384 rows | ≤ 1.3 | 1.20 | met |" in text
    assert "4.5 (3.5 to 5.5)" in text
    drawn = ElementTree.fromstring(gpu.drawing(found))
    lines = [path for path in drawn.iter("{http://www.w3.org/2000/svg}path") if len(path)]
    assert [path[0].text for path in lines] == [gpu.OURS, "transformers, eager", "byte floor"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_its_rival_selects_as_the_reference_does() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for rule, experts, corrected in ((GateRule(k=2), 8, False), (SHAPES["DeepSeek-V3"].rule, 64, True)):
        logits = torch.randn(9, experts)
        correction = torch.rand(experts) if corrected else None
        expected = naive.select(logits, correction, None, rule)
        there = None if correction is None else correction.to(device)
        found = _load("gpu_select").select(logits.to(device), there, rule)
        weights, chosen, fallback = (value.cpu() for value in found)
        assert chosen.long().equal(expected.experts)
        torch.testing.assert_close(weights.double(), expected.weights, atol=2e-6, rtol=2e-6)
        assert not fallback.any()
