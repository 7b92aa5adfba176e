"""The Python blocks of docs/deploy.md run; `test_litellm_proxy.py` runs the last one in a real proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litellm
import pytest
from code_blocks import Block, blocks_of
from starlette.testclient import TestClient

PLUS = "What is 3 plus 4?"


@pytest.fixture
def blocks(router: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    """Return the blocks; the working folder has a router and a model list."""
    (tmp_path / "router").symlink_to(router)
    monkeypatch.chdir(tmp_path)
    assert Path("models.yaml").samefile(models)
    return [block for block in blocks_of("docs/deploy.md") if block.language == "python"]


def run(block: Block) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block.text, block.place, "exec"), names)
    return names


def test_the_application_answers_and_closes_its_log(blocks: list[Block]) -> None:
    app = run(blocks[0])["app"]
    with TestClient(app) as client:
        body = {"messages": [{"role": "user", "content": PLUS}]}
        got = client.post("/v1/chat/completions", json=body)
        assert got.status_code == 200
        assert got.headers["x-router-rl-decision"]
        assert client.get("/healthz").json() == {"status": "ok", "log": "ok"}
    assert Path("asgi.db").exists()
    assert not Path("asgi.db-wal").exists()  # closed in order


def test_the_plug_in_of_the_page_is_made(blocks: list[Block]) -> None:
    assert blocks[1].title == "custom_router.py"
    plugin = run(blocks[1])["plugin"]
    try:
        assert isinstance(plugin, litellm.integrations.custom_logger.CustomLogger)
        assert plugin.decider.decide(PLUS).propensities == pytest.approx({"small": 0.95, "large": 0.05})
    finally:
        plugin.close()
