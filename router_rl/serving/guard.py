"""Middleware that checks the client's API key and the size of each request."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OPEN", "Guard"]

OPEN = ("/", "/healthz")  # need no key, since they show nothing about requests


class Guard:
    """Refuses requests without a valid key or with too large a body; reads the body into `state.body`.

    Args:
        app: the application.
        keys: keys of clients; if empty, no key is needed.
        max_bytes: maximum size of a body.
        refuse: takes a status and a message; returns the response.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[str], max_bytes: int, refuse: Callable[[int, str], Any]
    ) -> None:
        self._app, self._keys, self._max_bytes, self._refuse = app, keys, max_bytes, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        authorization = headers.get(b"authorization", b"")
        if self._keys and scope["path"] not in OPEN and not self._is_valid(authorization):
            await self._refuse(401, "the API key is missing or wrong")(scope, receive, send)
            return
        body = await self._body(headers.get(b"content-length", b"0"), receive)
        if body is None:
            message = f"the request has more than {self._max_bytes:,} bytes"
            await self._refuse(413, message)(scope, receive, send)
            return
        scope.setdefault("state", {})["body"] = body
        await self._app(scope, receive, send)

    def _is_valid(self, authorization: bytes) -> bool:
        scheme, _, token = authorization.partition(b" ")
        equal = [hmac.compare_digest(token.strip(), key.encode()) for key in self._keys]
        return scheme.lower() == b"bearer" and any(equal)

    async def _body(self, declared: bytes, receive: Receive) -> bytes | None:
        """Return the body; None if it is too large."""
        if not declared.isdigit() or int(declared) > self._max_bytes:
            return None
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message: Message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                return None
            more = message["type"] == "http.request" and message.get("more_body", False)
        return b"".join(parts)
