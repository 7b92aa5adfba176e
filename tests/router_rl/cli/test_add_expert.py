"""`add-expert`, as a person at a terminal meets it: ask, add, route; a bad or expensive expert; errors."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from experts import OutcomeTable
from router_rl.routing import load_router
from train_router import main

ROWS = 600


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OutcomeTable]:
    """Return a folder with `old.parquet` and finished runs, and the table of four experts.

    Experts a, b and c are weak in the group `hard`, where the fourth one is good; it is bad elsewhere.
    """
    rng = np.random.default_rng(0)
    hard = np.arange(ROWS) % 3 == 0
    difficulty = rng.normal(size=ROWS)[:, None]
    skill = np.where(hard[:, None], [-1.0, -0.8, -0.6, 1.2], [1.0, 0.5, 0.8, -1.0])
    table = OutcomeTable(
        experts=("a", "b", "c", "new"),
        query_id=np.array([f"q{i}" for i in range(ROWS)], dtype=object),
        prompt=np.array([f"prompt {i}" for i in range(ROWS)], dtype=object),
        features=np.stack([hard, rng.normal(size=ROWS)], axis=1),
        group=np.where(hard, "hard", "easy"),
        quality=(difficulty + 0.5 * rng.normal(size=(ROWS, 4)) < skill).astype(float),
        cost=np.tile([1.0, 2.0, 3.0, 2.5], (ROWS, 1)),
        cost_unit="usd",
        split=np.array(["train", "train", "train", "validation", "test"])[np.arange(ROWS) % 5],
    )
    folder = tmp_path_factory.mktemp("world")
    without(table).write(folder / "old.parquet")
    for method in ("group_label", "ridge"):
        words = ["--table", str(folder / "old.parquet"), "--method", method, "--out", str(folder / method)]
        assert main(["train", *words, "--track", "none"]) == 0
    return folder, table


def without(table: OutcomeTable) -> OutcomeTable:
    part = table.quality[:, :3], table.cost[:, :3]
    return replace(table, experts=table.experts[:3], quality=part[0], cost=part[1])


def answers(path: Path, table: OutcomeTable, rows: np.ndarray, **changes: np.ndarray) -> str:
    columns = {"quality": table.quality[rows, 3], "cost": table.cost[rows, 3], **changes}
    named = {f"{name}/new": values for name, values in columns.items()}
    pq.write_table(pa.table({"query_id": table.query_id[rows].tolist(), **named}), path)
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("method", ["group_label", "ridge"])
def test_ask_add_and_route(
    world: tuple[Path, OutcomeTable], method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = world
    words = ["add-expert", str(folder / method), "--table", str(folder / "old.parquet")]
    asked = said(capsys, *words, "--suggest", "40", "--out", str(tmp_path / "ask.jsonl"))
    assert asked["suggested"] == 40
    lines = [json.loads(line) for line in (tmp_path / "ask.jsonl").read_text().splitlines()]
    rows = np.array([int(line["query_id"][1:]) for line in lines])
    assert [line["prompt"] for line in lines] == [f"prompt {row}" for row in rows]
    assert not (table.split[rows] == "test").any()

    probes = answers(tmp_path / "probes.parquet", table, rows)
    out = tmp_path / "run"
    added = said(capsys, *words, "--probes", probes, "--out", str(out))
    assert (added["expert"], added["probes"], added["method"]) == ("new", 40, method)
    assert added["gain"]["utility"]["ci95"][0] > 0.0
    assert added["advice"].startswith("Use the new router")
    # All outcomes are known here: the estimate holds, and the group `hard` goes to the new expert.
    test = table.part("test")
    router = load_router(out / "router")
    assert router.experts == ("a", "b", "c", "new")
    hard = torch.tensor(test.group == "hard")
    state = torch.stack([~hard, hard], dim=1).float() if method == "group_label" else None
    routing = router(torch.tensor(test.features), state)
    assert (routing.experts[hard, 0] == 3).all()
    assert not (routing.experts[~hard, 0] == 3).any()
    before = load_router(folder / method / "router")(torch.tensor(test.features), state).experts[:, 0]
    index = np.arange(len(test))
    utility = test.quality - 0.1 * test.cost / 3.0
    true = utility[index, routing.experts[:, 0]] - utility[index, before]
    low, high = added["gain"]["utility"]["ci95"]
    assert low < true.mean() < high
    assert added["gain"]["share"] == pytest.approx(float(hard.float().mean()))
    # A mask without the new expert leaves the old experts.
    mask = torch.tensor([True, True, True, False])
    assert not (router(torch.tensor(test.features), state, mask).experts == 3).any()
    words = ["--table", str(out / "table.parquet"), "--out", str(tmp_path / "router")]
    assert said(capsys, "export", str(out), *words)["passed"]
    kept = load_router(tmp_path / "router")(torch.tensor(test.features), state)
    assert torch.equal(kept.experts, routing.experts)
    extended = OutcomeTable.read(out / "table.parquet", progress=False)
    np.testing.assert_array_equal(extended.quality[rows, 3], table.quality[rows, 3])
    assert any("measured on 40 queries and estimated on 560" in note for note in extended.notes)


def test_a_bad_expert_gets_nothing(
    world: tuple[Path, OutcomeTable], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = world
    probes = answers(tmp_path / "p.parquet", table, np.arange(30), quality=np.zeros(30))
    words = ["add-expert", str(folder / "group_label"), "--table", str(folder / "old.parquet")]
    assert main([*words, "--probes", probes, "--out", str(tmp_path / "run")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Keep the old router: the new expert would get no queries." in shown
    assert "share 0.0% of the test queries" in shown
    assert "US$" in shown


def test_a_dollar_keeps_its_price_if_the_new_expert_is_the_most_expensive(
    world: tuple[Path, OutcomeTable], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = world
    probes = answers(tmp_path / "p.parquet", table, np.arange(60), cost=np.full(60, 30.0))
    words = ["add-expert", str(folder / "group_label"), "--table", str(folder / "old.parquet")]
    added = said(capsys, *words, "--probes", probes, "--out", str(tmp_path / "run"))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    before = json.loads((folder / "group_label" / "run.json").read_text())
    assert facts["compute_unit"] == pytest.approx(30.0)
    weights = facts["objective"]["compute_weight"], before["objective"]["compute_weight"]
    assert weights[0] == pytest.approx(10.0 * weights[1])
    assert added["gain"]["share"] == 0.0
    assert facts["test"]["utility"] == pytest.approx(before["test"]["utility"], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "run"], "probes.*no answers of the new expert.*--probes or --suggest"),
        (["--suggest", "5", "--out", "."], "out.*is a folder.*JSON Lines"),
        (["--suggest", "0", "--out", "ask.jsonl"], "suggest"),
        (["--probes", "missing.parquet", "--out", "run"], "missing.parquet"),
    ],
)
def test_errors_change_nothing(
    world: tuple[Path, OutcomeTable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    folder, _ = world
    monkeypatch.chdir(tmp_path)
    run = ["add-expert", str(folder / "ridge"), "--table", str(folder / "old.parquet")]
    assert main([*run, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert not list(tmp_path.iterdir())


def test_a_run_without_its_router_is_refused_before_the_fit(
    world: tuple[Path, OutcomeTable], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = world
    shutil.copytree(folder / "ridge", tmp_path / "ridge")
    shutil.rmtree(tmp_path / "ridge" / "router")
    probes = answers(tmp_path / "p.parquet", table, np.arange(30))
    words = ["--table", str(folder / "old.parquet"), "--probes", probes, "--out", str(tmp_path / "run")]
    assert main(["add-expert", str(tmp_path / "ridge"), *words]) == 2
    assert "not a router" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_table_of_other_experts(
    world: tuple[Path, OutcomeTable], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = world
    table.write(tmp_path / "four.parquet")
    run = ["add-expert", str(folder / "ridge"), "--table", str(tmp_path / "four.parquet")]
    assert main([*run, "--suggest", "5", "--out", str(tmp_path / "ask.jsonl")]) == 2
    assert "has other experts than the run, which has a, b, c" in capsys.readouterr().err
