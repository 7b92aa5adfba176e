"""LiteLLM, imported when it is first needed, with nothing sent anywhere but to the models."""

from __future__ import annotations

import importlib
import os
from typing import Any

from ..io.errors import InputError

__all__ = ["lite"]


def lite() -> Any:
    """Return the module `litellm`.

    Prices come from the map that its package holds, not from a download, so that a run is repeatable;
    `LITELLM_LOCAL_MODEL_COST_MAP=False` brings the download back.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = importlib.import_module(
            "litellm"
        )  # takes seconds, and is no part of a plain installation
    except ImportError as error:
        fix = "pip install 'router-rl[llm]'"
        raise InputError("litellm", None, f"cannot be imported ({error})", fix) from error
    litellm.telemetry = False
    litellm.suppress_debug_info = True  # it prints advice on every error
    return litellm
