"""The command line: collect outcomes, train a router, compare, evaluate, export.

Every option can be set in a YAML file (`--config FILE.yaml`; `--print_config` writes one). A user error ends
with exit status 2 and one line that names the field, the value and the fix; `--debug` shows the traceback.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experts.io.errors import unknown_name
from router_rl.cli import COMMANDS, Command, find_command

__all__ = ["main"]

_ABOUT = """Train a router over frozen experts by reinforcement learning, compare it with
softmax gates and simple rules, and export it as a small torch module."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        arguments: the words after the program's name; `sys.argv[1:]` if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        import router_rl

        print(f"router-rl {router_rl.__version__}")
        return 0
    if words[0] not in COMMANDS:
        return _fail(unknown_name("command", words[0], COMMANDS), debug)
    return _run(words[0], words[1:], debug)


def _run(name: str, words: list[str], debug: bool) -> int:
    import jsonargparse

    from router_rl.cli.command_arguments import arguments_of, boolean_options
    from router_rl.cli.error_text import is_reported
    from router_rl.cli.launched import launched, options_of_process
    from router_rl.cli.outputs import check_words, reserved
    from router_rl.cli.parsing import build_parser, names_given, normalised

    command = find_command(name)
    try:
        check_words(words)
        words = normalised(words)
        words = _switched_on(words, boolean_options(command))
        parser = build_parser(name, command, names_given(words), words)
        config = parser.parse_args(words)
        options: dict[str, Any] = parser.instantiate(config).as_dict()
        options.pop("config", None)
        as_json = options.pop("json")
        _use_one_thread()
        if launched():
            options = options_of_process(name, options)
        with reserved(command, options):
            result = command.run(**arguments_of(command, options))
            if command.keeps_config:
                _write_config(Path(options["out"]) / "config.yaml", parser.dump(config))
    except jsonargparse.ArgumentError as error:
        return _fail(error, debug, [argument for argument, *_ in command.positional])
    except KeyboardInterrupt:
        print("\nStopped. The same command resumes from the last checkpoint.", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_reported(error):
            raise
        return _fail(error, debug)
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        _show(command, result)
    return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: train_router.py COMMAND [options]",
            "       train_router.py COMMAND --help",
            "",
            _ABOUT,
            "",
            "commands:",
            *lines,
            "",
            "  --version  print the version",
            "  --debug    show the traceback of an error",
        ]
    )


def _use_one_thread() -> None:
    """Use one torch thread: routers are small, and more threads are slower."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _show(command: Command, result: dict[str, Any]) -> None:
    from rich.console import Console

    from experts.io.escaping import shown
    from router_rl.reports.terminal import facts_view, paths_of

    out = Console(markup=False, emoji=False)  # names from outside are no markup
    safe = {name: value if name in command.documents else shown(value) for name, value in result.items()}
    out.print((command.view or facts_view)(safe))
    for line in paths_of(result):
        out.print(
            line, soft_wrap=True, markup=False, highlight=False
        )  # not wrapped, so that it can be copied


def _write_config(path: Path, content: str) -> None:
    from experts.io.atomic import replacing
    from router_rl.cli.log_source import without_passwords

    with replacing(path) as temporary:
        temporary.write_text(without_passwords(content), encoding="utf-8")


def _switched_on(words: Sequence[str], booleans: Iterable[str]) -> list[str]:
    """Replace `--drop_leaks` without a value by `--drop_leaks=true`, for boolean options."""
    switches = {f"--{name}" for name in booleans}
    values = ("true", "false", "yes", "no")
    return [
        f"{word}=true"
        if word in switches and (position + 1 == len(words) or words[position + 1].lower() not in values)
        else word
        for position, word in enumerate(words)
    ]


def _fail(error: Exception, debug: bool, positional: Sequence[str] = ()) -> int:
    from router_rl.cli.error_text import one_line

    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"error: {one_line(error, positional)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
