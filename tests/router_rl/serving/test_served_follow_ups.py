"""A cascade policy that asks again and verifies: served, it does what it does in the environment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fault_server import FaultServer

from experts import InputError, OutcomeTable
from experts.llm.endpoints import read_models
from experts.table.follow_ups import call_of
from router_rl import CascadeProblem, Objective
from router_rl.exports.policy_files import write_policy
from router_rl.methods.cascade.cascade_training import ExactPGHyperparameters, fit_exact_pg
from router_rl.methods.method import Run
from router_rl.problems.cascade.cascade_episodes import run_episodes
from router_rl.routing.policies.cascade_policy import CascadePolicy
from router_rl.routing.policies.cascade_router import cascade_state
from router_rl.serving.called_models import CalledModels, NoVerdictError
from router_rl.serving.chat_request import ChatRequest
from router_rl.serving.loaded_router import LoadedRouter

EXPERTS = ("one", "large", "one#2", "one?check", "one#2?check")
WEIGHT = 0.1
FEW = ExactPGHyperparameters(steps=60, members=2, hidden=16)
ROWS = 400


def outcomes() -> OutcomeTable:
    """Return a table: verdicts of 0.9 and 0.1 are right, after 0.5 another sample tells more."""
    rng = np.random.default_rng(1)
    right = rng.random(ROWS) < 0.6
    sure = rng.random((ROWS, 2)) < 0.6
    verdict = np.where(sure, np.where(right, 0.9, 0.1)[:, None], 0.5)
    second = right & (rng.random(ROWS) < 0.95)
    texts = {
        "one": np.where(right, "7", "1"),
        "large": np.where(rng.random(ROWS) < 0.97, "7", "3"),
        "one#2": np.where(second, "7", "2"),
    }
    texts["one"][:20] = ""  # answers that cannot be read
    texts |= {"one?check": texts["one"], "one#2?check": texts["one#2"]}
    quality = np.column_stack([texts[name] == "7" for name in EXPERTS])
    confidence = np.full((ROWS, 5), 0.5, dtype=np.float32)
    confidence[:, 3:] = verdict
    return OutcomeTable(
        experts=EXPERTS,
        query_id=range(ROWS),
        prompt=np.array([f"What is query {row}?" for row in range(ROWS)], dtype=object),
        features=None,
        quality=quality,
        cost=np.tile([0.05, 1.0, 0.05, 0.01, 0.01], (ROWS, 1)),
        confidence=confidence,
        extra=pa.table({f"answer/{name}": list(map(str, text)) for name, text in texts.items()}),
        split=np.resize(["train", "train", "validation", "test"], ROWS),
    )


@pytest.fixture(scope="module")
def problem() -> CascadeProblem:
    return CascadeProblem(outcomes(), Objective(compute_weight=WEIGHT), use_features=False, max_experts=4)


@pytest.fixture(scope="module")
def policy(problem: CascadeProblem) -> CascadePolicy:
    return fit_exact_pg(problem, FEW, Run(seed=0)).module


@pytest.fixture(scope="module")
def cascade(policy: CascadePolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routers") / "verifying"
    write_policy(policy, folder)
    return folder


def model_list(
    url: str = "http://127.0.0.1:9/v1",
    *,
    options: str = ", options: {temperature: 0.7}",
    verifiers: str | None = None,
) -> str:
    """Return a model list; `one` has a temperature, and `check` is a verifier."""
    server = f"api_base: {url}, timeout: 2"
    check = f"  - {{name: check, model: openai/check, {server}, price: {{call: 0.000002}}}}"
    verifiers = f"verifiers:\n{check}" if verifiers is None else verifiers
    return f"""models:
  - {{name: one, model: openai/one, {server}, price: {{call: 0.00001}}{options}}}
  - {{name: large, model: openai/large, {server}, price: {{call: 0.0002}}}}
{verifiers}
"""


def called(cascade: Path, tmp_path: Path, **changes: Any) -> CalledModels:
    path = tmp_path / "models.yaml"
    path.write_text(model_list(**changes))
    return CalledModels(read_models(path), LoadedRouter.of(cascade))


def test_the_policy_needs_all_that_is_tested_here(problem: CascadeProblem, policy: CascadePolicy) -> None:
    assert problem.agreement_beliefs
    rows = torch.arange(problem.rows("test").outcomes.queries)
    steps = run_episodes(policy, problem.rows("test"), problem.config, WEIGHT, rows).steps
    paths = Counter(tuple(step for step in row if step >= 0) for row in steps.tolist())
    asked = {step for path in paths for step in path}
    assert {0, 1, 2, 3} <= asked
    assert len(paths) >= 4


def test_observations_are_those_of_the_environment(problem: CascadeProblem, policy: CascadePolicy) -> None:
    table = problem.table.part("test")
    assert table.confidence is not None
    assert table.extra is not None
    texts = {name: table.extra[f"answer/{name}"].to_pylist() for name in EXPERTS}
    generator = torch.Generator().manual_seed(0)
    core = problem.core("test", problem.case, lanes=1, seed=0)
    for row in range(40):
        core.begin(torch.tensor([row]), WEIGHT)
        answers: dict[str, str | float | None] = {}
        for _ in range(4):
            may = torch.ones(5, dtype=torch.bool)
            state = cascade_state(policy, answers, WEIGHT, may)
            assert state.equal(core.observation()[:, policy.features :])
            valid = core.action_mask()[0, :5].nonzero()[:, 0]
            step = int(valid[torch.randint(len(valid), (1,), generator=generator)])
            verdict = float(table.confidence[row, step])
            text = texts[EXPERTS[step]][row] or None
            answers[EXPERTS[step]] = text if call_of(EXPERTS[step], EXPERTS).verifies is None else verdict
            core.step(torch.tensor([step]))


class Played:
    """Answers as in the rows of a table; a second request for a prompt gets the second sample.

    Every answer names its column, which verifiers are asked about, and ends in the number that is compared.
    """

    def __init__(self, table: OutcomeTable) -> None:
        assert table.extra is not None
        assert table.prompt is not None
        assert table.confidence is not None
        self.texts = {name: table.extra[f"answer/{name}"].to_pylist() for name in EXPERTS}
        self.confidence = table.confidence
        self.row = {prompt: row for row, prompt in enumerate(table.prompt)}
        self.samples = Counter[str]()

    def __call__(self, model: str, prompt: str) -> str:
        if model == "check":
            asked = next(each for each in self.row if f"<question>\n{each}\n</question>" in prompt)
            row = self.row[asked]
            column = next(each for each in ("one", "one#2") if self._text(each, row) in prompt)
            assert f"<answer>\n{self._text(column, row)}\n</answer>" in prompt
            return f"I say {10 * self.confidence[row, EXPERTS.index(f'{column}?check')]:.6f} out of 10"
        if model == "one":
            self.samples[prompt] += 1
        column = "one#2" if model == "one" and self.samples[prompt] == 2 else model
        return self._text(column, self.row[prompt])

    def _text(self, column: str, row: int) -> str:
        return f"The {column.replace('#2', ' again')} says: {self.texts[column][row] or ''}"


@pytest.mark.slow
def test_a_served_policy_calls_what_the_environment_charges(
    serve: Callable[..., Any],
    problem: CascadeProblem,
    policy: CascadePolicy,
    cascade: Path,
    backend: FaultServer,
    tmp_path: Path,
) -> None:
    table = problem.table.part("test")
    assert table.prompt is not None
    backend.answer = Played(table)
    listed = tmp_path / "listed.yaml"
    listed.write_text(model_list(backend.url))
    queries = torch.arange(24)
    expected = run_episodes(policy, problem.rows("test"), problem.config, WEIGHT, queries)
    usd = {"one": 1e-5, "large": 2e-4, "one#2": 1e-5, "one?check": 2e-6, "one#2?check": 2e-6}
    seen = 0
    with serve(cascade, listed, compute_weight=WEIGHT, answers="numeric") as running:
        for row, steps in enumerate(expected.steps.tolist()):
            got = running.chat(table.prompt[row], temperature=0.0, seed=11)
            assert got.status_code == 200
            rows = running.rows()[seen:]
            seen += len(rows)
            *asked, last = [step for step in steps if step >= 0]
            assert [each["expert"] for each in rows] == [EXPERTS[step] for step in asked]
            answering = {3: "one", 4: "one#2"}.get(last - 5, EXPERTS[last - 5])
            assert got.headers["x-router-rl-expert"] == answering
            decision = next(each["id"] for each in rows if each["expert"] == answering)
            assert got.headers["x-router-rl-decision"] == decision
            content = got.json()["choices"][0]["message"]["content"]
            assert float(content.endswith(": 7")) == float(expected.quality[row])
            assert sum(each["cost_usd"] for each in rows) == pytest.approx(
                sum(usd[EXPERTS[step]] for step in asked)
            )
            assert all(each["status"] == "ok" for each in rows)
        status = running.http.get("/v1/status").json()
        assert status["usd"] == pytest.approx(sum(each["cost_usd"] for each in running.rows()))
        assert status["experts"]["one?check"]["answered"] > 0
        assert set(status["queues"]) == {"one", "large", "check"}
        assert not any(each["in_flight"] for each in status["queues"].values())
        assert {each["id"] for each in running.http.get("/v1/models").json()["data"]} == {
            *("auto", "one", "large")
        }
        route = running.http.post("/v1/route", json={"prompt": table.prompt[0]}).json()
        assert route["expert"] == "one"
        assert {each["expert"]: each["excluded"] for each in route["experts"]} == {
            "one": None,
            "large": None,
            "one#2": "follows an answer",
            "one?check": "follows an answer",
            "one#2?check": "follows an answer",
        }
        assert running.chat("x", model="one?check").status_code == 400
        assert running.chat("x", model="check").status_code == 400
        # What the most expensive model would have cost is counted once a request.
        assert status["reference_usd"] == pytest.approx(24 * usd["large"])
    bodies = [each for each in backend.requests if each["model"] == "one"]
    again = [each for each in bodies if each["seed"] == 12]
    assert again
    assert all(each["temperature"] == 0.7 for each in again)
    assert all(each["temperature"] == 0.0 for each in bodies if each["seed"] == 11)
    assert all("seed" not in each for each in backend.requests if each["model"] == "check")


def test_a_verifier_without_a_verdict_is_paid_for_and_left_out(
    serve: Callable[..., Any], cascade: Path, backend: FaultServer, tmp_path: Path
) -> None:
    backend.answer = lambda model, prompt: "certainly" if model == "check" else "7"
    listed = tmp_path / "listed.yaml"
    listed.write_text(model_list(backend.url))
    with serve(cascade, listed, compute_weight=WEIGHT) as running:
        got = running.chat("What is query 0?")
        assert got.status_code == 200
        rows = running.rows()
        failed = [each for each in rows if each["status"] == "failed"]
        assert failed
        for each in failed:
            assert call_of(each["expert"], EXPERTS).model == "check"
            assert each["error"] == "NoVerdictError: the reply has no verdict"
            assert each["cost_usd"] == pytest.approx(2e-6)
        assert len({each["expert"] for each in rows}) == len(rows)  # nothing is asked twice
        excluded = running.server.decider.queue_status()
        assert excluded["check"]["excluded"] is None


def test_a_model_that_fails_backs_off_with_its_further_samples(
    serve: Callable[..., Any], cascade: Path, backend: FaultServer, tmp_path: Path
) -> None:
    backend.answer = lambda model, prompt: "7"
    backend.down = {"check", "one"}
    listed = tmp_path / "listed.yaml"
    listed.write_text(model_list(backend.url))
    with serve(cascade, listed, compute_weight=WEIGHT) as running:
        assert running.chat("What is query 0?").json()["model"] == "large"
        breaker = running.server.decider.breaker
        assert set(breaker.excluded()) == {"one", "one#2"}
        assert running.server.decider.queue_status()["one"]["excluded"] == "failed recently"
        backend.down = {"one", "large"}
        assert running.chat("What is query 1?").status_code == 503  # no verifier is asked about no answer
        assert not any(each["model"] == "check" for each in backend.requests)
        assert {each["expert"] for each in running.rows()} <= {"one", "large"}


def test_requests_of_further_samples_and_verifiers(cascade: Path, tmp_path: Path) -> None:
    models = called(cascade, tmp_path, options=", options: {temperature: 0.7, seed: 5}")
    request = ChatRequest.of({"messages": [{"role": "user", "content": "2 + 2 {answer}"}], "tools": []})
    answers = {"one": {"choices": [{"message": {"content": "4"}}]}}
    assert models.request("one", request, {}) is request
    assert models.request("one#2", request, answers).rest == {"tools": [], "seed": 6}
    warm = replace(request, rest={"temperature": 1.2})
    assert models.request("one#2", warm, answers).rest == {"temperature": 1.2, "seed": 6}
    verification = models.request("one?check", replace(request, stream=True), answers)
    assert verification.rest == {}
    assert not verification.stream
    assert "<question>\n2 + 2 {answer}\n</question>" in verification.prompt
    assert "<answer>\n4\n</answer>" in verification.messages[0]["content"]
    silent = {"one": {"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}}
    assert "<answer>\n\n</answer>" in models.request("one?check", request, silent).prompt
    reply = {"choices": [{"message": {"content": "Grade: 7"}}]}
    assert models.verdict("one?check", reply) == 0.7
    assert models.verdict("one", reply) is None
    with pytest.raises(NoVerdictError):
        models.verdict("one?check", {"choices": [{"message": {"content": "70"}}]})
    assert models.answered_by("one#2?check") == "one#2"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"options": ""}, r"models.one.options.temperature.*another sample"),
        ({"options": ", options: {temperature: 0}"}, r"models.one.options.temperature.*above 0"),
        ({"verifiers": ""}, r"verifiers.*'check'.*no verifier of the model list \(none\)"),
    ],
)
def test_what_a_model_list_needs(cascade: Path, tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        called(cascade, tmp_path, **changes)


def test_confidences_of_answers_are_still_refused(policy: CascadePolicy, tmp_path: Path) -> None:
    written = tmp_path / "confident"
    write_policy(policy, written)
    assert LoadedRouter.of(written).experts == EXPERTS
    other = CascadePolicy.from_spec(json.loads(json.dumps(policy.spec())))
    other.load_state_dict(policy.state_dict())
    with torch.no_grad():
        other.beliefs.calibration[2, 0] = 0.5
    write_policy(other, tmp_path / "other")
    with pytest.raises(InputError, match="reads confidences, which chat completions do not have"):
        LoadedRouter.of(tmp_path / "other")
