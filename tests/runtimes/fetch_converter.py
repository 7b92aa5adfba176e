"""Puts llama.cpp's own converter of models into this environment, from the sources of llama-cpp-python.

The package llama-cpp-py-sync has llama.cpp, but not the converter. It is extracted, not installed: nothing is
compiled.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

_PACKAGE, _VERSION = "llama-cpp-python", "0.3.36"
_PARTS = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")


def main() -> None:
    """Download the sources and extract the converter to llama.cpp/ in the environment."""
    home = Path(sys.prefix)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
        wanted = ["--no-binary", _PACKAGE, f"{_PACKAGE}=={_VERSION}", "--dest", folder]
        subprocess.run([*pip, *wanted], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as sources:
            for member in sources.getmembers():
                inside = member.name.partition("/vendor/llama.cpp/")[2]
                if inside.startswith(_PARTS):
                    member.name = inside
                    sources.extract(member, home / "llama.cpp", filter="data")


if __name__ == "__main__":
    main()
