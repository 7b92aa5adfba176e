"""Registry of export formats: name to "module:ATTRIBUTE" of a `Format`, imported when used.

An installed package adds formats through entry points of the group `router_rl.formats`. Listing names imports
neither torch nor the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from experts.io.plugins import PluginRegistry

if TYPE_CHECKING:
    from .format import Format

__all__ = ["FORMATS", "find_format", "format_names"]

FORMATS = PluginRegistry(
    "format",
    "router_rl.formats",
    {
        "safetensors": "router_rl.exports.safetensors:FORMAT",
        "pt2": "router_rl.exports.pt2:FORMAT",
        "aoti": "router_rl.exports.aoti:FORMAT",
        "onnx": "router_rl.exports.onnx:FORMAT",
        "vllm": "router_rl.exports.layer_formats:VLLM",
        "sglang": "router_rl.exports.layer_formats:SGLANG",
        "transformers": "router_rl.exports.layer_formats:TRANSFORMERS",
        "gguf": "router_rl.exports.gguf:FORMAT",
    },
)


def format_names() -> list[str]:
    """Return the names of all formats without importing them; formats of installed packages come last."""
    return list(FORMATS)


def find_format(name: str) -> Format:
    """Import a format.

    Args:
        name: name of the format.

    Raises:
        InputError: the name is unknown, or its package cannot be imported.
    """
    format: Format = FORMATS.load(name)
    return format
