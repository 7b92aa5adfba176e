"""`serve`: an OpenAI-compatible endpoint in front of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from experts.io.printable import printable

from ..serving.serve_options import ServeOptions
from .command import Command
from .serve_extra import serve_extra

__all__ = ["COMMAND", "serve", "serve_view"]


def serve(*, router: Path, models: Path, options: ServeOptions) -> dict[str, Any]:
    """Answer OpenAI chat completions: the router chooses the model `auto`, and every decision is logged.

    Needs pip install 'router-rl[serve]'. Endpoints: /v1/chat/completions, /v1/models, /v1/route,
    /v1/outcomes, /healthz, /metrics, and a live page at /. Ends with Ctrl-C.

    Args:
        router: folder of a router that was trained on prompts, see `export`.
        models: YAML list of the models, as for `collect`; they have the names of the router's experts.
        options: how requests are served, logged and explored.
    """
    with serve_extra("serve"):
        from ..serving.listen import listen
    return listen(router, models, options)


def serve_view(result: dict[str, Any]) -> Group:
    """Return what was answered, failed and spent."""
    experts: dict[str, dict[str, Any]] = result["experts"]
    lines = [
        f"{name}: {each['answered']:,.0f} answered, {each['failed']:,.0f} failed, US$ {each['usd']:.4f}"
        for name, each in experts.items()
    ]
    money = (
        f"US$ {result['usd']:.4f} spent; {result['reference']} for every request, with as many tokens: "
        f"US$ {result['reference_usd']:.4f}. Log: {result['log']}"
    )
    return Group(*(Text(printable(line)) for line in [*lines, money]))


COMMAND = Command(run=serve, view=serve_view, writes=())
