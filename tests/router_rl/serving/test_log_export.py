"""What is exported from the log is what happened, and off-policy estimates from it are right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fault_server import FaultServer

import train_router
from experts import DecisionLog, InputError
from router_rl.problems.log_table import logged_text
from router_rl.serving.deployments import follow, promote
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_export import export_log

PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"


def test_scored_decisions_are_exported(serve: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    with serve(explore=0.5) as running:
        with pytest.raises(InputError, match="has no decision to export"):
            export_log(running.server.store, tmp_path / "log.parquet")
        for prompt in (PLUS, TIMES, PLUS, TIMES):
            got = running.chat(prompt)
            right = got.headers["x-router-rl-expert"] == ("small" if prompt == PLUS else "large")
            decision = got.headers["x-router-rl-decision"]
            running.http.post("/v1/outcomes", json={"decision": decision, "score": float(right)})
        running.chat(PLUS)  # without a score
        running.chat(PLUS, model="large")  # without a propensity
        rows = running.rows()
    out = tmp_path / "log.parquet"
    url = f"sqlite:///{tmp_path}/log.db"
    assert train_router.main(["log", "export", "--log", url, "--out", str(out)]) == 0
    every = DecisionLog.read(out, ["small", "large"])
    assert len(every) == 6
    assert every.at is not None
    assert every.latency_s is not None
    assert every.status is not None
    assert every.at.tolist() == [row["at"] for row in rows]
    assert every.latency_s.tolist() == [row["latency_s"] for row in rows]
    assert every.status.tolist() == ["ok"] * 6
    log = every.scored()
    assert len(log) == 4
    scored = [row for row in rows if row["score"] is not None]
    assert list(log.query_id) == [row["prompt_hash"] for row in scored]
    np.testing.assert_allclose(log.propensity, [row["propensity"] for row in scored], rtol=1e-6)
    np.testing.assert_allclose(log.cost, [row["cost_usd"] for row in scored], rtol=1e-6)
    assert log.quality.tolist() == [row["score"] for row in scored]


def test_a_failed_attempt_is_exported_but_not_learned_from(
    serve: Callable[..., Any], backend: FaultServer, tmp_path: Path
) -> None:
    prompt = f"{PLUS} <<500>>"
    with serve() as running:
        best = running.server.decider.decide(prompt).expert
        backend.exempt = {"small", "large"} - {best}
        _asked(running, *[prompt] * 4)  # the best one fails once, and backs off
        rows = running.rows()
        failed = next(row for row in rows if row["status"] == "failed")
        assert running.server.attach(failed["id"], 1.0)  # whoever scores it scores no answer
        exported = export_log(running.server.store, tmp_path / "log.parquet")
    assert exported["decisions"] == 5
    assert exported["not_for_learning"] == {"no answer": 1}
    table = pq.read_table(tmp_path / "log.parquet")
    assert table["status"].to_pylist().count("failed") == 1
    assert [each for each in table["previous"].to_pylist() if each] == [failed["id"]]
    read = DecisionLog.read(tmp_path / "log.parquet")
    assert (len(read), len(read.scored())) == (5, 4)


@pytest.mark.slow
def test_a_shadow_is_estimated_from_what_it_watched(serve: Callable[..., Any], other_router: Path) -> None:
    prompts = [f"What is {number} {'plus' if number % 2 else 'times'} 4?" for number in range(60)]
    right = ["small" if number % 3 else "large" for number in range(60)]
    with serve(explore=0.4, shadow=other_router) as running:
        running.server.decider.reseed(0)
        for prompt, best in zip(prompts, right, strict=True):
            got = running.chat(prompt)
            decision, expert = (got.headers[f"x-router-rl-{name}"] for name in ("decision", "expert"))
            running.http.post("/v1/outcomes", json={"decision": decision, "score": float(expert == best)})
        rows = running.rows()
        shadow = running.http.get("/v1/status").json()["shadow"]
    loaded = LoadedRouter.of(other_router)
    choices = [loaded.experts[loaded.rank(prompt, None).best] for prompt in prompts]
    assert [row["shadow_expert"] for row in rows] == choices
    truth = np.mean([choice == best for choice, best in zip(choices, right, strict=True)])
    assert shadow["decisions"] == 60
    for estimate in ("ips", "snips", "dr"):
        low, high = shadow["quality"][estimate]["ci95"]
        assert low <= truth <= high, estimate
    assert shadow["live"]["quality"] == np.mean([row["score"] for row in rows])


def _asked(running: Any, *prompts: str) -> list[str]:
    """Ask, score, and return the decisions."""
    decisions = [running.chat(prompt).headers["x-router-rl-decision"] for prompt in prompts]
    for decision in decisions:
        running.http.post("/v1/outcomes", json={"decision": decision, "score": 1.0})
    return decisions


def test_features_of_another_text_pipeline_are_left_out(
    serve: Callable[..., Any], router: Path, make_router: Callable[..., Path], tmp_path: Path
) -> None:
    """They have the same width, so that nothing else would tell."""
    other = make_router("other-words", words=("add", "multiply"))
    one, two = LoadedRouter.of(router), LoadedRouter.of(other)
    assert one.rank(PLUS, None).features.shape == two.rank(PLUS, None).features.shape
    assert one.pipeline != two.pipeline
    out = tmp_path / "log.parquet"
    with serve(explore=0.5) as running:
        _asked(running, PLUS, TIMES, PLUS)
        assert export_log(running.server.store, out)["decisions"] == 3
    with serve(other, explore=0.5) as running:
        decisions = _asked(running, PLUS, TIMES)
        exported = export_log(running.server.store, out)
    assert exported["for_learning"] == 2
    assert exported["not_for_learning"] == {"features of another text pipeline": 3}
    table = pq.read_table(out)
    assert table.filter(table["features"].is_valid())["decision"].to_pylist() == decisions
    facts = json.loads(table.schema.metadata[b"router_rl"])
    assert (facts["router"], facts["pipeline"]) == (str(other), two.pipeline)


def test_a_canary_logs_the_features_of_the_router_that_serves(
    serve: Callable[..., Any], router: Path, make_router: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_router("canary", words=("add", "multiply"))
    with serve(explore=0.5) as running:
        promote(running.server.store, other, 0.5)
        follow(running.server.decider, running.server.store.deployment())
        running.server.decider.reseed(0)
        _asked(running, *[PLUS] * 12)
        rows = running.rows()
        exported = export_log(running.server.store, tmp_path / "log.parquet")
    assert len({row["router"] for row in rows}) == 2  # both decided
    assert {row["pipeline"] for row in rows} == {LoadedRouter.of(router).pipeline}
    assert exported["decisions"] == 12
    facts = json.loads(pq.read_schema(tmp_path / "log.parquet").metadata[b"router_rl"])
    assert facts["router"] == str(router)


def test_a_pipeline_that_was_replaced_reads_no_prompts(
    serve: Callable[..., Any], router: Path, make_router: Callable[..., Path], tmp_path: Path
) -> None:
    """The folder of the router that served holds another one now."""
    folder, out = tmp_path / "live", tmp_path / "log.parquet"
    shutil.copytree(router, folder)
    with serve(folder, explore=1.0) as running:
        running.server.decider.reseed(0)
        _asked(running, *[PLUS, TIMES] * 10)
        export_log(running.server.store, out)
    assert logged_text(DecisionLog.read(out)) is not None
    shutil.rmtree(folder)
    shutil.copytree(make_router("replaced", words=("add", "multiply")), folder)
    assert logged_text(DecisionLog.read(out)) is None


def test_a_shadow_is_estimated_from_features_of_one_pipeline(
    serve: Callable[..., Any], make_router: Callable[..., Path], other_router: Path
) -> None:
    with serve(explore=0.4, shadow=other_router) as running:
        _asked(running, PLUS, TIMES, PLUS)
    with serve(make_router("third", words=("add", "multiply")), explore=0.4, shadow=other_router) as running:
        _asked(running, *[PLUS, TIMES] * 10)
        assert running.http.get("/v1/status").json()["shadow"]["decisions"] == 20
