"""Bad values of every option of every command, made from the types of the options."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from router_rl.cli import COMMANDS, find_command
from router_rl.cli.command import Names
from router_rl.cli.command_arguments import GROUPS, expanded
from router_rl.methods.method import Method
from router_rl.methods.registry import find_method, method_names
from router_rl.problems.registry import find_options, problem_names

from .bad_case import BadCase
from .good_inputs import LINES

__all__ = ["option_cases", "value_cases"]

_NO_NUMBER = (
    "abc",
    "[1]",
    "{a: 1}",
    "[abc]",
    "2024-07-01",
    "0x",
    "é",
    "1,2;3",
    "\x1b[31mred",
    "a\nb",
    "True!",
)
_NO_INTEGER = (*_NO_NUMBER, "1.5", "1e20", "nan", "inf", "1e400", "true", "100000000000000000000")
_NO_REAL = (*_NO_NUMBER, "nan", ".nan", "inf", "-.inf", "1e400", "-1e400", "true")
_NO_SWITCH = ("maybe", "2", "nan", "[true]", "{a: true}", "1.5", "yes please")
_NO_NAME = ("nope", "1", "[hard]", "{a: 1}", "nan", "a" * 5000, "\x1b[31mred", "a\nb", "è", "../up", "*")
_NO_LIST = (
    "abc",
    "[abc]",
    "[[1]]",
    "{a: 1}",
    "[1, x]",
    "[nan]",
    "[inf]",
    "[1e400]",
    "[null]",
    "[true]",
    "[-1]",
)

# Numbers of things: none of them is no use.
_COUNTS = {
    *(
        "seeds",
        "n_trials",
        "jobs",
        "k",
        "window",
        "length",
        "train",
        "validation",
        "test",
        "episodes",
        "batch",
    ),
    *("epochs", "steps", "decisions", "lanes", "minibatch", "minibatches", "context", "concurrency", "limit"),
    *(
        "batch_size",
        "experts_per_token",
        "max_features",
        "min_df",
        "max_experts",
        "replicas",
        "repeats",
        "trees",
    ),
    *(
        "neighbours",
        "clusters",
        "members",
        "population",
        "generations",
        "streams",
        "horizon",
        "states",
        "depth",
    ),
    *("validate_every", "updates", "memory", "target_every", "reuse", "groups", "kept", "passes", "nearest"),
    *("components", "candidates", "min_samples_leaf", "hidden", "segments", "every", "full_marks", "epsilon"),
    *("buffer", "max_request_bytes", "poll_s", "fraction"),
}

# Numbers that may be negative.
_SIGNED = {"caution", "guard", "start"}

# Names that a command looks up: any other value is refused.
_NAMES = {"env", "method", "methods", "source", "format", "split", "cost_unit", "scorer", "select", "device"}
_NAMES |= {"sampler", "pruner", "engine"}

# Options whose value may be any text or any file; `files` and `paths` have their cases.
_ANYTHING = {"out", "undo", "keep", "study_name"}


def value_cases(rng: Random) -> list[BadCase]:
    """Return a bad value of each kind for every option of every command, as words and in a file.

    Args:
        rng: chooses whether a value stands in a word of its own, after `=`, or in a configuration file.
    """
    cases = []
    for line, option, kind in _options():
        for value in _bad_values(option, kind):
            cases.append(_as_words(line, option, value, rng))
    return cases


def option_cases() -> list[BadCase]:
    """Return command lines with unknown, missing, repeated and useless options."""
    cases = [
        BadCase(kind="option", words=words, names=names)
        for words, names in (
            (("trane",), ("trane",)),
            (("",), ("command",)),
            (("--nope",), ("--nope",)),
            (("tr\x1b[31main",), ("command",)),
            (("TRAIN",), ("TRAIN",)),
            (("train\n",), ("command",)),
        )
    ]
    for name, line in LINES.items():
        for extra in (("--nope",), ("--nope", "1"), ("--out.x", "1"), ("---",), ("--", "--nope"), ("-x",)):
            cases.append(BadCase(kind="option", words=(*line, *extra), names=_NAMED_IN_EXTRAS))
        cases.append(BadCase(kind="option", words=(*line, "one", "two"), names=("one", "two", "argument")))
        taking = [place for place, word in enumerate(line) if word.startswith("--") and word != "--quick"]
        for place in taking:
            option = line[place].removeprefix("--")
            without = (*line[:place], *line[place + 2 :])
            cases.append(BadCase(kind="option", words=(*without, f"--{option}"), names=(option,)))
            if option in _REQUIRED.get(name, ()):
                cases.append(BadCase(kind="option", words=without, names=(option, "argument", "data")))
            if option != "out" or name != "demo":
                cases.append(BadCase(kind="option", words=(*without, f"--{option}="), names=(option,)))
    cases.extend(_useless())
    return cases


_NAMED_IN_EXTRAS = ("--nope", "--out.x", "---", "-x", "argument", "option")

_REQUIRED = {
    "import": ("out",),
    "collect": ("out", "source"),
    "collect models": ("out", "models", "prompts"),
    "train": ("out", "table"),
    "tune": ("out", "table"),
    "compare": ("out", "table"),
    "evaluate": ("table",),
    "evaluate log": ("log",),
    "monitor": ("log", "table"),
    "add-expert": ("out", "probes", "table"),
    "export": ("out",),
    "assemble": ("base", "experts", "out"),
    "handover": ("routers", "model", "out"),
    "patch": ("model",),
    "serve": ("router", "models"),
    "log": ("out",),
}


# Sequences of token_moe: measuring the default number takes seconds of CPU.
_FEW = tuple(f"--problem.{name}=8" for name in ("length", "train", "validation", "test"))


def _useless() -> Iterator[BadCase]:
    """Yield options that the run cannot use."""
    train, compare = LINES["train"], LINES["compare"]
    for line, names in (
        ((*train, "--problem.loads", "[0.5]"), ("loads",)),
        ((*train, "--problem.max-experts", "2"), ("max-experts",)),
        ((*train, "--method.penalty", "0.1"), ("penalty",)),
        ((*train, "--problem.k", "1"), ("k",)),
        ((*train, "--problem.tree", "{a: [left], b: [right]}"), ("tree",)),
        ((*train, "--problem.log.epsilon", "0.5"), ("epsilon", "log")),
        ((*train, "--methods", "ridge"), ("--methods",)),
        ((*compare, "--method", "ridge"), ("--method",)),
        ((*compare, "--method.penalty", "1"), ("penalty",)),
        ((*compare, "--compute-weights", "0.1", "--objective.compute-weight", "0.1"), ("compute_weight",)),
        ((*compare, "--compute-weights", "0.1,0.1"), ("compute_weight",)),
        ((*compare, "--compute-weights", "0.1,,0.2"), ("compute_weight",)),
        ((*compare, "--compute-weights", "a,b"), ("compute_weight",)),
        ((*compare, "--compute-weights", "0.1,nan"), ("compute_weight",)),
        ((*compare, "--methods", "ridge,ridge"), ("methods",)),
        ((*compare, "--methods", "ridge,nope"), ("nope",)),
        ((*compare, "--methods", ","), ("methods",)),
        ((*compare, "--methods", "[]"), ("methods",)),
        (("compare", "--table", "table.parquet", "--env", "nope", "--out", "out"), ("env", "nope")),
        (("train", "--env", "token_moe", "--table", "table.parquet", "--out", "out"), ("table",)),
        (("train", "--env", "token_moe", "--objective.compute-weight", "1", "--out", "out"), ("objective",)),
        ((*LINES["train token_moe"], "--problem.pool", "small"), ("pool", "small")),
        ((*LINES["train token_moe"], "--problem.pool", "answers", "--problem.base", "b"), ("base",)),
        (("train", "--env", "token_moe", "--method", "grpo", *_FEW, "--out", "out"), ("grpo", "answers")),
        ((*LINES["train token_moe"], "--problem.prompts", "prompts.csv"), ("base",)),
        ((*LINES["train token_moe"], "--problem.scorer", "numeric"), ("scorer", "numeric")),
        ((*LINES["train token_moe"], "--problem.answer-tokens", "0"), ("answer_tokens", "0")),
        (("compare", "--env", "token_moe", "--compute-weights", "1", "--out", "out"), ("compute_weights",)),
        ((*LINES["train cascade"], "--objective.load-weight", "1"), ("load_weight",)),
        ((*LINES["train queueing"], "--objective.budget", "1"), ("budget",)),
        ((*LINES["train queueing"], "--problem.servers", "engines"), ("servers",)),
        ((*LINES["train queueing"], "--problem.api.burst-s", "0"), ("burst",)),
        ((*LINES["train caching"], "--objective.max-cost", "1"), ("max_cost",)),
        ((*LINES["evaluate"], "--on", "2024-07-01"), ("on", "prices")),
        ((*LINES["evaluate log"], "--prices", "prices.yaml"), ("prices",)),
        ((*LINES["evaluate log"], "--placement", "0,1"), ("placement",)),
        ((*LINES["evaluate log"], "--split", "train"), ("split",)),
        ((*LINES["evaluate"], "--placement", "0"), ("placement",)),
        ((*LINES["evaluate"], "--placement", "0,5"), ("placement",)),
        ((*LINES["evaluate"], "--placement", "0,-1"), ("placement",)),
        ((*LINES["evaluate"], "--placement", "a,b"), ("placement",)),
        ((*LINES["export"], "--distil"), ("table", "distil")),
        ((*LINES["export"], "--at", "0.2"), ("at",)),
        ((*LINES["import"], "--on", "2024-07-01"), ("on", "prices")),
        ((*LINES["import"], "--metric", "nope"), ("metric",)),
        ((*LINES["import"], "--prices", "prices.yaml", "--on", "1999-01-01"), ("on", "prices")),
        ((*LINES["import"], "--prices", "prices.yaml", "--on", "yesterday"), ("on",)),
        ((*LINES["collect"], "--prompts", "prompts.csv"), ("prompts",)),
        ((*LINES["collect"], "--models", "models.yaml"), ("source", "models")),
        ((*LINES["collect"], "--scorer", "numeric"), ("scorer",)),
        ((*LINES["collect"], "--limit", "3"), ("limit",)),
        ((*LINES["collect models"], "--batch-size", "3"), ("batch",)),
        (("collect", "--models", "models.yaml", "--out", "out.parquet"), ("prompts",)),
        ((*LINES["handover"], "--distil", "routers/layer-0/router.safetensors"), ("distil",)),
        ((*LINES["assemble"], "--layers", "7"), ("layers",)),
        ((*LINES["assemble"], "--layers", "0,0"), ("layers",)),
        ((*LINES["assemble"], "--layers", "a"), ("layers",)),
        ((*LINES["assemble"], "--experts-per-token", "3"), ("experts_per_token",)),
        ((*LINES["assemble"], "--segments", "3"), ("segments",)),
        ((*LINES["assemble"], "--form", "deepseek", "--segments", "3"), ("segments",)),
        ((*LINES["assemble"], "--form", "deepseek", "--shared", "4"), ("shared",)),
        (("assemble", "--base", "base", "--experts", "code,code", "--out", "out"), ("experts",)),
        (("assemble", "--base", "base", "--experts", "code", "--out", "out"), ("experts",)),
        (("assemble", "--base", "base", "--experts", ",", "--out", "out"), ("experts",)),
        ((*LINES["serve"], "--explore", "1.5"), ("explore",)),
        ((*LINES["serve"], "--port", "70000"), ("port",)),
        ((*LINES["serve"], "--host", "192.0.2.1"), ("port", "host")),  # no address of this machine
        ((*LINES["serve"], "--host", "a" * 300), ("port", "host")),
        ((*LINES["serve"], "--api-key-env", "NO_SUCH_VARIABLE"), ("api_key_env",)),
        ((*LINES["serve"], "--hash-key-env", "NO_SUCH_VARIABLE"), ("hash_key_env",)),
        (("serve", "--router", "run/router", "--models", "models.yaml", "--port", "0"), ("router",)),
        ((*LINES["serve"], "--shadow", "run/router"), ("shadow",)),
        (("promote", "run/router", "--log", "sqlite:///decisions.db"), ("router",)),
        ((*LINES["promote"], "--fraction", "1.5"), ("fraction",)),
        (("log", "exports", "--out", "exported.parquet"), ("action",)),
        (("log", "import", "--out", "exported.parquet"), ("source",)),
        ((*LINES["log"], "--since", "1e12"), ("log",)),  # no decision is so new
        ((*LINES["bench"], "--threads", "0"), ("threads",)),
        ((*LINES["bench"], "--threads", "a"), ("threads",)),
        ((*LINES["bench"], "--repeats", "3"), ("repeats", "quick")),
    ):
        yield BadCase(kind="useless", words=line, names=names)


def _options() -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Yield the command line, name and type of every option, hyperparameters and nested fields included."""
    for name, line in LINES.items():
        command = find_command(line[0])
        skipped = {row[0] for row in (*command.positional, *command.switches)} | set(GROUPS)
        hints = {key: kind for key, kind in get_type_hints(command.run).items() if key not in skipped}
        for key in expanded(command):
            hints |= get_type_hints(hints.pop(key))
        for key in ("return", "prefix"):
            hints.pop(key, None)
        if name == line[0]:  # the options of a command, once
            yield from ((line, key, kind) for key, kind in hints.items())
        if command.groups is None:
            continue
        env = line[line.index("--env") + 1] if "--env" in line else "routing"
        groups = command.groups(Names(env=env, method="none" if "--method" not in line else None))
        yield from _fields(line, "problem", find_options(env))
        if name == line[0] and "objective" in groups:
            yield from _fields(line, "objective", groups["objective"])
    done: set[type] = set()
    for env in problem_names():
        line = LINES["train" if env == "routing" else f"train {env}"]
        for name in method_names(env):
            method = find_method(env, name)
            if isinstance(method, Method) and method.hyperparameters not in done:
                done.add(method.hyperparameters)
                yield from _fields(_with_method(line, name), "method", method.hyperparameters)


