"""Installed packages add names by entry points; nothing is imported before a name is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from experts import InputError
from experts.io.plugins import PluginRegistry

GROUP = "router_rl.test_group"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginRegistry:
    """Return a registry with one own name and the four of an installed package."""
    (tmp_path / "toy_plugin.py").write_text("answer = 42\n")
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    info = tmp_path / "toy_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n")
    lines = ["toy = toy_plugin:answer", "sqrt = toy_plugin:answer", "gone = toy_plugin:nothing"]
    (info / "entry_points.txt").write_text(
        "\n".join([f"[{GROUP}]", *lines, "broken = broken_plugin:x"]) + "\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return PluginRegistry("function", GROUP, {"sqrt": "math:sqrt"})


def test_names_are_listed_without_importing_plugins(registry: PluginRegistry) -> None:
    assert list(registry) == ["sqrt", "broken", "gone", "toy"]  # a broken plugin does not break the list
    assert len(registry) == 4
    assert registry["toy"] == "toy_plugin:answer"


def test_objects_are_imported_when_used(registry: PluginRegistry) -> None:
    assert registry.load("toy") == 42
    assert registry.load("sqrt")(9.0) == 3.0  # a plugin cannot replace an own name


def test_errors_name_the_plugin(registry: PluginRegistry) -> None:
    with pytest.raises(InputError, match=r"function='broken'.*ZeroDivisionError.*uninstall toy-plugin"):
        registry.load("broken")
    with pytest.raises(InputError, match=r"function='gone'.*AttributeError"):
        registry.load("gone")
    with pytest.raises(InputError, match="function='tov': unknown; did you mean 'toy'"):
        registry.load("tov")
