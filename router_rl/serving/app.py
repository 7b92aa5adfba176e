"""The HTTP endpoints: chat completions, decisions, outcomes, health, metrics and a live page."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from experts import InputError
from experts.io.progress import say

from ..routing import RouterError
from .answering import NoAnswerError, RefusedError, Started
from .chat_request import BadRequestError, ChatRequest, deadlines_of, last_prompt, read_outcome
from .deployments import follow
from .engine_metrics import watch_engines
from .guard import Guard
from .live_page import live_page
from .server import Server

__all__ = ["create_app"]

_SHUTDOWN_S = 5.0  # shutdown waits this long for a query of the log that is running


def create_app(server: Server) -> FastAPI:
    """Return the FastAPI application of a server.

    Args:
        server: the server's parts: router, models, log and counters.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncGenerator[None, None]:
        await server.upstream.warm_up()
        # Collect now and freeze: a full collection takes a third of a second, which requests would wait for.
        gc.collect()
        gc.freeze()
        ending = asyncio.Event()
        watcher = asyncio.create_task(_watch(server, ending))
        engines = asyncio.create_task(watch_engines(server.metrics, server.decider.queues.reported))
        try:
            yield
        finally:
            gc.unfreeze()
            ending.set()
            engines.cancel()
            await asyncio.wait([watcher], timeout=_SHUTDOWN_S)  # its thread uses a connection to the log
            await server.upstream.close()
            await run_in_threadpool(server.close)

    app = FastAPI(title="router-rl", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, keys=server.keys, max_bytes=server.options.max_request_bytes, refuse=_refused)
    _add_routes(app, server)
    return app


def _add_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _chat(server, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name) for name in ("auto", *server.prices)]}

    @app.post("/v1/route")
    async def route(request: Request) -> Response:
        return await _route(server, request)

    @app.post("/v1/outcomes")
    async def outcomes(request: Request) -> Response:
        return await _outcome(server, request)

    @app.get("/v1/status")
    async def status() -> dict[str, Any]:
        return await run_in_threadpool(server.status)

    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "log": "down" if server.writer.down else "ok"}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        server.counters.set_log(server.writer.waiting, server.writer.lost)
        server.counters.set_queues(server.decider.queue_status())
        return PlainTextResponse(server.counters.prometheus(), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(live_page(needs_key=bool(server.keys)))


async def _chat(server: Server, http: Request) -> Response:
    try:
        request = ChatRequest.of(await _body(http))
        started = await server.answering.start(request)
    except BadRequestError as error:
        return _error(400, str(error), "invalid_request_error", error.parameter)
    except RouterError as error:
        return _error(400, f"metadata.group: {error}", "invalid_request_error", "metadata.group")
    except RefusedError as error:
        return _error(error.status, str(error), "invalid_request_error")
    except NoAnswerError as error:
        return _error(503, f"no expert answered: {error}", "service_unavailable", reasons=error.reasons)
    headers = {"x-router-rl-decision": started.decision, "x-router-rl-expert": _ascii(started.expert)}
    if started.whole is not None:
        return JSONResponse({**started.whole, "model": started.expert}, headers=headers)
    return _Stream(started, headers)


class _Stream(StreamingResponse):
    """A stream of server-sent events that closes its generator even if the client disconnects early."""

    def __init__(self, started: Started, headers: dict[str, str]) -> None:
        super().__init__(_events(started), media_type="text/event-stream", headers=headers)
        self._started = started

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._started.chunks is not None
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._started.chunks.aclose()


async def _events(started: Started) -> AsyncGenerator[str, None]:
    """Yield a stream as server-sent events; an interrupted answer ends with an error instead of DONE."""
    assert started.chunks is not None
    try:
        async for chunk in started.chunks:
            yield f"data: {json.dumps({**chunk, 'model': started.expert})}\n\n"
    except (Exception, asyncio.TimeoutError) as error:
        reason = f"the answer of {started.expert} was interrupted: {type(error).__name__}"
        yield f"data: {json.dumps({'error': {'message': reason, 'type': 'upstream_error'}})}\n\n"
        return
    yield "data: [DONE]\n\n"


async def _route(server: Server, http: Request) -> Response:
    """Decide without calling an expert; nothing is logged."""
    try:
        body = await _body(http)
        if not isinstance(body, dict):
            raise BadRequestError("body", "is not a JSON object")
        fields = cast("dict[str, Any]", body)
        prompt = fields["prompt"] if "prompt" in fields else last_prompt(fields.get("messages"))
        if not isinstance(prompt, str):
            raise BadRequestError("prompt", "is not a string")
        group, session = (_text_or_none(fields.get(name)) for name in ("group", "session"))
        decision = server.decider.decide(
            prompt,
            group,
            session=session,
            messages=[] if "prompt" in fields else cast("list[dict[str, Any]]", fields["messages"]),
            deadlines=deadlines_of(fields),
        )
    except BadRequestError as error:
        return _error(400, str(error), "invalid_request_error", error.parameter)
    except RouterError as error:
        return _error(400, f"group: {error}", "invalid_request_error", "group")
    best = max(decision.propensities, key=lambda name: decision.propensities[name])
    experts = [
        {
            "expert": name,
            "score": _finite(decision.scores[name]),
            "probability": decision.propensities[name],
            "expected_usd": decision.expected_usd[name],
            "excluded": decision.excluded.get(name),
        }
        for name in decision.propensities
    ]
    return JSONResponse({"expert": best, "router": decision.router, "experts": experts})


async def _outcome(server: Server, http: Request) -> Response:
    try:
        body = await _body(http)
        if not isinstance(body, dict):
            raise BadRequestError("body", "is not a JSON object")
        decision, score = read_outcome(cast("dict[str, Any]", body))
        exists = await run_in_threadpool(server.attach, decision, score)
    except BadRequestError as error:
        return _error(400, str(error), "invalid_request_error", error.parameter)
    except SQLAlchemyError:
        return _error(503, "the log cannot be written now; send the outcome again", "service_unavailable")
    if not exists:
        return _error(404, f"decision {decision!r} is not in the log", "not_found", "decision")
    return JSONResponse({"decision": decision, "score": score})


async def _watch(server: Server, ending: asyncio.Event) -> None:
    """Apply promoted routers and learn from outcomes, as long as the server runs."""
    while True:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ending.wait(), server.options.poll_s)
            return
        try:
            changed = follow(server.decider, await run_in_threadpool(server.store.deployment))
            await run_in_threadpool(server.learn)
        except InputError as error:
            changed = f"not changed: {error}"
        except SQLAlchemyError:
            continue  # the log is down; the writer counts that
        if changed and changed != server.last_change:
            say(changed)
        server.last_change = changed or server.last_change


async def _body(request: Request) -> Any:
    content: bytes = request.state.body
    try:
        body = json.loads(content)
        if b"\\ud" in content.lower():
            json.dumps(body, ensure_ascii=False).encode()  # refuse a lone surrogate
    except (ValueError, RecursionError) as error:
        raise BadRequestError("body", f"is not JSON ({str(error)[:100]})") from error
    return body


def _error(status: int, message: str, kind: str, parameter: str | None = None, **more: Any) -> JSONResponse:
    """Return an error in the format of OpenAI's API."""
    content = {"message": message, "type": kind, "param": parameter, "code": status, **more}
    return JSONResponse({"error": content}, status_code=status)


def _refused(status: int, message: str) -> JSONResponse:
    return _error(status, message, "authentication_error" if status == 401 else "invalid_request_error")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "router-rl"}


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
