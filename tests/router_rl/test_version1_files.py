"""Files that version 1 wrote load with equal outputs: routers, policies, patches, runs, results and tables.

`tests/fixtures/version1/make.py` wrote them. Expert ids, actions and flags must be equal. Floats agree to
1e-6, or to a relative 1e-5, since another processor may sum float32 in another order.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

import train_router
from experts import DecisionLog, OutcomeTable
from router_rl.exports.transformers import apply_patch
from router_rl.reports.html_report import write_report
from router_rl.reports.terminal import results_view
from router_rl.routing import POLICIES, SCORERS, SELECTIONS, LiveQueues, Router, load
from router_rl.routing.policies.cascade_policy import CascadeView
from router_rl.studies.results_reader import read_results
from router_rl.studies.runs import read_run

FILES = Path(__file__).parents[1] / "fixtures" / "version1"
ROUTING = ("experts", "weights", "logits", "fallback")


def folders(kind: str, holding: str) -> list[str]:
    """Names of the fixtures of a kind that have a file; fail where there are none."""
    names = sorted(path.name for path in (FILES / kind).iterdir() if (path / holding).exists())
    assert names, f"no fixture of {kind} holds {holding}"
    return names


def agree(actual: Tensor, expected: Tensor, what: str) -> None:
    assert actual.dtype == expected.dtype, what
    if expected.is_floating_point():
        torch.testing.assert_close(
            actual, expected, atol=1e-6, rtol=1e-5, equal_nan=True, msg=lambda text: f"{what}: {text}"
        )
    else:
        assert actual.tolist() == expected.tolist(), what


def calls_of(path: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each recorded call: its name, and its arguments and results by name."""
    calls: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        call, name = key.split(".")
        calls.setdefault(call, {})[name] = value
    return iter(calls.items())


def replay(router: Router, call: Mapping[str, Tensor]) -> None:
    """Make a recorded call and compare what it returns."""
    if "compute_weight" in call:
        router = router.at(compute_weight=float(call["compute_weight"]))
    if "compute" in call:
        router = router.repriced(call["compute"].tolist())
    inputs = {name: call[name] for name in ("features", "state", "action_mask") if name in call}
    with torch.inference_mode():
        routing = router(**inputs)
    expected = [name for name in ROUTING if name in call]
    assert {"logits", "fallback"} <= set(expected)
    for name in expected:
        agree(getattr(routing, name), call[name], name)


def decides(policy: Any, call: Mapping[str, Tensor]) -> None:
    """Compare a policy's decisions on recorded observations, and the numbers behind them."""
    seen = call["observation"]
    step = policy.decide(seen)
    for field in step._fields:
        agree(getattr(step, field), call[field], field)
    seen = seen.nan_to_num(0.0)
    if policy.kind == "cascade":
        agree(policy(CascadeView.of(seen, len(policy.experts))), call["chance"], "chance")
        return
    for field in ("beliefs", "later"):
        agree(getattr(policy, field).prior(seen[:, : policy.features]), call[field], field)


def described(router: Router, folder: Path) -> None:
    """Compare a router's names, sizes and settings with its description."""
    description = json.loads((folder / "router.json").read_text(encoding="utf-8"))
    assert description["schema_version"] == 1
    assert list(router.experts) == description["experts"]
    assert router.features == description["features"]
    assert router.fallback == description["fallback"]
    assert router.stochastic == description["stochastic"]
    assert not router.training
    state = [[part.name, part.size, part.meaning, list(part.labels)] for part in router.state]
    assert state == [[p["name"], p["size"], p["meaning"], p.get("labels", [])] for p in description["state"]]
    allowed = None if router.allowed is None else router.allowed.tolist()
    assert allowed == description.get("allowed")


@pytest.mark.parametrize("name", folders("routers", "expected.safetensors"))
def test_a_router_chooses_as_before(name: str) -> None:
    folder = FILES / "routers" / name
    router = load(folder / "router")
    described(router, folder / "router")
    calls = dict(calls_of(folder / "expected.safetensors"))
    assert calls
    if not (folder / "prompts.json").exists():
        assert {"plain", "masked"} <= set(calls)
        for call in calls.values():
            replay(router, call)
            assert router.stochastic == ("experts" not in call)  # what is drawn is not recorded
        return
    texts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    for which, call in calls.items():
        groups = texts["groups"][which]
        assert router.text is not None
        agree(router.text(texts["prompts"], groups), call["features"], "features")
        routing = router.route(texts["prompts"], groups)
        for field in ROUTING:
            agree(getattr(routing, field), call[field], f"{which}.{field}")
        replay(router, call)


