"""Export formats by name: "module:ATTRIBUTE" of a `Format`, imported when used. A new one is a line here.

An installed package adds formats through entry points of the group `router_rl.formats`. Listing names imports
neither torch nor the package.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from experts.io.errors import InputError, unknown_name

if TYPE_CHECKING:
    from .format import Format

__all__ = ["FORMATS", "GROUP", "find_format", "format_names"]

GROUP = "router_rl.formats"

FORMATS: dict[str, str] = {
    "safetensors": "router_rl.exports.safetensors:FORMAT",
    "pt2": "router_rl.exports.pt2:FORMAT",
    "aoti": "router_rl.exports.aoti:FORMAT",
    "onnx": "router_rl.exports.onnx:FORMAT",
    "vllm": "router_rl.exports.layer_formats:VLLM",
    "sglang": "router_rl.exports.layer_formats:SGLANG",
    "transformers": "router_rl.exports.layer_formats:TRANSFORMERS",
    "gguf": "router_rl.exports.gguf:FORMAT",
}


def format_names() -> list[str]:
    """Names of the formats: the toolkit's, then those of installed packages."""
    return list(_locations())


def find_format(name: str) -> Format:
    """The format of a name, imported.

    Raises:
        InputError: the name is unknown, or its package cannot be imported.
    """
    locations = _locations()
    if name not in locations:
        raise unknown_name("format", name, locations)
    module, _, attribute = locations[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        reason = f"{locations[name]} cannot be imported ({error})"
        raise InputError("format", name, reason, "install or update the package that provides it") from error


def _locations() -> dict[str, str]:
    """Format name to module:ATTRIBUTE; the toolkit's own names come first and cannot be replaced."""
    plugins = {entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in FORMATS}
    return {**FORMATS, **plugins}
