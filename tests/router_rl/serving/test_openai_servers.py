"""Servers of the OpenAI protocol: which are called directly, what is passed, and what is no answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from experts.llm.asking import FaultyAnswerError, failure_of
from experts.llm.endpoints import Endpoint
from router_rl.serving.openai_servers import OpenAIServers, StatusError, speaks_openai

WHOLE = {"choices": [{"message": {"content": "four"}, "finish_reason": "stop"}]}
PIECE = {"choices": [{"delta": {"content": "four"}}]}
LAST = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


class Canned:
    """A server that sends what a test gives it, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status, self.kind, self.content = 200, "application/json", b""
        self.headers: dict[str, str] = {}
        self.pace = 0.0  # seconds between two bytes
        self.sent: list[tuple[str, dict[str, str], Any]] = []
        self.clients: set[Any] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.sent.append((self.path, {**self.headers}, body))
                outer.clients.add(self.client_address)
                self.send_response(outer.status)
                length = {"content-length": str(len(outer.content)), "content-type": outer.kind}
                for name, value in {**length, **outer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(ConnectionError):  # the client may leave
                    for at in range(len(outer.content) if outer.pace else 0):
                        self.wfile.write(outer.content[at : at + 1])
                        time.sleep(outer.pace)
                    self.wfile.write(b"" if outer.pace else outer.content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def ask(canned: Canned) -> Callable[..., Any]:
    """Return a function that asks for an answer, or for the chunks of a stream, some times."""

    def run(stream: bool = False, times: int = 1, **fields: Any) -> Any:
        async def work() -> Any:
            endpoint = Endpoint(name="small", model="openai/org/small", api_base=f"{canned.url}/", timeout=1)
            servers = OpenAIServers([endpoint])
            try:
                for _ in range(times):
                    if stream:
                        got: Any = [chunk async for chunk in servers.stream("small", fields)]
                    else:
                        got = await servers.answer("small", fields)
                return got
            finally:
                await servers.close()

        return asyncio.run(work())

    return run


def events(*chunks: Any, done: bool = True) -> bytes:
    texts = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {text}\n\n" for text in [*texts, *(["[DONE]"] if done else [])]).encode()


def test_the_request_and_the_answer_are_passed_as_they_are(canned: Canned, ask: Callable[..., Any]) -> None:
    canned.content = json.dumps({**WHOLE, "its_own": [1, None]}).encode()
    canned.headers = {"set-cookie": "session=1"}
    messages = [{"role": "user", "content": "2+2?"}]
    assert ask(times=3, messages=messages, top_p=0.5) == {**WHOLE, "its_own": [1, None]}
    path, headers, body = canned.sent[-1]
    assert path == "/v1/chat/completions"
    assert body == {"model": "org/small", "messages": messages, "top_p": 0.5}
    assert headers["authorization"] == "Bearer none"
    assert "cookie" not in {name.lower() for name in headers}
    assert len(canned.clients) == 1  # one connection


def test_a_stream_is_passed_as_it_is(canned: Canned, ask: Callable[..., Any]) -> None:
    canned.kind, canned.content = "text/event-stream", events(PIECE, LAST)
    assert ask(stream=True, times=3) == [PIECE, LAST]
    assert canned.sent[-1][2]["stream"] is True
    assert len(canned.clients) == 1
    canned.content = events(PIECE, LAST, done=False)  # some servers send no DONE
    assert ask(stream=True) == [PIECE, LAST]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b'{"choices": [{"mess',
        b'{"choices": []}',
        b'{"choices": ["four"]}',
        b'{"choices": [{"text": "four"}]}',
        b'{"choices": [{"message": {"content": NaN}}]}',
        b'{"error": {"message": "overloaded", "code": 401}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_answer_is_refused(canned: Canned, ask: Callable[..., Any], content: bytes) -> None:
    canned.content = content
    for stream in (False, True):
        with pytest.raises(FaultyAnswerError) as caught:
            ask(stream=stream)
        assert failure_of(caught.value).again


@pytest.mark.parametrize(
    "content",
    [
        events(PIECE, '{"choices": [{"del'),
        events(PIECE, {"error": {"message": "out of memory"}}, LAST),
        events(PIECE, "[1]"),
        events(PIECE, done=False),
        b"",
    ],
)
def test_a_stream_that_breaks_off_is_noticed(canned: Canned, ask: Callable[..., Any], content: bytes) -> None:
    canned.kind, canned.content = "text/event-stream", content
    with pytest.raises(FaultyAnswerError):
        ask(stream=True)


def test_a_chunk_that_comes_slowly_takes_too_long(canned: Canned, ask: Callable[..., Any]) -> None:
    canned.kind, canned.content, canned.pace = "text/event-stream", events(PIECE, LAST), 0.1
    began = time.perf_counter()
    with pytest.raises(asyncio.TimeoutError):
        ask(stream=True)
    assert 1.0 <= time.perf_counter() - began < 4.0


@pytest.mark.parametrize(("status", "again"), [(400, False), (429, True), (500, True), (307, True)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_status_is_an_error_with_its_reason(
    canned: Canned, ask: Callable[..., Any], status: int, again: bool, stream: bool
) -> None:
    canned.status, canned.headers = status, {"Retry-After": "7", "Location": canned.url}
    canned.content = json.dumps({"error": {"message": "made to fail"}}).encode()
    with pytest.raises(StatusError) as caught:
        ask(stream=stream)
    failure = failure_of(caught.value)
    assert (failure.again, failure.wait_s) == (again, 7.0)
    assert failure.failed == f"StatusError: {status}: made to fail"
    assert len(canned.sent) == 1


@pytest.mark.parametrize(
    ("changes", "direct"),
    [
        ({}, True),
        ({"model": "hosted_vllm/small"}, True),
        ({"options": {"temperature": 0}}, True),
        ({"options": {"extra_headers": {"x": "y"}}}, False),
        ({"model": "anthropic/small"}, False),
        ({"model": "openai/responses/small"}, False),
        ({"api_base": None}, False),
        ({"api_base": "https://models.example/v1"}, False),
    ],
)
def test_which_servers_are_called_directly(changes: dict[str, Any], direct: bool) -> None:
    fields = {"model": "openai/small", "api_base": "http://models.example/v1", **changes}
    assert speaks_openai(Endpoint(name="small", **fields), ["temperature"]) is direct


def test_what_is_behind_a_proxy_is_left_to_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    for host, direct in (("near.example", True), ("far.example", False)):
        endpoint = Endpoint(name="small", model="openai/small", api_base=f"http://{host}/v1")
        assert speaks_openai(endpoint, []) is direct