def test_every_scorer_rule_and_policy_of_version_1_has_a_fixture() -> None:
    descriptions = [
        json.loads(path.read_text(encoding="utf-8")) for path in (FILES / "routers").rglob("router.json")
    ]
    scorers = {"linear", "mlp", "constant", "conditioned", "priced", "knn", "hash", "queue"}
    rules = {"hard", "topk", "soft", "hierarchical", "adaptive_k", "expert_choice", "scored_topk"}
    assert {one["scorer"]["kind"] for one in descriptions} == scorers
    assert {one["select"]["rule"] for one in descriptions} == rules
    policies = [json.loads(path.read_text(encoding="utf-8")) for path in FILES.rglob("policy.json")]
    assert {one["kind"] for one in policies} == {"cascade", "caching"}
    # What version 1 could write can still be read; later versions may know more.
    assert scorers <= set(SCORERS)
    assert rules <= set(SELECTIONS)
    assert {"cascade", "caching"} <= set(POLICIES)


@pytest.mark.parametrize("name", folders("policies", "expected.safetensors"))
def test_a_policy_decides_as_before(name: str) -> None:
    folder = FILES / "policies" / name
    policy: Any = load(folder / "policy")
    ((_, call),) = calls_of(folder / "expected.safetensors")
    arguments = inspect.signature(policy.observe).parameters
    seen = policy.observe(**{key: call[key] for key in arguments})
    agree(seen, call["observation"], "observation")
    decides(policy, call)


def test_live_queues_route_as_before() -> None:
    router = load(FILES / "queues" / "router")
    recorded = json.loads((FILES / "queues" / "expected.json").read_text(encoding="utf-8"))
    assert set(recorded) == {"free", "budget"}
    for name, requests in recorded.items():
        queues = LiveQueues(router, budget=0.5, requests=6) if name == "budget" else LiveQueues(router)
        for request in requests:
            used, expected = request.pop("used"), {key: request.pop(key) for key in ("experts", "logits")}
            routing = queues.route(torch.tensor(request.pop("features")), **request)
            queues.used(used)
            assert routing.experts.tolist() == expected["experts"]
            agree(routing.logits, torch.tensor(expected["logits"]), "logits")


@pytest.mark.parametrize("form", folders("mixtures", "patch"))
def test_a_patch_changes_the_model_as_before(form: str, tmp_path: Path) -> None:
    folder = FILES / "mixtures" / form
    applied = apply_patch(folder / "patch", folder / "model", tmp_path / "patched").to_json()
    expected = json.loads((folder / "applied.json").read_text(encoding="utf-8"))
    config = json.loads((tmp_path / "patched" / "config.json").read_text(encoding="utf-8"))
    assert config["num_experts_per_tok"] == expected.pop("num_experts_per_tok")
    assert {key: json.loads(json.dumps(applied[key])) for key in expected} == expected
    before, after = weights_in(folder / "model"), weights_in(tmp_path / "patched")
    assert after.keys() == before.keys()
    changed = load_file(folder / "patched.safetensors")
    for name, value in after.items():
        assert value.equal(changed.get(name, before[name])), name
    assert any(not value.equal(before[name]) for name, value in changed.items())


@pytest.mark.parametrize("form", folders("mixtures", "patch"))
def test_handing_the_routers_over_gives_the_same_patch(form: str, tmp_path: Path) -> None:
    folder = FILES / "mixtures" / form
    routers = folder / ("routers.safetensors" if form == "bare" else "routers")
    run("handover", "--routers", routers, "--model", folder / "model", "--out", tmp_path / "patch")
    expected = load_file(folder / "patch" / "router_patch.safetensors")
    written = load_file(tmp_path / "patch" / "router_patch.safetensors")
    assert written.keys() == expected.keys()
    for name, value in expected.items():
        agree(written[name], value, name)


@pytest.mark.parametrize("name", folders("runs", "evaluated.json"))
def test_a_run_is_read_evaluated_and_exported_as_before(name: str, tmp_path: Path) -> None:
    folder = FILES / "runs" / name
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    loaded = read_run(folder)
    assert loaded.facts["method"] == facts["method"]
    assert asdict(loaded.objective) == renamed(facts["objective"])
    assert loaded.scale == facts["compute_unit"]
    call = load_file(folder / "routed.safetensors")
    described(loaded.router, folder / "router")
    replay(loaded.router, call)
    run("export", folder, "--out", tmp_path / "router")
    replay(load(tmp_path / "router"), call)

    expected = json.loads((folder / "evaluated.json").read_text(encoding="utf-8"))
    table = FILES / "tables" / ("prompts.parquet" if name == "prompts" else "outcomes.parquet")
    measured = run("evaluate", folder, "--table", table)
    for key, value in expected["test"].items():
        assert measured["test"][key] == pytest.approx(value, abs=1e-6), key
    for key in ("random_utility", "best_single_utility", "oracle_utility", "fallbacks"):
        assert measured[key] == pytest.approx(expected[key], abs=1e-6), key
    assert measured["best_single_expert"] == expected["best_single_expert"]


