"""Programs run in the environments of real runtimes, and the table of what they found.

`make test-runtimes` builds the environments and sets ROUTER_RL_RUNTIMES to their folder; without it, no test
here is collected. A test asks for `runtime("vllm")`, runs a program of router_rl.exports in it, and records a
row of docs/benchmarks/runtimes.md with `record`. The page is written when all tests passed, with no skip.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runtimes.environments import ENVIRONMENTS, reason_absent
from runtimes.runtime_table import Row, digest_of_exports, write_page

from router_rl.exports.verify_layers import run_program

FOLDER = os.environ.get("ROUTER_RL_RUNTIMES")
if FOLDER is None:
    collect_ignore_glob = ["test_*.py"]

_ROWS = pytest.StashKey[list[Row]]()
_DIGEST = pytest.StashKey[str]()


@dataclass(frozen=True)
class Runtime:
    """The environment of a runtime.

    Attributes:
        name: of the environment.
        python: its interpreter.
    """

    name: str
    python: Path

    def run(self, module: str, request: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Run a program of router_rl.exports, and return what it answered.

        Args:
            module: of the program.
            request: is written as JSON.
            folder: of the request and the answer, and the program's working directory.
        """
        return run_program(str(self.python), f"router_rl.exports.{module}", request, folder)


@pytest.fixture(scope="session")
def runtime() -> Callable[[str], Runtime]:
    """Return a function that finds a runtime's environment, or skips the test with the reason."""

    def find(name: str) -> Runtime:
        assert name in ENVIRONMENTS
        folder = Path(str(FOLDER)).resolve()
        reason = reason_absent(name, folder)
        if reason is not None:
            pytest.skip(f"runtime {name} is not built: {reason}")
        return Runtime(name, folder / name / "bin" / "python")

    return find


@pytest.fixture(scope="session")
def converter(runtime: Callable[[str], Any]) -> Path:
    """Return the path of llama.cpp's convert_hf_to_gguf.py."""
    return runtime("llama").python.parents[1] / "llama.cpp" / "convert_hf_to_gguf.py"


@pytest.fixture(scope="session")
def tokenizer() -> bytes:
    """Return a SentencePiece model of 96 tokens, as many as the mixtures have."""
    import sentencepiece

    text = ["the router sends each token to the experts that know it best", "0123456789.,?!"] * 20
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(text),
        model_writer=written,
        vocab_size=96,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return written.getvalue()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Return a function that adds a row to the page."""
    rows = request.config.stash.setdefault(_ROWS, [])
    return rows.append


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep the digest of what is tested."""
    session.config.stash[_DIGEST] = digest_of_exports()


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Write the page, if every runtime ran and every test passed."""
    rows = config.stash.get(_ROWS, [])
    stats = terminalreporter.stats
    whole = not (config.option.keyword or config.option.markexpr) and config.args == ["tests/runtimes"]
    if rows and exitstatus == 0 and not stats.get("skipped") and whole:
        terminalreporter.write_line(write_page(rows, config.stash[_DIGEST]))
    elif rows:
        terminalreporter.write_line(
            "docs/benchmarks/runtimes.md is left as it was: not every test ran and passed"
        )
