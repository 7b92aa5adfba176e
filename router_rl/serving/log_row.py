"""Rows of the decision log: what was decided, with prompts hashed unless they may be stored."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

from experts import InputError

from .chat_request import ChatRequest
from .decider import Decision
from .log_tables import DECISIONS

__all__ = ["LogRows", "hash_key", "of_one_pipeline"]

_EMPTY = {column.name: None for column in DECISIONS.columns}


class LogRows:
    """Makes rows.

    Args:
        key: of the hashes of prompts.
        prompts: store prompts as text.
    """

    def __init__(self, key: bytes, *, prompts: bool = False) -> None:
        self._key, self._prompts = key, prompts

    def row(
        self,
        decision_id: str,
        request: ChatRequest,
        expert: str,
        decision: Decision | None,
        previous: str | None = None,
    ) -> dict[str, Any]:
        """Return the columns that are known when a decision is made; the others are None.

        Args:
            decision_id: id of the decision.
            request: the request.
            expert: the expert that is asked.
            decision: the router's decision; None if the client named the expert.
            previous: id of the attempt that failed before.
        """
        row: dict[str, Any] = {
            **_EMPTY,
            "id": decision_id,
            "at": time.time(),
            "requested": request.model,
            "expert": expert,
            "router": "",
            "previous": previous,
            "session": _clean(request.session),
            "streamed": request.stream,
            "prompt": _clean(request.prompt) if self._prompts else None,
            "prompt_hash": hmac.new(
                self._key, request.prompt.encode("utf-8", "replace"), hashlib.sha256
            ).hexdigest(),
        }
        if decision is not None:
            row |= {
                "router": decision.router,
                "propensity": decision.propensity,
                "propensities": decision.propensities,
                "features": decision.features.astype("<f4").tobytes(),
                "pipeline": decision.pipeline,
            }
            if decision.shadow is not None:
                row["shadow_router"], row["shadow_expert"] = decision.shadow
        return row


def hash_key(variable: str | None) -> bytes:
    """Return the key of the hashes of prompts.

    Args:
        variable: name of the environment variable that holds it; None: a random key.

    Raises:
        InputError: there is no such variable.
    """
    if variable is None:
        return secrets.token_bytes(32)
    value = os.environ.get(variable)
    if not value:
        raise InputError("serve.hash_key_env", variable, "is not set in the environment", "export it first")
    return value.encode()


def of_one_pipeline(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the decisions whose features the text pipeline of the newest one made.

    Rows that were logged before the log kept the pipeline count by their router.

    Args:
        rows: decisions with features, oldest first.
    """
    of_router = {row["router"]: row["pipeline"] for row in rows if row["pipeline"] is not None}
    pipelines = [row["pipeline"] or of_router.get(row["router"], row["router"]) for row in rows]
    return [row for row, pipeline in zip(rows, pipelines, strict=True) if pipeline == pipelines[-1]]


def _clean(text: str | None) -> str | None:
    """Return a text that every database can store: without NUL and half surrogate pairs."""
    return None if text is None else text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
