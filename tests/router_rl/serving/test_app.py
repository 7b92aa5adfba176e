"""The endpoints: answers, streams, faults, outcomes, keys and limits, in front of a server that fails."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fault_server import FaultServer

# LiteLLM reads streams with a name that Pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")

PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"


@pytest.fixture(params=["direct", "litellm"])
def _both_ways(request: pytest.FixtureRequest, models: Path) -> None:
    """Call the models directly, or through LiteLLM, which alone knows a certain option."""
    if request.param == "litellm":
        unknown = "timeout: 2, options: {extra_body: {}}"
        models.write_text(models.read_text().replace("timeout: 2", unknown))


def _ranked(running: Any, prompt: str) -> list[str]:
    """The experts, the router's choice first."""
    scores = running.server.decider.decide(prompt).scores
    return sorted(scores, key=lambda name: -scores[name])


def words(text: str) -> str:
    """The content of a stream of server-sent events."""
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(
        each["delta"].get("content") or "" for chunk in chunks for each in chunk.get("choices", [])
    )


def test_the_router_chooses_and_the_log_says_why(serve: Callable[..., Any]) -> None:
    with serve() as running:
        plus, times = running.chat(PLUS, model="auto"), running.chat(TIMES)
        assert [each.json()["model"] for each in (plus, times)] == ["small", "large"]
        assert plus.json()["choices"][0]["message"]["content"] == "small answers in some words"
        rows = running.rows()
    assert [row["id"] for row in rows] == [each.headers["x-router-rl-decision"] for each in (plus, times)]
    row = rows[0]
    assert (row["expert"], row["propensity"], row["status"], row["requested"]) == ("small", 1.0, "ok", "auto")
    assert row["propensities"] == {"small": 1.0, "large": 0.0}
    assert row["cost_usd"] == pytest.approx((row["tokens_in"] * 0.1 + row["tokens_out"] * 0.4) / 1e6)
    assert row["prompt"] is None
    assert len(row["prompt_hash"]) == 64
    loaded = running.server.decider.live.router
    expected = loaded.rank(PLUS, None).features
    assert np.frombuffer(row["features"], dtype="<f4").tolist() == expected.tolist()


@pytest.mark.usefixtures("_both_ways")
def test_a_stream_is_passed_through_and_counted(serve: Callable[..., Any]) -> None:
    with serve() as running:
        got = running.chat(TIMES, stream=True)
        assert got.headers["content-type"].startswith("text/event-stream"), got.text
        assert words(got.text) == "large answers in some words "
        assert got.text.endswith("data: [DONE]\n\n")
        assert '"usage"' not in got.text
        asked = running.chat(TIMES, stream=True, stream_options={"include_usage": True})
        assert '"usage"' in asked.text
        rows = running.rows()
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[0]["tokens_out"] == 5
    assert rows[0]["first_token_s"] <= rows[0]["latency_s"]


