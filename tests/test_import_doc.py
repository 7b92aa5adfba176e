"""docs/import.md runs as written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import train_router
from experts import DecisionLog, OutcomeTable, read_prices

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "import.md").read_text(encoding="utf-8")
MODELS = ("gpt-4o", "llama-3-8b", "my-server", "mixtral", "gpt-3.5-turbo")


def test_its_prices_and_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (table,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    commands = [
        line for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()
    ]
    Path("prices.yaml").write_text(table)
    assert read_prices("prices.yaml", MODELS, "2023-05-01").prices["gpt-3.5-turbo"].input == 2
    tokens = ",".join(f"tokens_in/{name},tokens_out/{name}" for name in MODELS)
    rows = [f"p{i},{i % 2},1,0,1,{i % 3 / 2},{','.join(['100'] * 10)}\n" for i in range(10)]
    Path("results.csv").write_text(f"prompt,{','.join(MODELS)},{tokens}\n" + "".join(rows))
    _spend_logs(Path("spend_logs.jsonl"))
    before = Path("results.csv").read_bytes()
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "train_router.py"
        assert train_router.main(words) == 0
    assert Path("results.csv").read_bytes() == before
    assert len(DecisionLog.read("log.parquet")) == 100
    assert "  my-server: {input: null, output: null}" in Path("prices.yaml").read_text()
    cost = OutcomeTable.read("mine.parquet").cost[0].tolist()
    assert cost == pytest.approx([1.25e-3, 4e-5, 2e-4, 1.2e-4, 3.5e-4])


def _spend_logs(path: Path) -> None:
    """A hundred requests to two models, as LiteLLM wrote one of each."""
    fixture = Path(__file__).parent / "fixtures" / "litellm" / "spend_logs.jsonl"
    rows = [json.loads(line) for line in fixture.read_text().splitlines()][1:3]
    times = [f"2026-08-22T10:{number // 60:02}:{number % 60:02}Z" for number in range(100)]
    written = [{**rows[number % 2], "startTime": time} for number, time in enumerate(times)]
    path.write_text("".join(json.dumps(row) + "\n" for row in written))


def test_its_flat_price_table_is_one(tmp_path: Path) -> None:
    (flat,) = re.findall(r"`(\{gpt-4o.*?\})` is a price table", TEXT)
    (tmp_path / "p.yaml").write_text(flat)
    assert read_prices(tmp_path / "p.yaml", ["gpt-4o", "llama-3-8b"]).prices["llama-3-8b"].output == 0.2
