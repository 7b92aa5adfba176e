"""The wrapper of llama.cpp's converter; `tests/runtimes/test_llama_cpp.py` runs it with the converter."""

from __future__ import annotations

from pathlib import Path

import pytest

from experts.moe.gguf_converter import main


@pytest.mark.parametrize("arguments", [[], ["nowhere/convert_hf_to_gguf.py", "mixture"]])
def test_the_converter_must_be_named(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: give the path of llama.cpp's convert_hf_to_gguf.py"):
        main(arguments)
    with pytest.raises(SystemExit, match="error: give the path"):
        main([str(tmp_path)])
