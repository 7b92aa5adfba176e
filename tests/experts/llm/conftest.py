"""Models on a faulty server of this machine, and prompts to ask them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from fault_server import FaultServer


def add_or_not(model: str, prompt: str) -> str:
    """`large` adds, `small` adds where the first number is below 5, judges grade the answer 5 a 10."""
    if model == "grader":
        return "Grade: 10" if re.search(r"<answer>\s*5\s*</answer>", prompt) else "0"
    first, second = map(int, re.findall(r"\d+", prompt)[:2])
    return str(first + second) if model == "large" or first < 5 else "I don't know"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(add_or_not) as running:
        yield running


@pytest.fixture
def write_models(server: FaultServer, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a list of models on the server, with fields for all of them."""

    def write(*names: str, judge: dict | None = None, **fields: object) -> Path:
        common = {"api_base": server.url, "timeout": 20, "price": {"input": 1.0, "output": 4.0}, **fields}
        models = [{"name": name, "model": f"openai/{name}", **common} for name in names or ("small", "large")]
        path = tmp_path / "models.yaml"
        path.write_text(yaml.safe_dump({"models": models, **({"judge": judge} if judge else {})}))
        return path

    return write


@pytest.fixture
def write_prompts(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the sums i + (i + 1), with faults at some rows."""

    def write(count: int, faults: dict[int, str] | None = None) -> Path:
        rows = [
            {
                "prompt": f"{i} + {i + 1} ="
                + (f" <<{faults[i]}>>" if faults is not None and i in faults else ""),
                "reference": str(2 * i + 1),
                "group": "odd" if i % 2 else "even",
            }
            for i in range(count)
        ]
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
