"""The page's one script: Vega, Vega-Lite, Vega-Embed and `report.js`, in one bundle that needs no network."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["page_script"]


@cache
def page_script() -> str:
    """The bundle, the same text for the same release of vl-convert-python; about 900 kB."""
    import vl_convert  # starts a JavaScript runtime

    script = vl_convert.javascript_bundle(Path(__file__).with_name("report.js").read_text(encoding="utf-8"))
    assert "</script" not in script.lower()
    return script
