"""The command line, as a person at a terminal meets it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import train_router
from experts import OutcomeTable
from experts.table.decision_log import log_decisions
from router_rl.routing import load

SHORT = ["--method.epochs", "40"]


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    """Columns of a table of 60 queries and two experts, each right on half of them."""
    rng = np.random.default_rng(0)
    kind = np.arange(60) % 2
    features = np.stack([kind, 1 - kind], axis=1) + rng.normal(0, 0.1, (60, 2))
    return {
        "query_id": [f"q{i}" for i in range(60)],
        "prompt": [f"what is {i}?" for i in range(60)],
        "split": [("train", "train", "validation", "test")[i // 2 % 4] for i in range(60)],
        "features": features.astype(np.float32).tolist(),
        "quality/left": (kind == 0).astype(np.float32),
        "quality/right": (kind == 1).astype(np.float32),
        "cost/left": np.full(60, 1.0, dtype=np.float32),
        "cost/right": np.full(60, 2.0, dtype=np.float32),
    }


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory, columns: dict[str, Any]) -> Callable[..., str]:
    """Return a function that writes the table with some columns changed (None: left out)."""
    folder = tmp_path_factory.mktemp("tables")

    def make(name: str, **changes: Any) -> str:
        chosen = {**columns, **{key.replace("__", "/"): value for key, value in changes.items()}}
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({key: value for key, value in chosen.items() if value is not None}), path)
        return str(path)

    return make


@pytest.fixture(scope="module")
def good(write: Callable[..., str]) -> str:
    return write("good")


@pytest.fixture(scope="module")
def run(good: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run."""
    folder = str(tmp_path_factory.mktemp("runs") / "run")
    arguments = ["train", "--table", good, "--method", "softmax_gate", "--out", folder, *SHORT]
    assert train_router.main(arguments) == 0
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command with --json and return what it printed."""
    assert train_router.main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    names = said(capsys, "list")
    assert names["problems"] == ["routing", "cascade", "queueing", "caching", "session", "token_moe"]
    routing = {"ppo", "a2c", "dqn", "softmax_gate", "switch_gate", "ridge", "oracle"}
    assert routing <= set(names["methods"]["routing"])
    assert {"exact_pg", "thresholds", "automix"} <= set(names["methods"]["cascade"])
    assert {"hard", "topk", "soft", "hierarchical", "adaptive_k", "expert_choice"} == set(names["selections"])
    assert names["sources"] == ["digits", "fashion-mnist", "routellm_gsm8k"]
    formats = ["safetensors", "pt2", "aoti", "onnx", "vllm", "sglang", "transformers", "gguf"]
    assert names["formats"] == formats


def test_train_evaluate_export(
    run: str, good: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    facts = json.loads((Path(run) / "run.json").read_text())
    assert facts["schema_version"] == 2
    assert facts["problem"]["name"] == "routing"
    assert facts["collapse"]["problems"] == []
    assert list((Path(run) / "tensorboard").glob("softmax_gate/c=0.1/seed=0/trial=0/events*"))
    found = said(capsys, "evaluate", run, "--table", good)
    assert found["test"]["utility"] == pytest.approx(facts["test"]["utility"])
    assert found["random_utility"] < found["best_single_utility"] < found["oracle_utility"]
    assert found["load"]["cv"] == pytest.approx(found["test"]["load_cv"])
    assert "devices" not in found["load"]
    placed = said(capsys, "evaluate", run, "--table", good, "--placement", "0,1")["load"]
    assert placed["devices"]["shares"] == pytest.approx(found["test"]["shares"])
    for format in ("safetensors", "pt2"):
        out = tmp_path / format
        told = said(capsys, "export", run, "--out", str(out), "--format", format, "--table", good)
        assert told["passed"]
        assert (out / "parity.json").exists()
    routing = load(tmp_path / "safetensors")(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert routing.experts.flatten().tolist() == [0, 1]


def test_a_distilled_export_says_what_it_lost(
    good: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "run")
    said(capsys, "train", "--table", good, "--method", "exact_pg", "--out", folder, *SHORT)
    arguments = ["export", folder, "--out", str(tmp_path / "out"), "--format", "gguf", "--distil"]
    told = said(capsys, *arguments, "--table", good)
    assert told["passed"]
    assert told["distilled"] == json.loads((tmp_path / "out" / "distilled.json").read_text())
    assert 0 <= told["distilled"]["agreement"] <= 1
    assert train_router.main([*arguments, "--table", good]) == 0
    assert "agreement" in capsys.readouterr().out
    assert "give --table with --distil" in fails(capsys, *arguments)


def test_a_conditioned_router_is_kept_whole_and_exported_folded(
    good: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "run")
    said(capsys, "train", "--table", good, "--method", "conditioned_pg", "--out", folder, *SHORT)
    for name, at in (("whole", []), ("folded", ["--at", "0.2"])):
        assert said(capsys, "export", folder, "--out", str(tmp_path / name), "--table", good, *at)["passed"]
    whole, folded = load(tmp_path / "whole"), load(tmp_path / "folded")
    assert [part.name for part in whole.state] == ["compute_weight"]
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(folded(x).logits, whole(x, torch.full((2, 1), 0.2)).logits)


@pytest.mark.slow
def test_a_budget_and_a_maximum_cost_are_told(
    run: str, good: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "run")
    within = ["--objective.budget", "0.8", "--objective.max-cost", "1.0"]
    said(capsys, "train", "--table", good, "--method", "exact_pg", "--out", folder, *within, *SHORT)
    found = said(capsys, "evaluate", folder, "--table", good)
    assert found["met"]
    assert found["test"]["compute"] <= 0.8
    assert train_router.main(["evaluate", folder, "--table", good]) == 0
    assert "quality, mean compute at most 0.8, no expert above 1" in capsys.readouterr().out
    options = ["--methods", "ridge", "--objective.budget", "0.8", "--seeds", "1", "--n-trials", "1"]
    results = said(capsys, "compare", "--table", good, "--out", str(tmp_path / "c"), *options)
    assert [case["values"]["budget"] for case in results["cases"]] == [0.8]
    assert [case["label"] for case in results["cases"]] == ["budget 0.8"]
    assert train_router.main(["export", run, "--out", str(tmp_path / "e"), "--at", "0.1"]) == 2
    assert "no input of this router can be fixed" in capsys.readouterr().err


def test_a_collapse_is_told_while_training_and_at_the_end(
    good: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--method", "mixtral_gate", "--method.balance", "0", "--method.epochs", "3"]
    arguments = ["train", "--table", good, "--out", str(tmp_path), "--seed", "1", *options]
    assert train_router.main(arguments) == 0
    captured = capsys.readouterr()
    assert "below the best single expert (" in captured.err
    assert "Warning: the router" in captured.out
    assert "- no gradient: " in captured.out
    assert json.loads((tmp_path / "run.json").read_text())["collapse"]["below_best_single"]


@pytest.mark.slow
def test_bandit_feedback(good: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Train and compare on one outcome a query, then judge the run by a log, with and without the table."""
    run, bandit = str(tmp_path / "run"), ["--problem.feedback", "bandit", "--problem.log.seed", "3"]
    facts = said(capsys, "train", "--table", good, "--method", "ridge", "--out", run, *bandit)
    assert facts["problem"]["options"]["feedback"] == "bandit"
    assert facts["problem"]["options"]["log"]["seed"] == 3
    assert "another digest" in fails(capsys, "train", "--table", good, "--method", "ridge", "--out", run)
    options = ["--methods", "ridge", "--seeds", "1", "--n-trials", "2", "--out", str(tmp_path / "compare")]
    results = said(capsys, "compare", "--table", good, *options, *bandit)
    assert results["problem"]["options"]["feedback"] == "bandit"
    assert any("bandit feedback" in note for note in results["notes"])

    table, path = OutcomeTable.read(good), str(tmp_path / "log.parquet")
    log_decisions(table, np.full((len(table), 2), 0.5), seed=0).write(path)
    both = said(capsys, "evaluate", run, "--table", good, "--log", path)
    assert both["off_policy"]["truth"] == pytest.approx(both["test"]["utility"], abs=1e-6)
    assert said(capsys, "evaluate", run, "--log", path)["off_policy"]["decisions"] == 60
    assert train_router.main(["evaluate", run, "--log", path]) == 0
    text = capsys.readouterr().out
    for word in ("IPS", "SNIPS", "doubly robust", "95% CI", "60 decisions"):
        assert word in text
    assert "truth" not in text
    assert train_router.main(["evaluate", run, "--table", good, "--log", path]) == 0
    assert "truth on its queries" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tables_fit_80_columns(
    run: str, good: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert train_router.main(["evaluate", run, "--table", good, "--placement", "0,0"]) == 0
    text = capsys.readouterr().out
    for name in ("oracle utility", "drops at capacity 1.25", "device CV"):
        assert name in text
    options = [
        "--methods",
        "ridge,softmax_gate",
        "--seeds",
        "1",
        "--n-trials",
        "1",
        "--out",
        str(tmp_path / "c"),
    ]
    assert train_router.main(["compare", "--table", good, *options]) == 0
    text = capsys.readouterr().out
    paths = ("report ", "curves ", "trials ", "router ")
    assert max(len(line) for line in text.splitlines() if not line.startswith(paths)) <= 80
    assert "…" not in text
    for name in ("softmax_gate", "zero_router", "best_single", "report.html", "weight 0.02", "weight 0.4"):
        assert name in text


def test_a_run_is_written_from_a_configuration_file(
    good: str, run: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = yaml.safe_load((Path(run) / "config.yaml").read_text())
    assert config["method"] == "softmax_gate"
    assert config["hyperparameters"]["epochs"] == 40
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config, "out": str(tmp_path / "again")}))
    told = said(capsys, "train", "--config", str(path), "--objective.compute-weight", "0.2")
    assert told["objective"]["compute_weight"] == 0.2
    assert told["hyperparameters"]["epochs"] == 40


