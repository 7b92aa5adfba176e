"""The picture of docs/concepts.md is what its script draws."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
TRANSLATED = re.compile(r"translate\(([\d.]+),([\d.]+)\)")


def marks(svg: str) -> tuple[list[str], list[float]]:
    """Return the texts, and where marks and texts stand."""
    places = [float(number) for place in TRANSLATED.findall(svg) for number in place]
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg), places


@pytest.mark.slow
def test_the_picture_is_what_the_script_draws(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "operating_points.py"))["main"](tmp_path / "drawn.svg")
    texts, places = marks((tmp_path / "drawn.svg").read_text(encoding="utf-8"))
    committed = marks((DOCS / "figures" / "operating_points.svg").read_text(encoding="utf-8"))
    assert texts == committed[0]
    assert {"GPT-4 for every query", "zero router: a coin between the two"} <= set(texts)
    assert places == pytest.approx(committed[1], abs=6.0)  # pixels; other CPUs may decide a query otherwise
