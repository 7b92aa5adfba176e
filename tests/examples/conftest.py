"""A router of prompts and two models on a server of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from fault_server import FaultServer

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.problems.routing.problem import RoutingProblem

SUMS = [f"What is {i} plus {j}?" for i in range(2, 10) for j in range(2, 7)]
WORDS = [f"Translate haus {a} and baum {b}" for a in "abcdefgh" for b in "vwxyz"]


@pytest.fixture(scope="session")
def router_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a router that sends sums to `small` and words to `large`."""
    prompts = np.array([text for pair in zip(SUMS, WORDS, strict=True) for text in pair], dtype=object)
    right = np.array([[1.0, 0.0], [0.0, 1.0]] * len(SUMS))
    table = OutcomeTable(
        experts=("small", "large"),
        query_id=np.array([f"q{i}" for i in range(len(prompts))], dtype=object),
        features=None,
        quality=right,
        cost=np.ones_like(right),
        split=np.resize(["train"] * 6 + ["validation"] * 2 + ["test"] * 2, len(prompts)),
        prompt=prompts,
    )
    folder = tmp_path_factory.mktemp("served") / "router"
    export(fit("ridge", RoutingProblem(table, Objective(compute_weight=0.0)), seed=0), folder, rows=table)
    return folder


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(lambda model, prompt: f"{model} says {len(prompt)}") as running:
        yield running


@pytest.fixture
def models(server: FaultServer, tmp_path: Path) -> Path:
    """Write the list of the two models on the server."""
    path = tmp_path / "models.yaml"
    listed = [
        {"name": name, "model": f"openai/{name}", "api_base": server.url, "timeout": 20}
        for name in ("small", "large")
    ]
    path.write_text(yaml.safe_dump({"models": listed}))
    return path
