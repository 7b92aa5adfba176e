"""Commands that are started on several processes: which are refused, and by what."""

from __future__ import annotations

from pathlib import Path

import pytest

import train_router


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--table", "digits", "--method", "ridge"],
        ["compare", "--table", "digits", "--methods", "ridge"],
    ],
)
def test_only_token_level_training_takes_several_processes(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train_router.main([*words, "--out", str(tmp_path / "run")]) == 2
    assert f"command='{words[0]}': runs on several processes for train --env token_moe only" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
