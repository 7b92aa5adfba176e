"""A Ray cluster: that of `RAY_ADDRESS`, or one on this machine that ends with the work."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from .errors import InputError

__all__ = ["INSTALL_RAY", "ray_cluster", "require_ray"]

INSTALL_RAY = "pip install 'router-rl[scale]'"

_REACH_S = 10.0


def require_ray(field: str, value: object, instead: str) -> None:
    """Check that Ray is installed; it is not imported.

    Args:
        field: name of the option that needs it, for the error.
        value: its value.
        instead: what to do without Ray.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("ray") is None:
        raise InputError(field, value, "ray is not installed", f"{INSTALL_RAY}, or {instead}")


@contextmanager
def ray_cluster(cpus: int | None = None, *, instead: str) -> Generator[Any, None, None]:
    """Yield the module `ray`, connected to a cluster; a connection that is open already is used and kept.

    Args:
        cpus: of the cluster that is started on this machine if `RAY_ADDRESS` names none; None: the machine's.
        instead: what to do without Ray, for the error.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        fix = f"{INSTALL_RAY}, or {instead}"
        raise InputError("ray", None, f"cannot be imported ({error})", fix) from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    # One process starts and ends the local cluster, so nothing of another machine need reach its ports.
    local = {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _check_reached(address or "")
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **({} if address else local))
    except (RuntimeError, ValueError, OSError, OverflowError) as error:
        ray.shutdown()
        reason = f"cannot be reached ({' '.join(str(error).split())[:300]})"
        fix = f"give the address of a running cluster, or {instead}"
        raise InputError("RAY_ADDRESS", address, reason, fix) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reached(address: str) -> None:
    """Connect to a host and port: Ray itself tries for minutes.

    Raises:
        OSError: nothing answers there.
    """
    place = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d{1,5})", address)
    if place is not None:
        socket.create_connection((place[1], int(place[2])), timeout=_REACH_S).close()
