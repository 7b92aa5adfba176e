"""Text from outside, such as names of experts, groups and prompts, made safe for the place it is written to.

`shown` is for terminals and for HTML, whose own characters the template or `html.escape` escapes after it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from .printable import printable

__all__ = ["file_name", "markdown_text", "shown", "tag_part"]

# An underscore within a word is no emphasis. A number sign, a bullet or a number counts at the start only.
_MARKDOWN = re.compile(r"[\\`*<>\[\]|~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|^\s*(?:[#+=-]|\d+[.)])")
_NOT_IN_TAGS = re.compile(r"[^\w .,=:%()+-]")
_NOT_IN_FILES = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)  # on Windows
_LONGEST = 100  # characters of a tag, bytes of a file's name


def shown(value: Any) -> Any:
    r"""Return a value of JSON with every text printable: control characters and changes of direction escaped.

    Args:
        value: texts, numbers, lists and dicts; the names in dicts are texts too.

    >>> shown({"a\x1b[31m": ["b\n", 1.5]})
    {'a\\x1b[31m': ['b\\n', 1.5]}
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {shown(name): shown(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    return value


def markdown_text(text: str) -> str:
    r"""Return a text that Markdown shows as it is, on one line, in a table's cell too.

    Args:
        text: plain text.

    >>> print(markdown_text("gpt_4 | <b>*x*</b>"))
    gpt_4 \| \<b\>\*x\*\</b\>
    """
    return _MARKDOWN.sub(lambda match: match[0][:-1] + "\\" + match[0][-1], printable(text))


def tag_part(text: str) -> str:
    """Return a text as one part of a TensorBoard tag: without slashes, which group tags.

    Args:
        text: plain text.

    >>> tag_part("load 0.8/a<b>")
    'load 0.8_a_b_'
    """
    return _NOT_IN_TAGS.sub("_", text)[:_LONGEST] or "_"


def file_name(text: str) -> str:
    """Return a text as the name of a file in a folder; different texts get different names.

    Args:
        text: plain text. One that is a good name already is returned unchanged.

    >>> file_name("ridge"), file_name("../a")
    ('ridge', '.._a-61b4c98b')
    """
    name = _NOT_IN_FILES.sub("_", printable(text)).encode()[:_LONGEST].decode(errors="ignore")
    name = name.rstrip(". ") or "_"
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    if name == text:
        return name
    return f"{name}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
