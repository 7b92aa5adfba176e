"""A real process of LiteLLM's proxy with the plug-in, as docs/deploy.md has it.

The proxy's requirements exclude those of this project (another major version of rich), so that it needs an
environment of its own: ROUTER_RL_LITELLM_PROXY is the Python of one, from which both can be imported.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from code_blocks import blocks_of
from fault_server import FaultServer

import train_router
from experts import DecisionLog
from router_rl.serving.log_store import LogStore

ROOT = Path(__file__).resolve().parents[3]
PYTHON = os.environ.get("ROUTER_RL_LITELLM_PROXY")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="the proxy of LiteLLM is not installed")
PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"


@pytest.mark.timeout(900)  # half a minute of an idle core
def test_the_proxy_of_the_page(router: Path, models: Path, backend: FaultServer, tmp_path: Path) -> None:
    blocks = {block.title: block.text for block in blocks_of("docs/deploy.md") if block.title}
    config = yaml.safe_load(blocks["config.yaml"])
    for deployment in config["model_list"]:
        deployment["litellm_params"]["api_base"] = backend.url
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "custom_router.py").write_text(blocks["custom_router.py"])
    (tmp_path / "router").symlink_to(router)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "from litellm.proxy.proxy_cli import run_server; run_server()"
    process = subprocess.Popen(
        [str(PYTHON), "-c", script, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": "sk-1"},
        stdout=sys.stderr,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-1", timeout=30, max_retries=0)
        decisions: dict[str, str] = {}
        for number in range(30):
            prompt = f"What is {number} {'plus' if number % 2 else 'times'} 4?"
            message: Any = [{"role": "user", "content": prompt}]
            got = client.chat.completions.with_raw_response.create(model="auto", messages=message)
            text = got.parse().choices[0].message.content
            decisions[got.headers["x-router-rl-decision"]] = text.split()[0]  # the model names itself
        stream = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": TIMES}], stream=True
        )
        assert "answers in some words" in "".join(
            chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices
        )
        with httpx.Client(base_url=url, timeout=30) as http:
            assert http.post("/v1/outcomes", json={}).status_code == 401
            http.headers["authorization"] = "Bearer sk-1"
            assert http.post("/v1/outcomes", json={"decision": "none", "score": 1}).status_code == 404
            assert http.post("/v1/outcomes", json={"decision": "none", "score": 2}).status_code == 400
            for decision, model in decisions.items():
                outcome = {"decision": decision, "score": float(model == "small")}
                assert http.post("/v1/outcomes", json=outcome).status_code == 200
        backend.down = {"small"}
        answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": PLUS}])
        assert answer.choices[0].message.content == "large answers in some words"
        client.close()
        store = LogStore(f"sqlite:///{tmp_path}/decisions.db", create=False)
        rows = _ended(store)
        store.close()
    finally:
        process.terminate()
        process.wait(60)
    by_id = {row["id"]: row for row in rows}
    assert {name: by_id[name]["expert"] for name in decisions} == decisions
    assert all(by_id[name]["status"] == "ok" for name in decisions)
    assert {round(row["propensity"], 6) for row in rows[:30]} <= {0.95, 0.05}
    assert sum(row["streamed"] for row in rows) == 1
    failed, answered = rows[-2:]
    assert (failed["status"], answered["status"], answered["previous"]) == ("failed", "ok", failed["id"])
    url, out = f"sqlite:///{tmp_path}/decisions.db", tmp_path / "log.parquet"
    assert train_router.main(["log", "export", "--log", url, "--out", str(out)]) == 0
    assert len(DecisionLog.read(out, ["small", "large"])) == 30


def _ended(store: LogStore) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 20
    while True:
        rows = list(store.decisions())
        if all(row["status"] != "started" for row in rows):
            return rows
        assert time.monotonic() < deadline, rows
        time.sleep(0.1)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while True:
        with suppress(httpx.TransportError):
            httpx.get(f"{url}/health/liveliness")
            return
        assert process.poll() is None
        time.sleep(0.2)
