"""Registries of names whose objects are imported when used: the package's own, and those of plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import InputError, unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["PluginRegistry"]


class PluginRegistry(Mapping[str, str]):
    """A registry of names; reading a name imports nothing, `load` imports its object.

    The package's own names come first, and a plugin cannot replace them.

    Args:
        field: what a name is called in error messages, such as `source`.
        group: the entry point group in which installed packages list theirs, such as `router_rl.sources`.
        own: the package's own names, each to `module:ATTR`.

    >>> registry = PluginRegistry("function", "router_rl.example", {"sqrt": "math:sqrt"})
    >>> dict(registry), registry.load("sqrt")(9.0)
    ({'sqrt': 'math:sqrt'}, 3.0)
    """

    def __init__(self, field: str, group: str, own: Mapping[str, str]) -> None:
        self.field = field
        self.group = group
        self.own = dict(own)

    @cached_property
    def installed(self) -> dict[str, EntryPoint]:
        """The entry points of installed packages by name, without those that the package has itself."""
        from importlib.metadata import entry_points  # takes 50 ms, which `import experts` need not

        points = sorted(entry_points(group=self.group), key=lambda point: point.name)
        return {point.name: point for point in points if point.name not in self.own}

    def __getitem__(self, name: str) -> str:
        return self.own[name] if name in self.own else self.installed[name].value

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.installed

    def __len__(self) -> int:
        return len(self.own) + len(self.installed)

    def load(self, name: str) -> Any:
        """Import and return the object of a name.

        Args:
            name: a key of this mapping.

        Raises:
            InputError: the name is unknown, or the plugin that provides it cannot be imported.
        """
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            return getattr(import_module(module), attribute)
        if name not in self.installed:
            raise unknown_name(self.field, name, self)
        point = self.installed[name]
        try:
            return point.load()
        except Exception as error:  # a plugin's module can fail in any way
            package = "its package" if point.dist is None else point.dist.name
            problem = f"{point.value} cannot be imported ({type(error).__name__}: {error})"
            raise InputError(self.field, name, problem, f"repair or uninstall {package}") from error
