"""The command line: collect outcomes, train a router, compare, evaluate, export.

Every option can stand in a YAML file (`--config FILE.yaml`; `--print_config` writes one). A user's mistake
ends with exit status 2 and one line that names the field, the value and the fix; `--debug` shows where.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from rich.console import Console

from experts import InputError
from experts.io.atomic import replacing
from router_rl.cli import COMMANDS
from router_rl.reports.terminal import paths_of
from router_rl.routing import RouterError

__all__ = ["main"]

out = Console()
err = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    words = _switched_on(map(_with_underscores, sys.argv[1:] if arguments is None else arguments))
    debug = "--debug" in words
    try:
        parser, parsers = _parsers()
        config = parser.parse_args([word for word in words if word != "--debug"])
        name = config.subcommand
        chosen = parser.instantiate(config)[name].as_dict()
        chosen.pop("config", None)
        as_json = chosen.pop("json")
        command = COMMANDS[name]
        torch.set_num_threads(1)  # routers are small: more threads only get in each other's way
        found = command.run(**chosen)
        if command.keeps_config:
            with replacing(Path(chosen["out"]) / "config.yaml") as temporary:
                temporary.write_text(parsers[name].dump(config[name]), encoding="utf-8")
    except (InputError, RouterError, jsonargparse.ArgumentError) as error:
        return _fail(error, debug)
    except KeyboardInterrupt:
        err.print("\nStopped. The same command goes on from the last checkpoint.")
        return 130
    if as_json:
        print(json.dumps(found, allow_nan=False))
    else:
        out.print(command.view(found))
        for line in paths_of(found):
            out.print(line, soft_wrap=True, markup=False, highlight=False)  # whole, to be copied
    return 0


def _parsers() -> tuple[jsonargparse.ArgumentParser, dict[str, jsonargparse.ArgumentParser]]:
    """The whole parser, and each command's own by name."""
    parser = jsonargparse.ArgumentParser(
        prog="train_router.py",
        description="Learn which frozen expert should do the work: by reinforcement learning, compared "
        "fairly with softmax gates, exported as a small torch module.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(required=True)
    each: dict[str, jsonargparse.ArgumentParser] = {}
    for name, command in COMMANDS.items():
        about = (command.run.__doc__ or "").split("\n")[0]
        sub = jsonargparse.ArgumentParser(description=about, exit_on_error=False, allow_abbrev=False)
        sub.add_argument("--config", action="config", help="a YAML file of options")
        sub.add_argument("--json", action="store_true", help="print JSON")
        for argument, kind, meaning in command.positional:
            default = inspect.signature(command.run).parameters[argument].default
            optional: dict[str, Any] = (
                {} if default is inspect.Parameter.empty else {"nargs": "?", "default": default}
            )
            sub.add_argument(argument, type=kind, help=meaning, **optional)
        for switch, meaning in command.switches:
            sub.add_argument(f"--{switch}", action="store_true", help=meaning)
        skipped: set[str | int] = {row[0] for row in (*command.positional, *command.switches)}
        sub.add_function_arguments(command.run, as_group=False, as_positional=False, skip=skipped)
        commands.add_subcommand(name, sub, help=about)
        each[name] = sub
    return parser, each


def _with_underscores(word: str) -> str:
    """`--objective.compute-weight=0.1` as `--objective.compute_weight=0.1`; values are left alone."""
    match = re.match(r"--[A-Za-z][\w.-]*", word)
    return (
        word
        if match is None
        else match.group().replace("-", "_").replace("__", "--", 1) + word[match.end() :]
    )


def _switched_on(words: Iterable[str]) -> list[str]:
    """`--drop_leaks` alone as `--drop_leaks=true`, for every option of a command that is true or false."""
    switches = {
        f"--{name}"
        for command in COMMANDS.values()
        for name, option in inspect.signature(command.run).parameters.items()
        if option.annotation == "bool" and name not in dict(command.switches)
    }
    found: list[str] = []
    for word in words:
        if found and found[-1] in switches and word.lower() not in ("true", "false", "yes", "no"):
            found[-1] += "=true"
        found.append(word)
    if found and found[-1] in switches:
        found[-1] += "=true"
    return found


def _fail(error: Exception, debug: bool) -> int:
    if debug:
        err.print_exception()
    # The parser names options as train.out; the user typed --out.
    text = re.sub(rf"\b({'|'.join(COMMANDS)})\.(\w+)", r"--\2", str(error))
    err.print(f"error: {text}", markup=False, highlight=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
