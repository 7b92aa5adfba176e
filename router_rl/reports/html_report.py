"""Write a comparison's results as one self-contained HTML page: no network, no fonts.

Charts are Vega-Lite specifications, which the one script of the page draws; their numbers stand in tables.
The page is a function of the results alone, so equal results give equal bytes. One page serves every problem:
sections that the results lack are left out.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experts.io.atomic import replacing
from experts.io.errors import InputError
from experts.io.escaping import shown

from .chart_theme import COLOURS
from .number_format import amount, interval, number, signed
from .page_script import page_script
from .results_table import capitalised

__all__ = ["write_report"]

SCHEMA_VERSION = 2


def write_report(results: dict[str, Any], path: Path) -> None:
    """Render the content of results.json to one HTML file, atomically.

    Args:
        results: the content of `results.json`, schema 2; `studies.results_reader` upgrades older ones.
        path: the file to write; an existing one is replaced only when the new one is complete.

    Raises:
        InputError: the results have another schema version.
    """
    version = results.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            "results.schema_version",
            version,
            f"the report reads version {SCHEMA_VERSION}",
            "read older results with read_results, or run compare again",
        )
    from .report_view import report_view  # Altair takes half a second to import

    page = (
        _environment()
        .get_template("report.html.j2")
        .render(report_view(shown(results)), colours=COLOURS, script=Markup(page_script()))
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "number": number,
        "signed": signed,
        "interval": interval,
        "amount": amount,
        "capitalised": capitalised,
        "csp_hash": _csp_hash,
    }
    environment.filters.update(filters)
    return environment


def _csp_hash(text: str) -> str:
    """The source expression of a style sheet or a script for the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
