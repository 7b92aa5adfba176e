"""Export trained routers and policies to inference code, one file per format, each checked for parity.

The names below load when first used, so that listing formats does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .export_folder import export, export_layers
    from .format import Format
    from .parity import Parity, PolicyParity
    from .registry import FORMATS, find_format, format_names
    from .served_layers import layers_in

__all__ = [
    "FORMATS",
    "Format",
    "Parity",
    "PolicyParity",
    "export",
    "export_layers",
    "find_format",
    "format_names",
    "layers_in",
]

_HOMES = {
    "FORMATS": ".registry",
    "Format": ".format",
    "Parity": ".parity",
    "PolicyParity": ".parity",
    "export": ".export_folder",
    "export_layers": ".export_folder",
    "find_format": ".registry",
    "format_names": ".registry",
    "layers_in": ".served_layers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
