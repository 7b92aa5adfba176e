"""The package's description on PyPI: README.md with its links into the repository as plain text."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

_RELATIVE_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?!https?://|#|mailto:)(?P<path>[^)\s]+)\)")
_RELATIVE_IMAGE = re.compile(r"!\[[^\]]*\]\((?!https?://)[^)]+\)\n?")


def _description(readme: str) -> str:
    """`[text](docs/x.md)` as "text (`docs/x.md`)", which is where the source distribution has it."""

    def plain(link: re.Match[str]) -> str:
        text, path = link["text"], link["path"]
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"

    return _RELATIVE_LINK.sub(plain, _RELATIVE_IMAGE.sub("", readme))


setup(
    long_description=_description(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
