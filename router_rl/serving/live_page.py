"""The live page: an HTML page that polls `/v1/status` every two seconds."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["live_page"]


def live_page(*, needs_key: bool) -> str:
    """Return the live page as HTML.

    Args:
        needs_key: the page asks for an API key first.
    """
    environment = Environment(
        loader=PackageLoader("router_rl", "serving"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("live_page.html.j2").render(needs_key=needs_key)
