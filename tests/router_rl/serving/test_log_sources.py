"""Commands on the log of `serve` by its URL: evaluate, train, monitor, queues."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train_router
from experts import DecisionLog, InputError
from experts.table.decision_log import epsilon_greedy
from router_rl.cli.log_source import log_file
from router_rl.problems.log_table import features_for
from router_rl.routing import TextFeatures, load_router
from router_rl.routing.storage import stored_text_digest
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_store import LogStore
from router_rl.serving.log_tables import DECISIONS

DECISIONS_LOGGED, EXPERTS = 240, ("small", "large")
FEW = ["--problem.episodes", "2", "--problem.window", "16", "--problem.loads", "[0.7]", "--track", "none"]


def prompt_of(number: int) -> str:
    return f"What is {number} {'plus' if number % 2 else 'times'} 4?"


@pytest.fixture(scope="module")
def url(router: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log of 240 requests: half of them explored, `plus` is right at small, and two tries of large fail."""
    url = f"sqlite:///{tmp_path_factory.mktemp('log')}/decisions.db"
    store, loaded, rng = LogStore(url), LoadedRouter.of(router), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(DECISIONS_LOGGED):
        ranking = loaded.rank(prompt_of(number), None)
        chances = epsilon_greedy(np.array([ranking.best]), 2, 0.5)[0]
        expert = int(rng.random() > chances[0])
        rows.append(
            {
                **{column.name: None for column in DECISIONS.columns},
                "id": f"d{number}",
                "at": 1e9 + 2.0 * number,
                "router": loaded.digest,
                "requested": "auto",
                "expert": EXPERTS[expert],
                "propensity": float(chances[expert]),
                "propensities": dict(zip(EXPERTS, chances.tolist(), strict=True)),
                "status": "ok",
                "streamed": False,
                "tokens_in": 10,
                "tokens_out": 20 + number % 50,
                "cost_usd": (1e-4, 2e-3)[expert],
                "latency_s": (0.2, 1.0)[expert] * (1.0 + number % 50 / 50),
                "prompt_hash": f"hash {number}",
                "features": ranking.features.astype("<f4").tobytes(),
            }
        )
    named = {**rows[0], "id": "named", "at": 1e9 + 1.0, "propensity": None, "propensities": None}
    broken = [{**rows[0], "id": f"b{at}", "at": 1e9 + 500.0 + 10.0 * at} for at in range(3)]
    for at, row in enumerate(broken):
        row.update(expert="large", previous="d0", latency_s=1.0, propensity=0.5)
        row["status"] = "ok" if at == 2 else "failed"
    store.write([*rows, named, *broken], [])
    for number, row in enumerate(rows):
        store.attach(row["id"], float(row["expert"] == ("small" if number % 2 else "large")))
    store.deploy(
        {"action": "start", "folder": str(router), "digest": loaded.digest, "fraction": 1.0}
        | {"previous_folder": None, "previous_digest": None}
    )
    store.close()
    return url


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert train_router.main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def check_estimates(result: dict[str, Any], folder: Path) -> None:
    """The intervals hold the quality that the router has on the logged prompts."""
    prompts = [prompt_of(number) for number in range(DECISIONS_LOGGED)]
    chosen = load_router(folder).route(prompts).experts[:, 0].numpy()
    truth = float((chosen == 1 - np.arange(DECISIONS_LOGGED) % 2).mean())
    for estimate in ("ips", "snips", "dr"):
        low, high = result["off_policy"]["quality"][estimate]["ci95"]
        assert low - 0.01 <= truth <= high + 0.01, estimate


@pytest.mark.slow
def test_an_exported_router_is_evaluated_on_a_live_log(
    url: str, router: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = said(capsys, "evaluate", str(router), "--log", url)
    assert good["off_policy"]["decisions"] == DECISIONS_LOGGED
    assert 100 < good["off_policy"]["effective_sample_size"] < DECISIONS_LOGGED
    assert good["cost_unit"] == "usd"
    assert "4 of 244 decisions are without" in good["notes"][0]
    check_estimates(good, router)
    assert good["off_policy"]["quality"]["difference"]["ci95"][0] > 0
    assert train_router.main(["evaluate", str(router), "--log", url]) == 0
    shown = capsys.readouterr().out
    assert "US$ per 1,000 queries" in shown
    assert "effective sample size" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("router "))
    table = ["evaluate", str(router), "--table", "digits"]
    assert train_router.main(table) == 2
    assert "is an exported router, which has no objective" in capsys.readouterr().err