def test_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        train_router.main(
            ["train", "--table", "x", "--out", "y", "--objective.load-weight=0.5", "--print_config"]
        )
    assert exit.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["objective"]["load_weight"] == 0.5


def test_collect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = said(capsys, "collect", "--source", "digits", "--out", str(tmp_path / "digits.parquet"))
    assert told["oracle_quality"] > told["best_single_quality"] + 0.05
    assert len(OutcomeTable.read(tmp_path / "digits.parquet").experts) == 7


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail as a user's mistake does; returns what it said."""
    capsys.readouterr()
    assert train_router.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_a_table_that_cannot_be_used(
    write: Callable[..., str], columns: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    quality = np.array(columns["quality/left"])
    prompts = columns["prompt"]
    (tmp_path / "text.parquet").write_text("not parquet")
    empty = {name: pa.array([], type=pa.array(value).type) for name, value in columns.items()}
    pq.write_table(pa.table(empty), tmp_path / "empty.parquet")
    one = {"quality__right": None, "cost__right": None}
    cases = {
        str(tmp_path / "nowhere.parquet"): ["nowhere.parquet"],
        str(tmp_path / "text.parquet"): ["text.parquet", "Parquet"],
        str(tmp_path / "empty.parquet"): ["rows"],
        write("no-cost", cost__right=None): ["cost/right"],
        write("nan", quality__left=np.where(np.arange(60) == 7, np.nan, quality)): ["quality/left", "7"],
        write("range", quality__left=np.where(np.arange(60) == 3, 1.5, quality)): ["quality/left", "1.5"],
        write("negative", cost__left=np.where(np.arange(60) == 5, -1.0, 1.0)): ["cost/left", "-1.0"],
        write("twice", query_id=["q0", *columns["query_id"][:-1]]): ["query_id", "q0"],
        write("leak", prompt=[prompts[7], *prompts[1:]]): ["prompt", "--allow-leakage"],
        write("one", **one): ["expert"],
        write("no-features", features=None, prompt=None): ["features", "prompt"],
    }
    for table, words in cases.items():
        text = fails(capsys, "train", "--table", table, "--out", str(tmp_path / "run"))
        for word in words:
            assert word in text, (table, text)
        assert not (tmp_path / "run" / "run.json").exists()


def test_leakage_can_be_allowed_and_is_told(
    write: Callable[..., str], columns: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = write("leak", prompt=[columns["prompt"][7], *columns["prompt"][1:]])
    arguments = [
        "train",
        "--table",
        table,
        "--method",
        "ridge",
        "--out",
        str(tmp_path),
    ]
    for words in (["--allow-leakage"], ["--allow-leakage", "true"], ["--allow-leakage=true"]):
        assert any("leakage" in note for note in said(capsys, *arguments, *words)["notes"])
    assert "--allow-leakage" in fails(capsys, *arguments, "--allow-leakage", "false")


def test_options_that_cannot_be_used(
    good: str, run: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "x")]
    (tmp_path / "file").write_text("")
    cases = [
        (
            ["train", "--table", good, "--method", "softmaxgate", *out],
            ["method", "did you mean 'softmax_gate'"],
        ),
        (["train", "--table", good, "--problem.select", "topkk", *out], ["select", "did you mean 'topk'"]),
        (
            ["train", "--table", good, "--problem.select", "topk", "--problem.k", "3", *out],
            ["k=3", "2 experts"],
        ),
        (["train", "--table", good, "--objective.compute-weight", "-1", *out], ["compute_weight", "-1"]),
        (["train", "--table", good, "--objective.load-weight=-1", *out], ["load_weight", "-1"]),
        (["train", "--table", good, "--objective.window", "0", *out], ["window", "0"]),
        (["train", "--table", good, "--method.learning_rat", "1", *out], ["ppo", "learning-rate"]),
        (["train", "--table", good, "--problem.device", "warp", *out], ["device", "warp"]),
        (["train", "--table", good, "--out", str(tmp_path / "file" / "x")], ["out", "cannot be written"]),
        (["compare", "--table", good, "--out", str(tmp_path / "file" / "x")], ["out", "cannot be written"]),
        (["compare", "--table", good, "--compute-weights", "a,b", *out], ["compute_weights", "a,b"]),
        (["compare", "--table", good, "--methods", "pppo", *out], ["method", "did you mean 'ppo'"]),
        (["train", "--table", good, "--method", "oracle", *out], ["oracle"]),
        (["train", "--table", good], ["required: --out"]),
        (["export", "--format", "pt2"], ["required: run, --out"]),
        (["train", "--tabel", good, *out], ["--tabel"]),
        (["collect", "--source", "digit", "--out", str(tmp_path / "t.parquet")], ["did you mean 'digits'"]),
        (["evaluate", str(tmp_path / "none"), "--table", good], ["not a run folder"]),
        (["evaluate", run, "--table", good, "--split", "tset"], ["split", "tset"]),
        (["evaluate", run, "--table", good, "--placement", "0,1,1"], ["placement", "3 devices for 2"]),
        (["evaluate", run, "--table", good, "--placement", "a,b"], ["placement", "a,b", "0,0,1,1"]),
        (["evaluate", run], ["table", "--log"]),
        (["evaluate", run, "--log", good], ["expert", "the column is missing"]),
        (
            ["train", "--table", good, "--problem.feedback", "bandid", *out],
            ["feedback", "did you mean 'bandit'"],
        ),
        (["train", "--table", good, "--problem.log.epsilon", "0", *out], ["epsilon", "0"]),
        (["export", run, "--format", "onxx", *out], ["format", "onxx"]),
        (["trane"], ["trane", "train"]),
    ]
    for arguments, words in cases:
        text = fails(capsys, *arguments)
        for word in words:
            assert word in text, (arguments, text)


def test_another_pool_or_feature_size_is_refused(
    write: Callable[..., str], run: str, columns: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = write(
        "renamed",
        quality__right=None,
        cost__right=None,
        quality__middle=columns["quality/right"],
        cost__middle=columns["cost/right"],
    )
    text = fails(capsys, "evaluate", run, "--table", renamed)
    assert "left, right" in text
    assert "left, middle" in text
    wider = write("wider", features=[[*row, 0.0] for row in columns["features"]])
    text = fails(capsys, "evaluate", run, "--table", wider)
    assert "2 features" in text
    assert "has 3" in text


def test_a_run_of_another_schema_version_is_refused(
    run: str, good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    facts = json.loads((other / "run.json").read_text())
    del facts["checksum"]
    (other / "run.json").write_text(json.dumps({**facts, "schema_version": 99}))
    assert "schema version 99" in fails(capsys, "evaluate", str(other), "--table", good)
    (other / "run.json").write_text("{")
    assert "cannot be used" in fails(capsys, "evaluate", str(other), "--table", good)
    (other / "run.json").unlink()
    assert "not finished" in fails(capsys, "evaluate", str(other), "--table", good)


def test_a_run_folder_is_not_reused_for_another_run(
    run: str, good: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (Path(run) / "run.json").read_bytes()
    assert "seed" in fails(
        capsys, "train", "--table", good, "--method", "softmax_gate", "--out", run, "--seed", "9", *SHORT
    )
    assert (Path(run) / "run.json").read_bytes() == before
    assert (
        train_router.main(["train", "--table", good, "--method", "softmax_gate", "--out", run, *SHORT]) == 0
    )


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "profile", "mixtral-8x7b", "--context", "1")["parameters"] == 46_702_792_704
    assert train_router.main(["profile", "deepseek-v3"]) == 0
    view = capsys.readouterr().out
    assert "671.03 B" in view
    assert max(map(len, view.splitlines())) <= 80
    assert train_router.main(["profile", "mixtral"]) == 2
    assert "did you mean 'mixtral-8x7b'" in capsys.readouterr().err


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_router.main(["--debug", "evaluate", "nowhere", "--table", "digits"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_told_in_one_line(
    good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("router_rl.studies.runs.train_run", interrupted)
    assert train_router.main(["train", "--table", good, "--out", str(tmp_path)]) == 130
    assert "resumes from the last checkpoint" in capsys.readouterr().err