@pytest.mark.usefixtures("_both_ways")
def test_the_openai_client_and_tools_work(serve: Callable[..., Any], backend: FaultServer) -> None:
    with serve() as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")
        tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        content: Any = [{"type": "text", "text": PLUS}, image]
        answer = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": content}], tools=tools, temperature=0.5
        )
        assert answer.choices[0].message.content == "small answers in some words"
        stream = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": TIMES}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert text == "large answers in some words "
        assert [each.id for each in client.models.list()] == ["auto", "small", "large"]
        client.close()
    sent = backend.requests[0]
    assert set(sent) <= {*("model", "messages", "tools", "temperature"), *("authorization", "time")}
    assert sent["tools"] == tools
    assert sent["messages"][0]["content"][1] == image
    assert sent["temperature"] == 0.5


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize(
    "fault",
    ["429", "500", "cut", "garbage", "hang", "silent", "drip", "drip_head", "empty", "error"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_next_best_answers_where_one_fails(
    serve: Callable[..., Any], backend: FaultServer, fault: str, stream: bool
) -> None:
    prompt = f"{PLUS} <<{fault}>>"
    with serve() as running:
        best, next_best = _ranked(running, prompt)
        backend.exempt.add(next_best)  # the faults of a prompt are those of every model
        began = time.monotonic()
        got = running.chat(prompt, stream=stream)
        assert time.monotonic() - began < 15.0  # the model's timeout is 2 s; its faults last 30 or more
        assert got.status_code == 200
        assert got.headers["x-router-rl-expert"] == next_best
        first, second = running.rows()
        assert (first["expert"], first["status"]) == (best, "failed")
        assert (second["expert"], second["status"], second["previous"]) == (next_best, "ok", first["id"])
        assert second["propensity"] == 1.0
        assert _ranked(running, PLUS)[0] == next_best  # the other one backs off


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_is_refused_is_not_tried_elsewhere(
    serve: Callable[..., Any], backend: FaultServer, stream: bool
) -> None:
    with serve() as running:
        got = running.chat(f"{PLUS} <<400>>", stream=stream)
        assert got.status_code == 400
        assert got.json()["error"]["type"] == "invalid_request_error"
        assert len(backend.requests) == 1
        assert [row["status"] for row in running.rows()] == ["failed"]
        assert running.chat(PLUS).headers["x-router-rl-expert"] == "small"
        assert running.chat(TIMES).headers["x-router-rl-expert"] == "large"  # neither failed


@pytest.mark.usefixtures("_both_ways")
def test_with_all_backends_down_the_reasons_are_said(serve: Callable[..., Any], backend: FaultServer) -> None:
    with serve() as running:
        backend.down = {"small", "large"}
        got = running.chat(PLUS)
        assert got.status_code == 503
        reasons = got.json()["error"]["reasons"]
        assert set(reasons) == {"small", "large"}
        assert all("503" in reason for reason in reasons.values())
        backend.down = set()
        assert running.chat(PLUS).status_code == 200


def test_a_backend_that_does_not_listen(
    serve: Callable[..., Any], backend: FaultServer, models: Path
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        models.write_text(models.read_text().replace(backend.url, nowhere, 1))
        with serve() as running:
            assert running.chat(PLUS).headers["x-router-rl-expert"] == "large"
            failed, answered = running.rows()
    assert (failed["expert"], failed["status"]) == ("small", "failed")
    assert (answered["status"], answered["previous"]) == ("ok", failed["id"])


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("fault", ["midcut", "stall", "trickle"])
def test_a_stream_that_is_cut_ends_with_an_error(serve: Callable[..., Any], fault: str) -> None:
    with serve() as running:
        prompt, began = f"{PLUS} <<{fault}>>", time.monotonic()
        got = running.chat(prompt, stream=True)
        assert time.monotonic() - began < 15.0  # the model's timeout is 2 s; a stall ends after 30
        assert "[DONE]" not in got.text
        assert f"the answer of {got.headers['x-router-rl-expert']} was interrupted" in got.text
        assert running.rows()[0]["status"] == "cut"
        assert _ranked(running, prompt)[0] != got.headers["x-router-rl-expert"]  # which backs off


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_waits_until_its_decision_is_in_the_log(serve: Callable[..., Any], stream: bool) -> None:
    with serve() as running:
        writer, may_write = running.server.writer, threading.Event()
        write = writer._write

        def when_allowed(*rows: Any) -> None:
            may_write.wait(10)
            write(*rows)

        writer._write = when_allowed
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(running.chat, PLUS, stream=stream)
            with pytest.raises(futures.TimeoutError):
                answer.result(0.5)
            may_write.set()
            got = answer.result(10)
        assert got.headers["x-router-rl-decision"] == running.rows()[0]["id"]


def test_a_client_that_leaves_is_logged(serve: Callable[..., Any], backend: FaultServer) -> None:
    backend.pace = 0.2
    with serve() as running:
        body = {"messages": [{"role": "user", "content": PLUS}], "stream": True}
        with running.http.stream("POST", "/v1/chat/completions", json=body) as response:
            next(response.iter_raw())
        for _ in range(200):
            rows = running.rows()
            if rows[0]["status"] != "started":
                break
        assert rows[0]["status"] == "gone"
        assert running.http.get("/v1/status").json()["queues"]["small"]["in_flight"] == 0
        deadline = time.monotonic() + 20
        while backend.working:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not backend.answered  # the model's stream was closed too


def test_outcomes_are_attached_once(serve: Callable[..., Any]) -> None:
    with serve() as running:
        decision = running.chat(PLUS).headers["x-router-rl-decision"]
        for body in ({"score": 0.25}, {"score": 0.25}, {"thumb": "up"}):
            assert running.http.post("/v1/outcomes", json={"decision": decision, **body}).status_code == 200
        assert [row["score"] for row in running.rows()] == [1.0]
        assert running.http.post("/v1/outcomes", json={"decision": "none", "score": 1}).status_code == 404
        for body in ({}, {"score": 2}, {"score": True}, {"thumb": "sideways"}, {"score": 1, "thumb": "up"}):
            got = running.http.post("/v1/outcomes", json={"decision": decision, **body})
            assert got.status_code == 400
            assert got.json()["error"]["param"] in ("score", "thumb")


def test_a_decision_alone_says_its_reasons_and_is_not_logged(serve: Callable[..., Any]) -> None:
    with serve(explore=0.2) as running:
        got = running.http.post("/v1/route", json={"prompt": PLUS}).json()
        assert got["expert"] == "small"
        small, large = got["experts"]
        assert (small["probability"], large["probability"]) == (0.9, 0.1)
        assert small["score"] > large["score"]
        assert small["expected_usd"] < large["expected_usd"]
        assert running.rows() == []


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (b"{", "body"),
        (b"[]", "body"),
        (rb'{"messages": [{"role": "user", "content": "\ud83d"}]}', "body"),
        (b"[" * 100_000, "body"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "user", "content": null}]}', "messages"),
        (b'{"messages": [{"role": "system", "content": "x"}]}', "messages"),
        (b'{"messages": ["x", {"role": "user", "content": "x"}]}', "messages"),
        (b'{"model": "unknown", "messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"stream": "yes", "messages": [{"role": "user", "content": "x"}]}', "stream"),
    ],
)
def test_a_bad_request_is_named(serve: Callable[..., Any], body: bytes, parameter: str) -> None:
    with serve() as running:
        got = running.http.post("/v1/chat/completions", content=body)
        assert got.status_code == 400
        assert got.json()["error"]["param"] == parameter
        assert not running.server.decider.breaker.excluded()  # no model is to blame


