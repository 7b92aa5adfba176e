"""Formats are found by name, those of installed packages too, and listing them imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experts import InputError
from experts.io.plugins import PluginRegistry
from router_rl.exports import FORMATS, Format, find_format, format_names, registry

PLUGIN = """
raise SystemExit("listing imports the plugin")
"""


def install(folder: Path, name: str, content: str, value: str) -> None:
    """Install a package with one export format into a folder, as pip leaves it."""
    (folder / f"{name}_plugin.py").write_text(content)
    info = folder / f"{name}_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[router_rl.formats]\n{name} = {value}\n")


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_name_leads_to_a_format(name: str) -> None:
    assert isinstance(find_format(name), Format)


def test_listing_imports_neither_torch_nor_the_plugin(tmp_path: Path) -> None:
    install(tmp_path, "frozen", PLUGIN, "frozen_plugin:FORMAT")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from router_rl.exports import format_names\n"
        "print(*format_names())\n"
        "assert not {'torch', 'frozen_plugin'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*FORMATS, "frozen"]


def test_a_plugins_format_is_imported_when_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "from router_rl.exports.safetensors import FORMAT\n"
    install(tmp_path, "thawed", content, "thawed_plugin:FORMAT")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "FORMATS", PluginRegistry("format", FORMATS.group, FORMATS.own))
    assert format_names() == [*FORMATS.own, "thawed"]
    assert find_format("thawed") is find_format("safetensors")


def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"format='safetensor': unknown; did you mean 'safetensors'"):
        find_format("safetensor")
