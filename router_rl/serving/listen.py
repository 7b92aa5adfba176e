"""Listen on a socket and serve until the process is asked to end."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path
from typing import Any

import uvicorn

from experts import InputError
from experts.io.progress import say

from .app import create_app
from .serve_options import ServeOptions
from .server import Server

__all__ = ["GRACE_S", "listen"]

GRACE_S = 30  # for the requests that run when the process is asked to end


def listen(router: Path, models: Path, options: ServeOptions) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM.

    Args:
        router: folder of the router.
        models: YAML list of the models.
        options: how requests are served.

    Returns:
        what was answered, as JSON.

    Raises:
        InputError: an input cannot be used, or the address is taken.
    """
    with _listening(options) as listening:
        server = Server(router, models, options)
        host, port = listening.getsockname()[:2]
        say(f"Serving {server.decider.live.router.folder} at http://{host}:{port} (log: {server.store.name})")
        config = uvicorn.Config(
            create_app(server), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S
        )
        # uvicorn raises the signal again after it has ended in order.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return {"log": server.store.name, **server.counters.summary()}


def _listening(options: ServeOptions) -> socket.socket:
    """Return a socket that listens; the address is checked before anything is loaded."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # With its protocol named, asyncio sends small answers at once (TCP_NODELAY).
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((options.host, options.port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        address = f"{options.host}:{options.port}"
        problem = f"cannot be listened on ({error.strerror})"
        raise InputError("serve.port", address, problem, "use another --port or --host") from error
    return listening
