"""docs/serve.md runs as written, against a server of this machine."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path

import numpy as np
from fault_server import FaultServer

import train_router
from experts import DecisionLog, OutcomeTable

ROOT = Path(__file__).resolve().parents[1]


def answer(model: str, prompt: str) -> str:
    """`small` can add, `large` can multiply too."""
    first, second = map(int, re.findall(r"\d+", prompt))
    if "plus" in prompt:
        return f"It is {first + second}."
    return f"It is {first * second if model == 'large' else 0}."


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    assert {kind for kind, _ in blocks} == {"yaml", "json", "sh", "python"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("LARGE_KEY", "key-of-large")
    names: dict[str, object] = {"__name__": "serve"}
    with FaultServer(answer) as server:
        for kind, block in blocks:
            if kind == "yaml":
                assert "http://localhost:8000/v1" in block
                Path("models.yaml").write_text(block.replace("http://localhost:8000/v1", server.url))
            elif kind == "json":
                example = json.loads(block)
                rows = [
                    {"prompt": f"What is {i} {name} {j}?", "reference": str(right), "group": name}
                    for i in range(11, 19)
                    for j in (15, *range(26, 51))
                    for name, right in (("plus", i + j), ("times", i * j))
                ]
                assert example in rows
                Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            elif kind == "sh":
                for line in block.splitlines():
                    program, *arguments = shlex.split(line)
                    assert program == "train_router.py"
                    if "log.parquet" in arguments:
                        _log(names["router"])
                    assert train_router.main(arguments) == 0
            else:
                exec(compile(block, "serve.md", "exec"), names)
        _close_litellm()
        assert {body["authorization"] for body in server.requests if body["model"] == "large"} == {
            "Bearer key-of-large"
        }
    table = OutcomeTable.read(tmp_path / "table.parquet", progress=False)
    assert table.quality.mean(axis=0).tolist() == [0.5, 1.0]
    printed = capsys.readouterr().out.splitlines()
    expected = [
        "['small', 'large']",
        "Answer(expert='small', text='It is 29.')",
        "large It is 210.",
        "No drift.",
    ]
    assert [line for line in printed if line in expected] == expected


def _log(router) -> None:
    """What the router served, from the table: nothing has changed."""
    table = OutcomeTable.read("table.parquet", progress=False)
    chosen = router.route([str(prompt) for prompt in table.prompt]).experts[:, 0].numpy()
    rows = np.arange(len(table))
    DecisionLog(
        experts=table.experts,
        query_id=table.query_id,
        action=chosen,
        propensity=np.ones(len(table)),
        quality=table.quality[rows, chosen],
        cost=table.cost[rows, chosen],
    ).write(Path("log.parquet"))


def _close_litellm() -> None:
    """Close what it would keep open for the next call."""
    import litellm

    for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
        if not asyncio.iscoroutinefunction(getattr(client, "close", None)):
            client.close()
    litellm.in_memory_llm_clients_cache.flush_cache()
