from __future__ import annotations

from pathlib import Path

import pytest

from experts import InputError
from experts.io.cache import cache_folder


def test_the_variable_wins_over_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTER_RL_CACHE", str(tmp_path / "here"))
    assert cache_folder("a", "b") == tmp_path / "here" / "a" / "b"
    monkeypatch.delenv("ROUTER_RL_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder("a") == tmp_path / ".cache" / "router-rl" / "a"
    assert cache_folder("a").is_dir()


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROUTER_RL_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"ROUTER_RL_CACHE=.*cannot be written"):
        cache_folder("a")
