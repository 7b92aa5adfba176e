"""The loop on a real table: serve and explore, train from the log alone, shadow, promote, roll back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import FaultServer

import train_router
from experts import OutcomeTable
from experts.table.splitting import split_by_key, split_keys
from router_rl import Objective, RoutingProblem, export, fit
from router_rl.routing import load_router
from router_rl.serving.loaded_router import LoadedRouter

EXPERTS = ("gemma-2-9b-it", "qwen2.5-7b-instruct", "llama-3.3-nemotron-super-49b-v1")
COMPUTE_WEIGHT = 0.1
TRAINED, REQUESTS = 300, 1_000  # rows of the first router, and requests before and after the second


@pytest.fixture(scope="module")
def table(shared_table: Callable[[str], Path]) -> OutcomeTable:
    """Return thirteen real tasks with the outcomes of three models, in a random order."""
    whole = OutcomeTable.read(shared_table("llmrouter_pool9.parquet"), progress=False)
    rows = np.random.default_rng(0).permutation(len(whole))[:2_000]
    columns = [whole.experts.index(name) for name in EXPERTS]
    assert whole.prompt is not None
    return OutcomeTable(
        experts=EXPERTS,
        query_id=whole.query_id[rows],
        features=None,
        prompt=whole.prompt[rows],
        quality=whole.quality[np.ix_(rows, columns)],
        cost=whole.cost[np.ix_(rows, columns)],
        cost_unit="usd",
        split=split_by_key(split_keys(whole.prompt[rows], whole.query_id[rows]), 0),
    )


@pytest.fixture(scope="module")
def prices(table: OutcomeTable) -> dict[str, float]:
    """Return the price of an answer token: answers of two tokens cost what the table says."""
    return {name: float(cost) * 1e6 / 2 for name, cost in zip(EXPERTS, table.cost[0], strict=True)}


@pytest.fixture
def stubs(prices: dict[str, float], tmp_path: Path) -> Iterator[Path]:
    """Yield the model list of three stubs."""
    path = tmp_path / "stubs.yaml"
    with FaultServer(lambda model, prompt: "two words") as server:
        lines = [
            f"  - {{name: {name}, model: openai/{name}, api_base: {server.url}, "
            f"price: {{input: 0, output: {price}}}}}"
            for name, price in prices.items()
        ]
        path.write_text("models:\n" + "\n".join(lines) + "\n")
        yield path


def _asked(running: Any, table: OutcomeTable, rows: Sequence[int]) -> None:
    """Send requests over HTTP, and attach the real outcome of whoever answers."""
    assert table.prompt is not None
    prompts = table.prompt

    def ask(row: int) -> None:
        got = running.chat(str(prompts[row]))
        expert = EXPERTS.index(got.headers["x-router-rl-expert"])
        body = {"decision": got.headers["x-router-rl-decision"], "score": float(table.quality[row, expert])}
        running.http.post("/v1/outcomes", json=body).raise_for_status()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, rows))


def _true_utility(folder: Path, table: OutcomeTable, rows: np.ndarray, cost_weight: float) -> float:
    assert table.prompt is not None
    chosen = load_router(folder).route([str(prompt) for prompt in table.prompt[rows]]).experts[:, 0].numpy()
    return float(
        (table.quality[rows, chosen] - cost_weight * table.cost[rows, chosen]).mean(dtype=np.float64)
    )


def _until(running: Any, digest: str) -> None:
    deadline = time.monotonic() + 20
    while running.server.decider.live.router.digest != digest:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_the_story(serve: Callable[..., Any], stubs: Path, table: OutcomeTable, tmp_path: Path) -> None:
    first, better, log = tmp_path / "first", tmp_path / "better", f"sqlite:///{tmp_path}/log.db"
    objective = Objective(compute_weight=COMPUTE_WEIGHT)
    problem = RoutingProblem(table.take(np.arange(TRAINED)), objective)
    export(fit("ridge", problem), first, rows=problem)
    pool = np.arange(TRAINED, len(table))
    requests = np.random.default_rng(1).choice(pool, (2, REQUESTS))
    cost_weight = COMPUTE_WEIGHT / float(table.cost.max())

    with serve(first, stubs, explore=0.3) as running:
        _asked(running, table, requests[0])
    exported, run = str(tmp_path / "log.parquet"), str(tmp_path / "run")
    assert train_router.main(["log", "export", "--log", log, "--out", exported]) == 0
    words = ["train", "--log", exported, "--method", "ridge", "--n-trials", "3", "--track", "none"]
    weight = ["--objective.compute-weight", str(COMPUTE_WEIGHT)]
    assert train_router.main([*words, *weight, "--out", run]) == 0
    assert train_router.main(["export", run, "--out", str(better)]) == 0

    before, after = (_true_utility(folder, table, pool, cost_weight) for folder in (first, better))
    assert after > before + 0.01
    digests = {folder: LoadedRouter.of(folder).digest for folder in (first, better)}
    with serve(first, stubs, explore=0.3, shadow=better, cost_weight=cost_weight) as running:
        _asked(running, table, requests[1])
        estimate = running.http.get("/v1/status", timeout=300).json()["shadow"]
        assert estimate["decisions"] == REQUESTS
        # 3.5 standard errors, as the choices differ in every run; benchmarks/shadow_coverage.py measures the
        # coverage of the intervals.
        low, high = estimate["utility"]["dr"]["ci95"]
        assert abs(estimate["utility"]["dr"]["mean"] - after) < 3.5 / 1.96 * (high - low) / 2
        assert high - low < 0.2

        assert train_router.main(["promote", str(better), "--log", log]) == 0
        _until(running, digests[better])
        _asked(running, table, requests[1][:20])
        assert train_router.main(["rollback", "--log", log]) == 0
        _until(running, digests[first])
        _asked(running, table, requests[1][:20])
        rows = running.rows()
    assert len(rows) == 2 * REQUESTS + 40
    assert {row["status"] for row in rows} == {"ok"}
    assert [row["router"] for row in rows[-40:]] == [digests[better]] * 20 + [digests[first]] * 20


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
