"""Error messages on one line, with options spelled as the user types them."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

from experts.io.errors import InputError, unknown_name

__all__ = ["METHOD_KEY", "one_line"]

# The parser's key for the options `--method.FIELD`: `method` is the key of the method's name.
METHOD_KEY = "hyperparameters"

# Errors of the system, and of libraries that read and write files.
_SYSTEM = (OSError, MemoryError, RecursionError)
_LIBRARIES = ("safetensors", "safetensors_rust", "pyarrow")
_FIXES = {
    errno.ENOSPC: "free some space and give the same command again",
    errno.EDQUOT: "free some space and give the same command again",
    errno.EACCES: "give a path that you may read and write",
    errno.EPERM: "give a path that you may read and write",
    errno.EROFS: "give a path that you may write",
}

_MISSING = re.compile(r"the following arguments are required: ([\w, ]+)")
_WRONG = re.compile(
    r'Parser key "([\w.]+)": (.*Expected a .*?)\.? (?:Got|Given value type:.*Given) value: (.*)'
)


def one_line(error: Exception | str, positional: Iterable[str] = ()) -> str:
    r"""Return the text of an error on one line.

    Args:
        error: an error of the toolkit or of the parser, or its text.
        positional: names of arguments that are typed without an option.

    >>> one_line("the following arguments are required: run, out", ["run"])
    'the following arguments are required: run, --out'
    >>> one_line("Parser key \"seed\": Expected a <class 'int'>. Got value: a")
    "seed='a': is not of type int; correct the value"
    >>> one_line(OSError(28, "No space left on device"))
    'No space left on device; free some space and give the same command again'
    """
    text = " ".join((error if isinstance(error, str) else _text_of(error)).split())
    missing = _MISSING.fullmatch(text)
    wrong = _WRONG.match(text)
    if missing is not None:
        names = missing[1].split(", ")
        typed = [name if name in positional else f"--{name.replace('_', '-')}" for name in names]
        text = f"the following arguments are required: {', '.join(typed)}"
    elif wrong is not None:
        text = str(_wrong_value(*wrong.groups()))
    return re.sub(rf"(?<![\w/]){METHOD_KEY}\.(\w+)", r"method.\1", text)


def _text_of(error: Exception) -> str:
    """Return the text of an error; of one of the system, or of a library that reads files, with what to do."""
    library = type(error).__module__.partition(".")[0]
    if not isinstance(error, _SYSTEM) and library not in _LIBRARIES:
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory is not enough for this input; give a smaller one"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply; give a flatter one"
    if not isinstance(error, OSError) or error.strerror is None:
        fix = _FIXES[errno.ENOSPC] if "No space left" in str(error) else "give a complete file"
        return f"{error}; {fix}"
    path = "" if error.filename is None else f"{str(error.filename)!r}: "
    return f"{path}{error.strerror}; {_FIXES.get(error.errno or 0, 'check the path')}"


def _wrong_value(field: str, expected: str, value: str) -> InputError:
    """Return the error of a value that the parser rejects.

    Args:
        field: the option.
        expected: the parser's description of the type.
        value: as it was typed.
    """
    literal = re.search(r"typing\.Literal\[(.*?)\]", expected)
    if literal is not None:
        return unknown_name(field, value, [choice.strip("'\"") for choice in literal[1].split(", ")])
    types = dict.fromkeys(re.findall(r"<class '(?:\w+\.)*(\w+)'>", expected))
    names = ["null" if name == "NoneType" else name for name in types]
    if not names:
        return InputError(field, value, "has the wrong type", "see --help")
    return InputError(field, value, f"is not of type {' or '.join(names)}", "correct the value")