@pytest.mark.parametrize("name", folders("runs", "policy"))
def test_the_policy_of_a_run_on_an_environment_decides_as_before(name: str) -> None:
    folder = FILES / "runs" / name
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    problem = name.removeprefix("env_")
    assert facts["env"] == problem == read_run(folder).facts["problem"]["name"]
    with contextlib.redirect_stderr(io.StringIO()) as told:
        table = FILES / "tables" / "outcomes.parquet"
        assert train_router.main(["evaluate", str(folder), "--table", str(table)]) == 2
    assert f"kept no options of {problem}" in told.getvalue()
    if (folder / "policy" / "router.json").exists():
        router = load(folder / "policy")
        described(router, folder / "policy")
        replay(router, load_file(folder / "routed.safetensors"))
        return
    call = load_file(folder / "acted.safetensors")
    decides(load(folder / "policy"), call)


@pytest.mark.parametrize("name", folders("runs", "policy"))
def test_a_run_on_an_environment_can_be_exported(name: str, tmp_path: Path) -> None:
    folder = FILES / "runs" / name
    assert run("export", folder, "--out", tmp_path / "router")["passed"]
    if (folder / "routed.safetensors").exists():
        replay(load(tmp_path / "router"), load_file(folder / "routed.safetensors"))
    else:
        decides(load(tmp_path / "router"), load_file(folder / "acted.safetensors"))


@pytest.mark.parametrize("name", folders("results", "results.json"))
def test_results_are_shown_and_reported(name: str, tmp_path: Path) -> None:
    results = json.loads((FILES / "results" / name / "results.json").read_text(encoding="utf-8"))
    assert results["schema_version"] == 1
    console = Console(file=io.StringIO(), width=200)
    upgraded = read_results(results)
    console.print(results_view(upgraded))
    write_report(upgraded, tmp_path / "report.html")
    terminal = console.file.getvalue()  # type: ignore[attr-defined]
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert results["summary"]
    for row in results["summary"]:
        shown = [f"{row['utility_mean']:.{digits}f}" for digits in (3, 4)]
        lines = [line for line in terminal.splitlines() if row["method"] in line]
        assert any(utility in line for utility in shown for line in lines), row
        assert row["method"] in report
        assert any(utility.replace("-", "\N{MINUS SIGN}") in report for utility in shown), row


@pytest.mark.parametrize("name", ["outcomes", "prompts"])
def test_an_outcome_table_has_the_same_columns(name: str) -> None:
    expected = json.loads((FILES / "tables" / f"{name}.json").read_text(encoding="utf-8"))
    table = OutcomeTable.read(FILES / "tables" / f"{name}.parquet")
    extra = expected.pop("extra")
    assert (None if table.extra is None else table.extra.to_pydict()) == extra
    same_columns(table, expected)


def test_a_decision_log_has_the_same_columns() -> None:
    expected = json.loads((FILES / "tables" / "decisions.json").read_text(encoding="utf-8"))
    log = DecisionLog.read(FILES / "tables" / "decisions.parquet", expected["experts"])
    same_columns(log, expected)


def same_columns(holder: Any, expected: Mapping[str, Any]) -> None:
    """Compare each column with its JSON form, to the bit; NaN equals NaN."""
    for name, value in expected.items():
        column = getattr(holder, name)
        if isinstance(column, np.ndarray):
            np.testing.assert_array_equal(column, np.asarray(value, dtype=column.dtype), err_msg=name)
        else:
            assert (list(column) if isinstance(column, tuple) else column) == value, name


def renamed(objective: Mapping[str, Any]) -> dict[str, Any]:
    """An objective of version 1 under the names of version 2."""
    return {"max_cost" if name == "limit" else name: value for name, value in objective.items()}


def weights_in(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: value for path in files for name, value in load_file(path).items()}


def run(*words: object) -> dict[str, Any]:
    """Run the command line; what `--json` printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = train_router.main([*map(str, words), "--json"])
    assert status == 0, words
    return json.loads(printed.getvalue())
