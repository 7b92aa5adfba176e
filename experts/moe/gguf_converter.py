"""Runs llama.cpp's own converter on an assembled mixture, with the tokenizer of the mixture's base.

    python -m experts.moe.gguf_converter llama.cpp/convert_hf_to_gguf.py mixture --outfile mixture.gguf

All arguments after the converter are its own. It writes the tokenizer of a GLM-4-MoE, which the deepseek form
is, with special tokens of GLM's, and ends with KeyError: '[gMASK]' where the base is another model. Here it
writes the tokenizer as it writes a Llama's: from `tokenizer.model` or `tokenizer.json`, whichever there is.
"""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Run the converter in this process.

    Args:
        arguments: path of convert_hf_to_gguf.py, then the converter's own.
    """
    if not arguments or not Path(arguments[0]).is_file():
        sys.exit("error: give the path of llama.cpp's convert_hf_to_gguf.py, then the converter's arguments")
    folder = Path(arguments[0]).resolve().parent
    sys.path[0:0] = [str(folder), str(folder / "gguf-py")]  # its own version of gguf
    glm: Any = import_module("conversion.glm").Glm4MoeModel  # pyright: ignore[reportAny]
    llama: Any = import_module("conversion.llama").LlamaModel
    glm.set_vocab = llama.set_vocab
    glm.origin_hf_arch = None  # read by a Llama's set_vocab
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
