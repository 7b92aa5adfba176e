"""Every code block of docs/tune.md runs, with few trials."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from code_blocks import Reader, blocks_of
from tracking_stores import READERS

from experts import OutcomeTable
from router_rl import RoutingProblem

PAGE = "docs/tune.md"
BUDGETS = {
    "tune": "--n-trials 2",
    "tune --table mine.parquet --method softmax_gate": "--pruner NopPruner",
    "compare": "--tune-budget 2 --seeds 1 --compute-weights 0.1",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*noload.*", "ignore::ResourceWarning")  # of MLflow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RoutingProblem, "always", ("oracle", "best_single"))
    word = np.arange(60) % 2
    OutcomeTable(
        experts=("small", "large"),
        query_id=range(60),
        features=np.stack([word, 1 - word], axis=1),
        quality=np.stack([word, np.ones(60)], axis=1),
        cost=np.tile([0.001, 0.01], (60, 1)),
        split=np.repeat(["train", "validation", "test"], 20),
        cost_unit="usd",
    ).write("mine.parquet")
    reader = Reader(BUDGETS, {})
    for block in blocks_of(PAGE):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        else:
            reader.run(block)
    assert reader.used == set(BUDGETS)
    tuned = json.loads(Path("runs/tune/tuning.json").read_text())
    run = json.loads(Path("runs/tuned/run.json").read_text())
    assert run["validation"]["utility"] == tuned["best"]["validation_utility"]
    wide = json.loads(Path("runs/wide/tuning.json").read_text())
    assert wide["space"]["batch"] == yaml.safe_load(Path("space.yaml").read_text())["batch"]
    assert json.loads(Path("runs/worker-2/tuning.json").read_text())["counts"]["reused"] == 2
    assert READERS["mlflow"](Path("runs/tracked"))
