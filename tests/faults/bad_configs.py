"""Bad configuration files: wrong shapes, unknown keys, bombs, and files that never end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .bad_case import BadCase, Prepare
from .good_inputs import LINES

__all__ = ["config_cases"]

_CONFIG = "bad/config.yaml"

# Content that no command takes.
_CONTENT: dict[str, str | bytes] = {
    "list": "[1, 2]\n",
    "list of mappings": "- out: x\n- out: y\n",
    "scalar": "hello\n",
    "number": "7\n",
    "unclosed": "out: [1, 2\n",
    "tabs": "a:\n\tb: 1\n",
    "two documents": "json: true\n---\njson: true\n",
    "not UTF-8": b"out: \xff\xfe\n",
    "NUL": b"out: a\0b\n",
    "binary": bytes(range(256)),
    "unknown key": "nope: 1\n",
    "unknown nested key": "problem: {nope: {deep: [1]}}\nnope: 1\n",
    "key that is a number": "1: 2\n",
    "key that is null": "null: 2\n",
    "key that is a list": "? [a, b]\n: 2\n",
    "key with control characters": '"\\e[31mred": 1\n',
    "duplicate key": "json: true\njson: false\n",
    "object": "json: !!python/object/apply:os.system ['touch hacked']\n",
    "unknown tag": "json: !nope 1\n",
    "recursive": "json: &a [*a]\n",
    "undefined alias": "json: *nope\n",
    "alias bomb": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)),
    "merge bomb": "a: &a {x: 1}\n"
    + "".join(f"m{n}: {{<<: [{', '.join(['*a'] * 2000)}]}}\n" for n in range(50)),
    "deep lists": "json: " + "[" * 20_000 + "]" * 20_000 + "\n",
    "deep mappings": "json: " + "{a: " * 5_000 + "1" + "}" * 5_000 + "\n",
    "deep blocks": "".join(f"{' ' * depth}a:\n" for depth in range(3_000)),
    "long line": "json: " + "x" * 3_000_000 + "\n",
    "many keys": "".join(f"key{n}: 1\n" for n in range(200_000)),
    "digits": "json: " + "9" * 100_000 + "\n",
    "version 1": "tries: 3\n",
    "config in config": "config: config.yaml\n",
    "print_config": "print_config: true\n",
    "json is no switch": "json: maybe\n",
    "out is a list": "out: [a, b]\n",
    "out is a mapping": "out: {a: b}\n",
    "out is null": "out: null\n",
    "out is a number": "out: 1e400\n",
}

_OWN: dict[str, dict[str, str]] = {
    "train": {
        "problem is a list": "problem: [1]\n",
        "problem is a number": "problem: 3\n",
        "problem is null": "problem: null\n",
        "problem is a word": "problem: routing\n",
        "objective is a number": "objective: 0.1\n",
        "objective is a list": "objective: [{compute_weight: 0.1}]\n",
        "hyperparameters are a list": "hyperparameters: [epochs, 3]\n",
        "hyperparameters are a word": "hyperparameters: fast\n",
        "hyperparameters are null": "hyperparameters: null\n",
        "method is a mapping": "method: {epochs: 3}\n",
        "method is a list": "method: [ridge]\n",
        "method is a number": "method: 3\n",
        "env is a list": "env: [routing]\n",
        "env is a mapping": "env: {routing: 1}\n",
        "env is null and method is not": "env: null\nmethod: 7\n",
        "unknown hyperparameter": "hyperparameters: {nope: 1}\n",
        "unknown option": "problem: {nope: 1}\n",
        "unknown objective": "objective: {nope: 1}\n",
        "unknown nested option": "problem: {log: {nope: 1}}\n",
        "nested option is a list": "problem: {log: [1]}\n",
        "nested option is null": "problem: {log: null}\n",
        "class path": "problem: {class_path: os.system, init_args: {command: ls}}\n",
        "class path of an option": "problem: {log: {class_path: subprocess.Popen, init_args: {args: ls}}}\n",
        "a key with dots": "problem.nope: 1\n",
        "duplicate nested key": "problem: {k: 1, k: 2}\n",
    },
    "compare": {
        "methods are numbers": "methods: [1, 2]\n",
        "methods are nested": "methods: [[ridge]]\n",
        "methods are a mapping": "methods: {ridge: 1}\n",
        "weights are nested": "compute_weights: [[0.1]]\n",
        "weights are words": "compute_weights: [a]\n",
        "weights are a mapping": "compute_weights: {a: 1}\n",
        "seeds are a list": "seeds: [1, 2]\n",
    },
}

# Where `out` is a setting, these words of a line are left out.
_SET_BY_FILE = ("out", "problem", "objective", "hyperparameters", "method", "methods", "env", "seeds")


def config_cases() -> list[BadCase]:
    """Return bad configuration files for every command."""
    cases = []
    for name, line in LINES.items():
        if name != line[0]:
            continue
        for about, content in {**_CONTENT, **_OWN.get(name, {})}.items():
            if about.startswith("out is") and ("--out" not in line or name == "demo"):
                continue
            if about == "out is null" and name in ("bench", "patch"):
                continue  # they need none
            words = (*_rest(line, about), "--config", _CONFIG)
            names = ("config", *_keys(about, content))
            cases.append(
                BadCase(kind="config", words=words, names=names, about=about, prepare=_writes(content))
            )
        for about, prepare in _FILES.items():
            words = (*line, "--config", _CONFIG)
            cases.append(BadCase(kind="config", words=words, names=("config",), about=about, prepare=prepare))
        for path in (
            "/dev/zero",
            "/dev/null/x",
            "missing.yaml",
            ".",
            "/proc/self/mem",
            "a\0b",
            "a" * 5000,
            "a\nb",
        ):
            cases.append(BadCase(kind="config", words=(*line, "--config", path), names=("config",)))
    return cases


def _rest(line: tuple[str, ...], about: str) -> tuple[str, ...]:
    """Return a line without the options that the file sets, so that the file decides."""
    first = about.split(" ", maxsplit=1)[0]
    option = {"hyperparameters": "method.epochs"}.get(first, first)
    if first not in _SET_BY_FILE or f"--{option}" not in line:
        return line
    place = line.index(f"--{option}")
    return (*line[:place], *line[place + 2 :])


def _keys(about: str, content: str | bytes) -> tuple[str, ...]:
    """Return the key that an error may name in place of the file."""
    words = (
        "nope",
        "tries",
        "json",
        "out",
        "problem",
        "objective",
        "hyperparameters",
        "method",
        "methods",
        "env",
    )
    own = ("compute_weight", "seeds", "log", "1", "key", "red")
    text = content.decode("latin-1") if isinstance(content, bytes) else content[:200]
    return tuple(word for word in (*words, *own) if word in text)


def _writes(content: str | bytes) -> Prepare:
    def prepare(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / "config.yaml").write_bytes(data)

    return prepare


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "config.yaml")


def _folder(folder: Path) -> None:
    (folder / "config.yaml").mkdir()


def _loop(folder: Path) -> None:
    (folder / "config.yaml").symlink_to("config.yaml")


def _huge(folder: Path) -> None:
    with (folder / "config.yaml").open("wb") as file:
        file.truncate(20 << 30)  # a sparse file: it takes no space


def _endless(folder: Path) -> None:
    (folder / "config.yaml").symlink_to("/dev/zero")


_FILES: dict[str, Callable[[Path], None]] = {
    "FIFO": _fifo,
    "folder": _folder,
    "link to itself": _loop,
    "20 GiB of zeros": _huge,
    "link to /dev/zero": _endless,
}
