"""docs/scale.md is true: its commands run on a local Ray cluster, and its manifest fits together."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from code_blocks import ROOT, Reader, blocks_of

from experts import OutcomeTable
from router_rl import RoutingProblem
from router_rl.cli import find_command
from router_rl.cli.parsing import build_parser, names_given, normalised

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest needs it there
    import tomli as tomllib

PAGE = "docs/scale.md"
BUDGETS = {
    "compare": "--jobs 2 --seeds 1 --n-trials 1 --compute-weights 0.1",
    "tune": "--jobs 2 --n-trials 2",
}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    (block,) = (block for block in blocks_of(PAGE) if block.language == "yaml")
    return yaml.safe_load(block.text)


def test_the_manifest_is_a_ray_job(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) == {
        *(
            "entrypoint",
            "backoffLimit",
            "shutdownAfterJobFinishes",
            "ttlSecondsAfterFinished",
            "rayClusterSpec",
        )
    }
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    containers = [each["template"]["spec"]["containers"] for each in (head, workers)]
    assert [len(each) for each in containers] == [1, 1]
    assert len({container["image"] for (container,) in containers}) == 1  # the same releases everywhere
    assert all(isinstance(value, str) for value in head["rayStartParams"].values())
    mounted = {each["name"] for each in containers[0][0]["volumeMounts"]}
    assert mounted == {each["name"] for each in head["template"]["spec"]["volumes"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extra,) = project["optional-dependencies"]["scale"]
    low, high = re.findall(r"\d+(?:\.\d+)?", extra)
    version = tuple(map(int, str(cluster["rayVersion"]).split(".")))
    assert tuple(map(int, low.split("."))) <= version < (int(high),)


def test_the_manifest_runs_a_trial_on_each_cpu_of_a_worker(job: dict[str, Any]) -> None:
    program, name, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "train-router"
    rest = normalised(words)
    options = build_parser(name, find_command(name), names_given(rest), rest).parse_args(rest).as_dict()
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert options["engine"] == "ray"
    assert options["jobs"] == workers["replicas"] * int(container["resources"]["requests"]["cpu"])
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert str(options["out"]).startswith("/data/")


def test_the_benchmarks_that_the_page_names_have_the_option() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    (named,) = re.findall(r"\(`benchmarks/([^)]*)\)", text)
    for name in re.findall(r"\w+\.py", named):
        assert "engine: str" in (ROOT / "benchmarks" / name).read_text(encoding="utf-8"), name


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of idle cores
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the workers, which run in this folder
    monkeypatch.setenv("RAY_worker_niceness", "0")  # on a busy machine, its workers would start for minutes
    monkeypatch.setattr(RoutingProblem, "always", ("oracle", "best_single"))
    word = np.arange(60) % 2
    OutcomeTable(
        experts=("small", "large"),
        query_id=range(60),
        features=np.stack([word, 1 - word], axis=1),
        quality=np.stack([word, np.ones(60)], axis=1),
        cost=np.tile([0.001, 0.01], (60, 1)),
        split=np.repeat(["train", "validation", "test"], 20),
        cost_unit="usd",
    ).write("mine.parquet")
    reader = Reader(BUDGETS, {})
    for block in blocks_of(PAGE):
        if not block.title:
            reader.run(block)
    assert reader.used == set(BUDGETS)
    results = json.loads(Path("runs/cluster/results.json").read_text())
    assert {row["method"] for row in results["rows"]} >= {"softmax_gate", "ridge"}
    assert json.loads(Path("runs/cluster-tune/tuning.json").read_text())["counts"]["complete"] == 2
    assert Path("runs/cluster-tune/best.yaml").exists()
