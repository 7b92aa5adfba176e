"""Listen on a socket and serve until SIGINT or SIGTERM."""

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

GRACE_S = 30  # running requests have this long to finish after SIGINT or SIGTERM


def listen(router: Path, models: Path, options: ServeOptions) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM.

    Args:
        router: folder of the router.
        models: YAML list of the models.
        options: options of `serve`.

    Returns:
        the address of the log and a summary of the counters, as JSON.

    Raises:
        InputError: an input cannot be used, or the address is in use.
    """
    with _listening(options) as listening:
        server = Server(router, models, options)
        host, port = listening.getsockname()[:2]
        say(f"Serving {server.decider.live.router.folder} at http://{host}:{port} (log: {server.store.name})")
        config = uvicorn.Config(
            create_app(server), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S
        )
        # uvicorn raises the signal again after its graceful shutdown.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return {"log": server.store.name, **server.counters.summary()}


def _listening(options: ServeOptions) -> socket.socket:
    """Return a listening socket, so that an address in use is found before the router is loaded."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # With an explicit protocol, asyncio sets TCP_NODELAY, which sends small answers immediately.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((options.host, options.port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        address = f"{options.host}:{options.port}"
        problem = f"the server cannot listen there ({error.strerror})"
        raise InputError("serve.port", address, problem, "use another --port or --host") from error
    return listening