def test_a_router_that_reads_prompts_otherwise_needs_the_prompts(
    url: str, router: Path, other_router: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its features are not those that the served router made."""
    assert train_router.main(["evaluate", str(other_router), "--log", url]) == 2
    assert "this router makes others; serve with --log-prompts true" in capsys.readouterr().err
    with log_file(url) as path:
        log = DecisionLog.read(path)
    asked = {f"hash {number}": prompt_of(number) for number in range(DECISIONS_LOGGED)}
    prompts = np.array([asked[name] for name in log.query_id], dtype=object)
    replace(log, prompt=prompts).write(tmp_path / "prompts.parquet")
    for folder in (router, other_router):
        found = said(capsys, "evaluate", str(folder), "--log", str(tmp_path / "prompts.parquet"))
        check_estimates(found, folder)


def test_the_pipeline_is_checked_where_the_served_router_is_gone(
    url: str, router: Path, other_router: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_file(url) as path:
        log = DecisionLog.read(path)
    pipeline = stored_text_digest(router)
    for gone in (None, str(tmp_path / "gone")):
        out = tmp_path / "gone.parquet"
        replace(log, router=gone, pipeline=pipeline).write(out)
        check_estimates(said(capsys, "evaluate", str(router), "--log", str(out)), router)
        assert train_router.main(["evaluate", str(other_router), "--log", str(out)]) == 2
        assert "this router makes others; serve with --log-prompts true" in capsys.readouterr().err
    read = load_router(router).text
    assert read is not None
    unread = TextFeatures(read.parts)  # no file says that it is the pipeline of the log
    with pytest.raises(InputError, match="this router makes others"):
        features_for(unread, DecisionLog.read(out))


def test_train_learns_from_a_live_log_and_is_evaluated_on_it(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    words = ["--method", "ridge", "--objective.compute-weight", "0.1", "--track", "none", "--out", run]
    trained = said(capsys, "train", "--log", url, *words)
    assert trained["problem"]["facts"]["cost_unit"] == "usd"
    assert trained["test"]["quality"] > 0.9
    found = said(capsys, "evaluate", run, "--log", url)["off_policy"]
    assert found["decisions"] == DECISIONS_LOGGED
    assert found["dr"]["mean"] == pytest.approx(found["quality"]["dr"]["mean"], abs=0.15)


def test_queues_are_simulated_from_a_live_log(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    words = ["train", "--env", "queueing", "--log", url, "--method", "least_wait", *FEW, "--out", run]
    trained = said(capsys, *words)
    notes = " ".join(trained["notes"])
    assert f"the log's {DECISIONS_LOGGED + 1} requests" in notes  # the retries are none
    assert "1 outages in the log, of 20 s on average" in notes
    assert trained["problem"]["options"]["mean_repair"] > 0
    assert trained["inputs"] == ["prompt", "queues"]


def test_monitor_compares_a_live_log_with_its_beginning(
    url: str, router: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["monitor", "--log", url], ["monitor", str(router), "--log", url]):
        found = said(capsys, *words)
        assert found["decisions"] == DECISIONS_LOGGED + 4
        assert found["drift"] == []
    assert train_router.main(["monitor", "--log", url, "--table", "digits"]) == 2
    assert "run=None: is missing: the router selects the table's rows" in capsys.readouterr().err
    assert train_router.main(["monitor", "--log", url, "--split", "test"]) == 2
    assert "split='test': is about the rows of a table" in capsys.readouterr().err


def test_a_log_without_propensities_says_how_to_get_them(
    url: str, router: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_file(url) as path:
        log = DecisionLog.read(path)
    log.take(np.flatnonzero(np.isnan(log.propensity))).write(tmp_path / "named.parquet")
    for words in (["evaluate", str(router)], ["train", "--out", str(tmp_path / "run")]):
        assert train_router.main([*words, "--log", str(tmp_path / "named.parquet")]) == 2
        message = capsys.readouterr().err
        assert "1 without propensity" in message
        assert "serve --explore 0.1" in message
    assert not (tmp_path / "run").exists()


def test_a_database_that_cannot_be_read_is_one_line(
    router: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in (f"sqlite:///{tmp_path}/none.db", "postgres://me:secret@nowhere.invalid/x", "mysql://h/x"):
        assert train_router.main(["evaluate", str(router), "--log", url]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: log=")
        assert message.count("\n") == 1
        assert "secret" not in message
    assert not (tmp_path / "none.db").exists()


def test_passwords_are_not_written(tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    train_router._write_config(written, "log: postgresql+psycopg://me:a@b:c@host:5432/name\nout: x\n")
    assert written.read_text() == "log: postgresql+psycopg://me:***@host:5432/name\nout: x\n"
