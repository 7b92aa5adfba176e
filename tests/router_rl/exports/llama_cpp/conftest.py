"""Mixtures of experts with random weights in GGUF files, in the forms that llama.cpp's architectures have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from gguf_mixtures import BLOCKS, EXPERTS, HIDDEN, write_mixture

from router_rl.exports.llama_cpp.llama_runtime import is_installed
from router_rl.routing import LinearScorer, Router, Selection


@pytest.fixture
def llama_cpp() -> None:
    """Skip where llama.cpp is not installed."""
    if not is_installed():
        pytest.skip("llama.cpp is not installed")


@pytest.fixture(scope="session")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that finds the mixture of an architecture, written once a session."""
    folder = tmp_path_factory.mktemp("gguf")

    def find(architecture: str, kind: str = "F32") -> Path:
        path = folder / f"{architecture}-{kind}.gguf"
        if not path.exists():
            write_mixture(path, architecture, gguf.GGMLQuantizationType[kind])
        return path

    return find


@pytest.fixture(scope="session")
def routers() -> Callable[..., list[Router]]:
    """Return a function that makes one router for each of an architecture's blocks."""

    def make(architecture: str, rule: Selection, *, bias: bool = False, experts: int = 0) -> list[Router]:
        count = experts or EXPERTS[architecture]
        made: list[Router] = []
        for seed in BLOCKS[architecture]:
            scorer = LinearScorer(HIDDEN, count)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                scorer.weight.copy_(torch.randn(count, HIDDEN, generator=generator))
                if bias:
                    scorer.bias.copy_(torch.randn(count, generator=generator))
            made.append(Router(scorer, rule, [f"e{n}" for n in range(count)]).eval())
        return made

    return make
