"""LiteLLM, imported on first use, with telemetry off."""

from __future__ import annotations

import importlib
import os
from typing import Any

from ..io.errors import InputError

__all__ = ["lite"]


def lite() -> Any:
    """Return the module `litellm`.

    Prices are those of its packaged map, so that runs are reproducible. Set
    `LITELLM_LOCAL_MODEL_COST_MAP=False` to let it download the current map.

    Raises:
        InputError: LiteLLM is not installed.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = importlib.import_module("litellm")  # takes seconds, and is an optional extra
    except ImportError as error:
        fix = "pip install 'router-rl[llm]'"
        raise InputError("litellm", None, f"cannot be imported ({error})", fix) from error
    litellm.telemetry = False
    litellm.suppress_debug_info = True  # it prints advice on every error
    return litellm