def _with_method(line: tuple[str, ...], method: str) -> tuple[str, ...]:
    """Return a command line with another method, without hyperparameters."""
    place = line.index("--method")
    rest = [word for word in line[place + 2 :] if word != "1" and not word.startswith("--method.")]
    return (*line[: place + 1], method, *rest)


def _fields(line: tuple[str, ...], prefix: str, options: type) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Yield the fields of an options dataclass, and those of the dataclasses in it."""
    hints = get_type_hints(options)
    for each in fields(options):  # pyright: ignore[reportArgumentType] (a dataclass)
        kind = hints[each.name]
        if is_dataclass(kind):
            yield from _fields(line, f"{prefix}.{each.name}", kind)  # type: ignore[arg-type]
        else:
            yield line, f"{prefix}.{each.name}", kind


def _bad_values(option: str, kind: Any) -> list[str]:
    """Return values that an option of a type must refuse."""
    name = option.rpartition(".")[2]
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    kinds = {get_origin(one) or one for one in choices}
    own: list[str] = [] if type(None) in kinds or kind is Any else ["null"]
    if name in _ANYTHING:
        return own
    if kinds <= {int, type(None)}:
        own += [*_NO_INTEGER, "-1", *(["0"] if name in _COUNTS else [])]
    elif kinds <= {float, type(None)}:
        own += [*_NO_REAL, *([] if name in _SIGNED else ["-1"]), *(["0"] if name in _COUNTS else [])]
    elif kinds <= {bool, type(None)}:
        own += _NO_SWITCH
    elif Literal in kinds or name in _NAMES:
        own += _NO_NAME
    elif tuple in kinds or list in kinds:
        numbers = {int, float} & {part for one in choices for part in (*get_args(one), one)}
        own += (
            [*_NO_LIST, *(["[1.5]"] if numbers == {int} else [])] if numbers else ["{a: 1}", "[[1]]", "[1]"]
        )
        own += ["[0]", "[100000000000]"] if name in ("hidden", "critic_hidden") else []
    elif Mapping in kinds or dict in kinds:
        own += [
            "abc",
            "1",
            "[1]",
            "{x: 5}",
            "{x: [5]}",
            "{x: []}",
            "{}",
            "[]",
            "{x: {y: {z: [left]}}}",
            "{x: [left]}",
        ]
    elif kinds <= {str, Path, type(None)} and name not in ("patch", "run"):
        own += ["missing", "\x1b[31mred", "a\nb", "m" * 5000, "[1]", "{a: 1}"]
    return own


def _as_words(line: tuple[str, ...], option: str, value: str, rng: Random) -> BadCase:
    """Return a command line with a bad value: a word of its own, after `=`, or in a configuration file."""
    typed = f"--{option.replace('_', '-')}"
    line = _without(line, typed)
    if option == "problem.tree":
        line = (*line, "--problem.select", "hierarchical")
    names = (option, option.rpartition(".")[2])
    form = rng.choice(("word", "equals", "file"))
    if form == "word":
        return BadCase(kind="value", words=(*line, typed, value), names=names)
    if form == "equals":
        return BadCase(kind="value", words=(*line, f"{typed}={value}"), names=names)
    parts = option.replace("method.", "hyperparameters.", 1).split(".")
    content = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(parts)).rstrip()

    def prepare(folder: Path) -> None:
        shown = value if value.isprintable() else repr(value).replace("\\x1b", "\\e").replace("'", '"')
        (folder / "config.yaml").write_text(f"{content} {shown}\n", encoding="utf-8")

    # A value such as `2024-07-01` or `1e20` may have another type in YAML, but none that is right. What is no
    # YAML at all is an error of the file.
    words = (*line, "--config", "bad/config.yaml")
    return BadCase(
        kind="value",
        words=words,
        names=(*names, "config.yaml"),
        about=f"{option}: {value!r}",
        prepare=prepare,
    )


def _without(line: tuple[str, ...], typed: str) -> tuple[str, ...]:
    """Return a command line without an option and its value."""
    if typed not in line:
        return line
    place = line.index(typed)
    return (*line[:place], *line[place + 2 :])


assert set(COMMANDS) == {line[0] for line in LINES.values()}  # every command has a valid line
