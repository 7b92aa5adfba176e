"""The loop: serve with exploration, export the log, train from it alone, shadow, promote, roll back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train_router
from router_rl.routing import load_router
from router_rl.serving.chat_request import ChatRequest
from router_rl.serving.deployments import follow, promote, rollback
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_store import LogStore

QUERIES = 300


def _prompts(first: int) -> tuple[list[str], list[str]]:
    """Sums and products, and the model that is right: the contrary of what the router was trained on."""
    prompts = [
        f"What is {at} {'plus' if at % 2 else 'times'} {at % 7}?" for at in range(first, first + QUERIES)
    ]
    return prompts, ["large" if "plus" in prompt else "small" for prompt in prompts]


def _quality(router: Any, first: int) -> float:
    prompts, right = _prompts(first)
    chosen = [router.experts[int(expert)] for expert in router.route(prompts).experts[:, 0]]
    return float(np.mean([one == best for one, best in zip(chosen, right, strict=True)]))


def test_the_story(serve: Callable[..., Any], router: Path, tmp_path: Path) -> None:
    prompts, right = _prompts(0)
    log, exported = tmp_path / "log.parquet", tmp_path / "better"
    with serve(explore=0.5) as running:
        running.server.decider.reseed(0)
        for prompt, best in zip(prompts, right, strict=True):
            decision = running.server.decider.decide(prompt)
            request = _request(prompt)
            row = running.server.rows.row(f"{len(prompt)}-{prompt}"[:32], request, decision.expert, decision)
            running.server.store.write([{**row, "status": "ok", "cost_usd": 1e-4}], [])
            running.server.attach(row["id"], float(decision.expert == best))
    url = f"sqlite:///{tmp_path}/log.db"
    assert train_router.main(["log", "export", "--log", url, "--out", str(log)]) == 0
    run = str(tmp_path / "run")
    words = ["train", "--log", str(log), "--method", "ridge", "--objective.compute-weight", "0", "--out", run]
    assert train_router.main([*words, "--track", "none"]) == 0
    assert train_router.main(["export", run, "--out", str(exported)]) == 0
    better = load_router(exported)
    assert better.inputs == ("prompt",)
    before, after = _quality(load_router(router), QUERIES), _quality(better, QUERIES)
    assert after > before + 0.2
    store = LogStore(url)
    promote(store, exported)
    with serve() as running:
        assert running.server.decider.live.router.digest == LoadedRouter.of(exported).digest
        rollback(store)
        follow(running.server.decider, store.deployment())
        assert running.server.decider.live.router.digest == LoadedRouter.of(router).digest
    store.close()


def test_a_log_that_explored_nothing_is_refused(
    serve: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as running:
        for prompt in ("What is 3 plus 4?", "What is 3 times 4?"):
            decision = running.chat(prompt).headers["x-router-rl-decision"]
            running.http.post("/v1/outcomes", json={"decision": decision, "score": 1.0})
    log = str(tmp_path / "log.parquet")
    assert train_router.main(["log", "export", "--log", f"sqlite:///{tmp_path}/log.db", "--out", log]) == 0
    assert train_router.main(["train", "--log", log, "--out", str(tmp_path / "run")]) == 2
    assert "explored nothing" in capsys.readouterr().err


def _request(prompt: str) -> Any:
    return ChatRequest(model="auto", prompt=prompt, messages=[{"role": "user", "content": prompt}])
