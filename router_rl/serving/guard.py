"""What every request passes first: the client's key, and the size of what it sends."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OPEN", "Guard"]

OPEN = ("/", "/healthz")  # without a key: they tell nothing of the requests


class Guard:
    """Middleware that refuses requests without a key or above a size; it reads bodies, into `state.body`.

    Args:
        app: the application.
        keys: keys of clients; empty: none is needed.
        most_bytes: largest body.
        refuse: makes the response of a status and a message.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[str], most_bytes: int, refuse: Callable[[int, str], Any]
    ) -> None:
        self._app, self._keys, self._most, self._refuse = app, keys, most_bytes, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._keys and scope["path"] not in OPEN and not self._known(headers.get(b"authorization", b"")):
            await self._refuse(401, "the API key is missing or wrong")(scope, receive, send)
            return
        body = await self._body(headers.get(b"content-length", b"0"), receive)
        if body is None:
            message = f"the request has more than {self._most:,} bytes"
            await self._refuse(413, message)(scope, receive, send)
            return
        scope.setdefault("state", {})["body"] = body
        await self._app(scope, receive, send)

    def _known(self, authorization: bytes) -> bool:
        scheme, _, given = authorization.partition(b" ")
        known = [hmac.compare_digest(given.strip(), key.encode()) for key in self._keys]
        return scheme.lower() == b"bearer" and any(known)

    async def _body(self, declared: bytes, receive: Receive) -> bytes | None:
        """Return the body; None if it is too large."""
        if not declared.isdigit() or int(declared) > self._most:
            return None
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message: Message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._most:
                return None
            more = message["type"] == "http.request" and message.get("more_body", False)
        return b"".join(parts)
