"""A small server of the OpenAI chat protocol on this machine that fails as real ones do, on command.

A prompt may end in faults, taken one an attempt before it is answered: `2+2= <<429 500 cut garbage hang>>`.
`drip` sends a byte of the body every 0.3 s, `drip_head` of the headers; `midcut` ends a stream after two
words, `stall` waits there, `trickle` sends a byte of the third every 0.3 s; `silent` begins a
stream and sends no word; `echo` refuses the key and repeats it;
`empty` has no choices, `error` an error with status 200, `bad_key` one of
code 401, `text` one without a code; `negative`, `half` and `huge` count impossible tokens.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODIES = {
    "empty": {"choices": []},
    "error": {"error": {"message": "overloaded", "type": "server_error", "code": 500}},
    "bad_key": {"error": {"message": "made to fail in the body", "code": 401}},
    "text": {"error": "overloaded"},
    "negative": {"usage": {"prompt_tokens": -4, "completion_tokens": 1, "total_tokens": -3}},
    "half": {"usage": {"prompt_tokens": 4, "total_tokens": 4}},
    "huge": {"usage": {"prompt_tokens": 10**12, "completion_tokens": 1, "total_tokens": 10**12}},
}
CUTS = {"silent": 0, "midcut": 2, "stall": 2, "trickle": 2}  # words of a stream before it fails
STATUSES = {"400": 400, "401": 401, "404": 404, "429": 429, "500": 500, "503": 503}


class FaultServer:
    """Answers `answer(model, prompt)`; use as a context manager.

    Args:
        answer: the text of an answer.
        seconds: that every answer takes.
    """

    def __init__(self, answer: Callable[[str, str], str], seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds
        self.pace = 0.0  # seconds between the words of a stream
        self.usage = True  # whether answers say how many tokens they took
        self.exempt: set[str] = set()  # models that never fail
        self.down: set[str] = set()  # models that answer 503 to everything
        self.retry_after = 1  # seconds, told with every 429
        self.requests: list[dict] = []  # every body that came in, with `authorization` and `time`
        self.answered: Counter[tuple[str, str]] = Counter()  # by model and prompt
        self.working = self.most_working = 0
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FaultServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def attempts(self, model: str, prompt: str) -> int:
        return self._attempts[model, prompt]

    def respond(self, handler: BaseHTTPRequestHandler, body: dict) -> None:
        model, prompt = body["model"], _prompt(body)
        with self._lock:
            attempt = self._attempts[model, prompt]
            self._attempts[model, prompt] += 1
            authorization = handler.headers.get("Authorization")
            self.requests.append({**body, "authorization": authorization, "time": time.monotonic()})
            self.working += 1
            self.most_working = max(self.most_working, self.working)
        try:
            self._respond(handler, model, prompt, attempt, streamed=body.get("stream", False))
        finally:
            with self._lock:
                self.working -= 1

    def _respond(
        self, handler: BaseHTTPRequestHandler, model: str, prompt: str, attempt: int, *, streamed: bool
    ) -> None:
        listed = None if model in self.exempt else re.search(r"<<(.*)>>$", prompt)
        faults = listed[1].split() if listed else []
        fault = "503" if model in self.down else faults[attempt] if attempt < len(faults) else None
        if streamed and fault in (None, *CUTS):
            self._stopped.wait(self.seconds)
            self._stream(handler, model, prompt, fault)
        elif fault is None:
            self._stopped.wait(self.seconds)
            text = self.answer(model, prompt)
            _send(handler, 200, json.dumps(_completion(model, prompt, text, self.usage)))
            with self._lock:
                self.answered[model, prompt] += 1
        elif fault in ("hang", "silent"):
            self._stopped.wait(30)
        elif fault in ("drip", "drip_head"):
            self._drip(handler, json.dumps(_completion(model, prompt, "never", self.usage)), fault)
        elif fault in BODIES:
            body = {**_completion(model, prompt, "9", True), **BODIES[fault]}
            _send(handler, 200, json.dumps({"error": body["error"]} if "error" in body else body))
        elif fault == "cut":
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"id": "chatcmpl-1", "cho')
            handler.close_connection = True
        elif fault == "echo":
            key = str(handler.headers.get("Authorization")).removeprefix("Bearer ")
            error = {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}
            _send(handler, 401, json.dumps({"error": error}))
        elif fault == "garbage":
            _send(handler, 200, '{"id": "chatcmpl-1", "choices": [{"mess')
        else:
            error = json.dumps({"error": {"message": f"made to fail with {fault}", "code": fault}})
            _send(
                handler,
                STATUSES[fault],
                error,
                {"Retry-After": str(self.retry_after)} if fault == "429" else {},
            )

    def _stream(self, handler: BaseHTTPRequestHandler, model: str, prompt: str, fault: str | None) -> None:
        """Send the answer as server-sent events, a word each."""
        text = self.answer(model, prompt)
        whole = _completion(model, prompt, text, self.usage)
        shared = {**whole, "object": "chat.completion.chunk"}
        usage = shared.pop("usage", None)
        words = [word + " " for word in text.split()] or [""]
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        for index, word in enumerate(words):
            choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
            chunk = {**shared, "choices": [choice]}
            if fault is not None and index == CUTS[fault]:
                if fault == "trickle":
                    self._slowly(handler, f"data: {json.dumps(chunk)}".encode())
                elif fault != "midcut":
                    self._stopped.wait(30)
                return
            _event(handler, chunk)
            self._stopped.wait(self.pace)
        _event(handler, {**shared, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if usage is not None:
            _event(handler, {**shared, "choices": [], "usage": usage})
        handler.wfile.write(b"data: [DONE]\n\n")
        with self._lock:
            self.answered[model, prompt] += 1

    def _drip(self, handler: BaseHTTPRequestHandler, text: str, fault: str) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        at_once = 0 if fault == "drip_head" else len(head)
        handler.wfile.write(head[:at_once].encode())
        self._slowly(handler, (head + text)[at_once:].encode())

    def _slowly(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        for each in content:
            handler.wfile.write(bytes([each]))
            if self._stopped.wait(0.3):
                return


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients are killed on purpose; anything else is a mistake of this server."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _prompt(body: dict) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def _event(handler: BaseHTTPRequestHandler, chunk: dict) -> None:
    handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
    handler.wfile.flush()


def _completion(model: str, prompt: str, text: str, counted: bool) -> dict:
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    usage["total_tokens"] = sum(usage.values())
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        **({"usage": usage} if counted else {}),
    }


def _send(handler: BaseHTTPRequestHandler, status: int, text: str, headers: dict | None = None) -> None:
    content = text.encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _handler(server: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                server.respond(self, body)
            except (BrokenPipeError, ConnectionResetError):  # the client gave up waiting
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
