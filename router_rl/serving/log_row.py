"""Make rows of the decision log; prompts are hashed unless the options allow storing them."""

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
from .decision import Decision
from .log_tables import DECISIONS

__all__ = ["LogRows", "hash_key", "of_one_pipeline"]

_EMPTY = {column.name: None for column in DECISIONS.columns}


class LogRows:
    """Makes rows of the table of decisions.

    Args:
        key: key of the hashes of prompts.
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
        """Return a row with the columns that are known at the decision; the others are None.

        Args:
            decision_id: id of the decision.
            request: the request.
            expert: name of the expert that is called.
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
        variable: name of the environment variable with the key; None: a random key.

    Raises:
        InputError: the variable is not set.
    """
    if variable is None:
        return secrets.token_bytes(32)
    value = os.environ.get(variable)
    if not value:
        raise InputError("serve.hash_key_env", variable, "is not set in the environment", "export it first")
    return value.encode()


def of_one_pipeline(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the decisions whose features come from the same text pipeline as the newest decision's.

    Rows from before the log had the column `pipeline` are matched by their router.

    Args:
        rows: decisions with features, oldest first.
    """
    of_router = {row["router"]: row["pipeline"] for row in rows if row["pipeline"] is not None}
    pipelines = [row["pipeline"] or of_router.get(row["router"], row["router"]) for row in rows]
    return [row for row, pipeline in zip(rows, pipelines, strict=True) if pipeline == pipelines[-1]]


def _clean(text: str | None) -> str | None:
    """Return a text that every database can store: without NUL and lone surrogates."""
    return None if text is None else text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
