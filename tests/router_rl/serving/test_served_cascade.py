"""A cascade policy in a server: it asks models, compares their answers, and returns one of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fault_server import FaultServer

from experts import InputError, OutcomeTable
from experts.llm.scoring import READERS
from experts.table.prices import Price
from router_rl import CascadeProblem
from router_rl.exports.policy_files import write_policy
from router_rl.methods.cascade.cascade_training import ExactPGHyperparameters, fit_exact_pg
from router_rl.methods.method import Run
from router_rl.routing.policies.cascade_policy import CascadePolicy
from router_rl.routing.policies.cascade_router import cascade_router
from router_rl.serving.decider import Decider
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.served_queues import ServedQueues

FEW = ExactPGHyperparameters(steps=40, members=2, hidden=16)
EXPERTS = ("one", "two", "large")
PRICES = {
    name: Price(input=price, output=price) for name, price in zip(EXPERTS, (1.0, 1.5, 20.0), strict=True)
}
EASY, HARD = "What is 3 plus 4?", "What is 3 times 4?"


def answered() -> OutcomeTable:
    """Return a table: the cheap models agree where they are right, and differ where they are not."""
    rng = np.random.default_rng(0)
    easy = rng.random(200) < 0.6
    texts = {
        "one": np.where(easy, "7", "1"),
        "two": np.where(easy, "7", "2"),
        "large": np.where(easy, "7", "12"),
    }
    return OutcomeTable(
        experts=EXPERTS,
        query_id=range(200),
        prompt=np.array(
            [f"What is {row} {'plus' if one else 'times'} 4?" for row, one in enumerate(easy)], dtype=object
        ),
        features=None,
        quality=np.column_stack([easy, easy, np.ones(200)]),
        cost=np.tile([0.05, 0.06, 1.0], (200, 1)),
        extra=pa.table({f"answer/{name}": list(map(str, text)) for name, text in texts.items()}),
        split=["train"] * 120 + ["validation"] * 40 + ["test"] * 40,
    )


def trained(**options: Any) -> CascadePolicy:
    return of(CascadeProblem(answered(), **options))


def of(problem: CascadeProblem) -> CascadePolicy:
    policy = fit_exact_pg(problem, FEW, Run(seed=0)).module
    policy.text = problem.text
    return policy


@pytest.fixture(scope="module")
def policy() -> CascadePolicy:
    """Return a policy that does not observe the query: the large model is for cheap ones that differ."""
    return trained(use_features=False)


@pytest.fixture(scope="module")
def cascade(policy: CascadePolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routers") / "cascade"
    write_policy(policy, folder)
    return folder


@pytest.fixture
def three(backend: FaultServer, tmp_path: Path) -> Path:
    """Return the list of the three models, which answer as in the table."""
    easy, hard = dict.fromkeys(EXPERTS, "It is 7."), dict(zip(EXPERTS, ("1", "2", "It is 12."), strict=True))
    backend.answer = lambda model, prompt: (easy if "plus" in prompt else hard)[model]
    lines = [
        f"  - {{name: {name}, model: openai/{name}, api_base: {backend.url}, timeout: 2, "
        f"price: {{input: {price.input}, output: {price.output}}}}}"
        for name, price in PRICES.items()
    ]
    path = tmp_path / "three.yaml"
    path.write_text("models:\n" + "\n".join(lines) + "\n")
    return path


def decider_of(folder: Path, weight: float | None = 0.1, **options: Any) -> Decider:
    live = Live(LoadedRouter.of(folder))
    return Decider(live, PRICES, queues=ServedQueues(), compute_weight=weight, **options)


def played(decider: Decider, texts: dict[str, str | None], prompt: str = EASY) -> list[str]:
    """Return the models that are asked, and then the one whose answer is returned."""
    asked: dict[str, str | None] = {}
    for _ in EXPERTS:
        decision = decider.decide(prompt, answers=asked)
        if decision.returns is not None:
            break
        assert decision.propensities[decision.expert] == 1.0
        asked[decision.expert] = texts[decision.expert]
    decision = decider.decide(prompt, answers=asked)
    assert decision.cascades
    assert decision.returns in asked
    return [*asked, str(decision.returns)]


def test_it_steps_as_the_policy_does_on_the_answers_of_the_table(
    policy: CascadePolicy, cascade: Path
) -> None:
    problem = CascadeProblem(answered(), use_features=False)
    table = problem.table
    decider = decider_of(cascade)
    for row in (
        int(np.flatnonzero(table.quality[:, 0])[0]),
        int(np.flatnonzero(table.quality[:, 0] == 0)[0]),
    ):
        texts = {name: str(table.extra[f"answer/{name}"][row]) for name in EXPERTS}
        numbers = torch.tensor([[sorted(set(texts.values())).index(texts[name]) for name in EXPERTS]])
        confidence, steps = torch.full((1, 3), float("nan")), list[str]()
        while True:
            observation = policy.observe(torch.zeros(1, 1), confidence, numbers, compute_weight=0.1)
            step = policy.decide(observation)
            steps.append(EXPERTS[int(step.ask if step.ask >= 0 else step.answer)])
            if step.ask < 0:
                break
            confidence[0, step.ask] = 0.5
        assert played(decider, texts) == steps
    assert played(decider, dict.fromkeys(EXPERTS, "7"))[:-1] == ["one", "two"]
    assert played(decider, {"one": "1", "two": "2", "large": "12"}) == ["one", "two", "large", "large"]
    assert played(decider, {"one": None, "two": None, "large": "12"})[-1] == "large"  # they do not agree


def test_a_policy_that_reads_prompts_goes_by_them(tmp_path: Path) -> None:
    write_policy(trained(), tmp_path / "seeing")
    decider = decider_of(tmp_path / "seeing")
    assert played(decider, {"one": "1", "two": "2", "large": "12"}, HARD) == ["large", "large"]
    assert played(decider, dict.fromkeys(EXPERTS, "7"), EASY) == ["one", "one"]


def test_models_that_are_down_are_not_asked(cascade: Path) -> None:
    decider = decider_of(cascade)
    decider.breaker.failed("two")
    assert "two" not in played(decider, {"one": "1", "large": "12"})
    decision = decider.decide(EASY, failed=["large"], answers={"one": "1"})
    assert decision.returns == "one"  # nothing else can be asked


def test_the_router_has_the_policy_s_first_choice(policy: CascadePolicy) -> None:
    router = cascade_router(policy)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        asked = torch.rand(64, 3, generator=generator) < 0.4
        confidence = torch.where(asked, 0.5, float("nan"))
        numbers = torch.randint(0, 2, (64, 3), generator=generator)
        weight = torch.rand(64, generator=generator)
        observation = policy.observe(torch.zeros(64, 1), confidence, numbers, compute_weight=weight)
        asks = policy.decide(observation).ask
        assert router.act(observation)[asks >= 0].equal(asks[asks >= 0])


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_asks_until_the_answers_agree(
    serve: Callable[..., Any], cascade: Path, three: Path, stream: bool
) -> None:
    options = {"compute_weight": 0.1, "answers": "numeric"}
    with serve(cascade, three, **options) as running:
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        easy, hard = running.chat(EASY, **more), running.chat(HARD, **more)
        rows = running.rows()
        for got, expert, text in ((easy, ("one", "two"), "It is 7."), (hard, ("large",), "It is 12.")):
            assert got.status_code == 200
            assert got.headers["x-router-rl-expert"] in expert
            if stream:
                events = [line[6:] for line in got.text.splitlines() if line.startswith("data: ")]
                assert events[-1] == "[DONE]"
                chunks = [json.loads(each) for each in events[:-1]]
                assert {each["object"] for each in chunks} == {"chat.completion.chunk"}
                assert chunks[0]["choices"][0]["delta"]["content"] == text
                assert chunks[-1]["usage"]["completion_tokens"] > 0
            else:
                assert got.json()["choices"][0]["message"]["content"] == text
        assert [(row["expert"], row["status"]) for row in rows] == [
            (name, "ok") for name in ("one", "two", "one", "two", "large")
        ]
        assert [row["previous"] for row in rows] == [None, rows[0]["id"], None, rows[2]["id"], rows[3]["id"]]
        assert hard.headers["x-router-rl-decision"] == rows[-1]["id"]
        assert rows[-1]["cost_usd"] > 0
        assert not any(each["in_flight"] for each in running.server.decider.queue_status().values())
        body = {"decision": rows[-1]["id"], "score": 1}
        assert running.http.post("/v1/outcomes", json=body).status_code == 200


def test_a_failure_on_the_way_is_not_one_of_the_request(
    serve: Callable[..., Any], cascade: Path, three: Path, backend: FaultServer
) -> None:
    with serve(cascade, three, compute_weight=0.1, answers="numeric") as running:
        backend.down = {"two", "large"}
        got = running.chat(HARD)
        assert got.status_code == 200
        assert got.json()["model"] == "one"
        backend.down = set(EXPERTS)
        assert running.chat(HARD).status_code == 503


def test_a_model_that_refuses_the_request_after_another_answered_is_left_out(
    serve: Callable[..., Any], cascade: Path, three: Path, backend: FaultServer
) -> None:
    backend.exempt = {"one", "large"}
    with serve(cascade, three, compute_weight=0.1, answers="numeric") as running:
        got = running.chat(f"{HARD} <<400>>")
        assert got.status_code == 200
        assert [(row["expert"], row["status"]) for row in running.rows()][:2] == [
            ("one", "ok"),
            ("two", "failed"),
        ]


def test_what_is_refused(cascade: Path) -> None:
    with pytest.raises(InputError, match=r"serve.compute_weight.*decides at a compute weight"):
        decider_of(cascade, None)
    with pytest.raises(InputError, match="is a cascade policy, which has no probabilities of choices"):
        decider_of(cascade, explore=0.1)
    loaded = LoadedRouter.of(cascade)
    with pytest.raises(InputError, match="is a cascade policy"):
        Decider(Live(loaded, shadow=loaded), PRICES, queues=ServedQueues(), compute_weight=0.1)
    with pytest.raises(InputError, match="asks several models about a request"):
        Decider(Live(loaded), PRICES, compute_weight=0.1)


def test_policies_that_need_more_than_requests_and_answers_are_refused(
    policy: CascadePolicy, tmp_path: Path
) -> None:
    def refused(other: CascadePolicy, reason: str) -> None:
        write_policy(other, tmp_path / reason)
        with pytest.raises(InputError, match=reason):
            LoadedRouter.of(tmp_path / reason)

    confident, reading = copy.deepcopy(policy), copy.deepcopy(policy)
    confident.beliefs.calibration[0, 0] = 0.5
    refused(confident, "reads confidences, which chat completions do not have")
    reading.beliefs.scale[0] = 1.0
    refused(reading, "reads features, not prompts")


def test_what_is_read_of_an_answer() -> None:
    assert READERS["numeric"]("So it is 1,200.0 in all.") == READERS["numeric"]("#### 1200")
    assert READERS["numeric"]("none") is None
    assert READERS["multiple_choice"]("the answer is (b)") == READERS["multiple_choice"]("B.")
    assert READERS["exact_match"](" Paris. ") == READERS["exact_match"]("paris")
    assert READERS["exact_match"]("  ") is None
