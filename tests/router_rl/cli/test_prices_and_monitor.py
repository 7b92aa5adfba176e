"""`evaluate --prices` and `monitor`, as a person at a terminal meets them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experts import DecisionLog, OutcomeTable
from train_router import main

FEW = ["--method.steps", "50", "--method.batch", "128"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table where the dear expert is right when x > 0 and the cheap one elsewhere."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    quality = np.stack([x[:, 0] <= 0, x[:, 0] > 0], axis=1) ^ (rng.random((400, 2)) < 0.05)
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    OutcomeTable(
        experts=("cheap", "dear"),
        query_id=np.array([f"q{i}" for i in range(400)], dtype=object),
        features=x,
        quality=quality,
        cost=np.tile([1.0, 3.0], (400, 1)) * rng.uniform(0.9, 1.1, (400, 2)),
        split=np.array(["train", "train", "validation", "test"])[np.arange(400) % 4],
        tokens_in=np.full((400, 2), 1e6),
        tokens_out=np.full((400, 2), 1e6),
    ).write(path)
    return path


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a finished run of priced_pg."""
    folder = str(tmp_path_factory.mktemp("runs") / "priced")
    assert main(["train", "--table", str(table), "--method", "priced_pg", "--out", folder, *FEW]) == 0
    return folder


def _said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_run_at_other_prices(
    run: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "new.yaml"
    prices.write_text("date: 2025-01-01\nprices: {cheap: {input: 1}, dear: {input: 100, output: 200}}")
    words = ["evaluate", run, "--table", str(table)]
    before = _said(capsys, *words)
    after = _said(capsys, *words, "--prices", str(prices))
    assert before["test"]["shares"][1] > 0.3  # type: ignore[index]
    assert after["test"]["shares"][1] == 0.0  # type: ignore[index]
    assert "prices: new.yaml of 2025-01-01" in after["notes"]  # type: ignore[operator]
    assert any("uses the new prices" in note for note in after["notes"])  # type: ignore[attr-defined]
    assert main(["evaluate", run, "--prices", str(prices), "--log", "x"]) == 2
    assert "give --table" in capsys.readouterr().err


def test_a_router_that_knows_no_prices_pays_them(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(tmp_path / "ridge")
    assert main(["train", "--table", str(table), "--method", "ridge", "--out", other]) == 0
    prices = tmp_path / "new.yaml"
    prices.write_text("prices: {cheap: {input: 1}, dear: {input: 100}}")
    found = _said(capsys, "evaluate", other, "--table", str(table), "--prices", str(prices))
    assert found["test"]["shares"][1] > 0.3  # type: ignore[index]
    assert any("does not use prices" in note for note in found["notes"])  # type: ignore[attr-defined]


def test_dollars_do_not_mix_with_flops(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, prices = tmp_path / "flops.parquet", tmp_path / "new.yaml"
    replace(OutcomeTable.read(table), cost_unit="flops").write(other)
    prices.write_text("prices: {cheap: {call: 1}, dear: {call: 2}}")
    run = str(tmp_path / "ridge")
    assert main(["train", "--table", str(other), "--method", "ridge", "--out", run]) == 0
    assert main(["evaluate", run, "--table", str(other), "--prices", str(prices)]) == 2
    assert "prices='new.yaml': are US dollars" in capsys.readouterr().err


def _log(path: Path, table: Path, changed: bool) -> Path:
    whole = OutcomeTable.read(table)
    rows = np.random.default_rng(1).permutation(400)
    assert whole.features is not None
    action = (whole.features[rows, 0] > 0).astype(np.int64)
    quality = whole.quality[rows, action].copy()
    if changed:  # from decision 200 on the dear expert is right half of the time
        late = (np.arange(400) >= 200) & (action == 1)
        quality[late] = np.random.default_rng(2).random(late.sum()) < 0.5
    DecisionLog(
        experts=whole.experts,
        query_id=whole.query_id[rows],
        action=action,
        propensity=np.ones(400),
        quality=quality,
        cost=whole.cost[rows, action],
    ).write(path)
    return path


def test_monitor_flags_what_changed_and_nothing_else(
    run: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["monitor", run, "--table", str(table), "--log"]
    calm = _said(capsys, *words, str(_log(tmp_path / "calm.parquet", table, False)))
    assert calm["drift"] == []
    path = str(_log(tmp_path / "changed.parquet", table, True))
    (alarm,) = _said(capsys, *words, path)["drift"]  # type: ignore[misc]
    assert (alarm["expert"], alarm["kind"]) == ("dear", "quality")
    assert 200 < alarm["decision"] < 320
    assert alarm["seen"] < 0.7 < alarm["expected"]
    assert main([*words, path]) == 0
    shown = capsys.readouterr().out
    assert "Drift:" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith(("run ", "curves ")))