def test_a_named_model_answers_and_has_no_propensity(serve: Callable[..., Any]) -> None:
    with serve() as running:
        assert running.chat(PLUS, model="large").json()["model"] == "large"
        assert running.rows()[0]["propensity"] is None


def test_a_model_that_the_router_does_not_know_can_be_named(
    serve: Callable[..., Any], backend: FaultServer, models: Path
) -> None:
    third = f"  - {{name: third, model: openai/third, api_base: {backend.url}, price: {{output: 1}}}}\n"
    models.write_text(models.read_text() + third)
    with serve(sticky=1.0) as running:
        got = running.chat(PLUS, model="third", metadata={"session": "a"})
        assert got.json()["model"] == "third"
        assert running.chat(PLUS, metadata={"session": "a"}).json()["model"] == "small"
        failed = running.chat(f"{PLUS} <<500>>", model="third")
        assert failed.status_code == 503
        assert set(failed.json()["error"]["reasons"]) == {"third"}
        assert running.http.get("/v1/status").json()["queues"]["third"]["in_flight"] == 0


def test_keys_are_needed_and_never_shown(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, backend: FaultServer
) -> None:
    monkeypatch.setenv("MY_KEYS", "first-secret, second-secret")
    with serve(api_key_env="MY_KEYS") as running:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "first-secret"}):
            got = running.http.get("/v1/models", headers=headers)
            assert got.status_code == 401
            assert "secret" not in got.text
        for key in ("first-secret", "second-secret"):
            headers = {"authorization": f"Bearer {key}"}
            assert running.http.get("/v1/models", headers=headers).status_code == 200
            assert running.http.get("/metrics", headers=headers).status_code == 200
        page = running.http.get("/")
        assert page.status_code == 200
        assert "secret" not in page.text
        message = {"messages": [{"role": "user", "content": PLUS}]}
        running.http.post("/v1/chat/completions", json=message, headers=headers)
    assert all("secret" not in str(each["authorization"]) for each in backend.requests)


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_request_is_not_read(serve: Callable[..., Any], declared: bool) -> None:
    with serve(max_request_bytes=1000) as running:
        body = b"x" * 2000
        content: Any = body if declared else iter([body])
        assert running.http.post("/v1/chat/completions", content=content).status_code == 413


def test_no_other_origin_may_read_answers(serve: Callable[..., Any]) -> None:
    with serve() as running:
        got = running.http.get("/v1/models", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in got.headers


def test_metrics_count(serve: Callable[..., Any]) -> None:
    with serve() as running:
        running.chat(PLUS)
        text = running.http.get("/metrics").text
        assert 'router_rl_requests_total{expert="small",status="ok"} 1.0' in text
        status = running.http.get("/v1/status").json()
        assert status["experts"]["small"]["answered"] == 1
        assert status["reference"] == "large"
        assert status["reference_usd"] > status["usd"] > 0
        assert isinstance(httpx.get(f"{running.url}/healthz").json()["log"], str)


def test_no_full_collection_stops_the_answers(serve: Callable[..., Any]) -> None:
    with serve() as running:
        assert running.chat(PLUS).status_code == 200
        assert gc.get_freeze_count() > 10_000  # what the libraries hold is not looked at
    assert gc.get_freeze_count() == 0
