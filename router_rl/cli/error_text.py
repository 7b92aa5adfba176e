"""Error messages on one line, with options spelled as the user types them."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterable
from typing import Any

from experts.io.checked_options import wrong_type
from experts.io.errors import InputError
from experts.io.printable import one_line_of

__all__ = ["METHOD_KEY", "as_typed", "is_reported", "one_line", "parser_error"]

# The parser's key for the options `--method.FIELD`: `method` is the key of the method's name.
METHOD_KEY = "hyperparameters"

# Errors of the system, and of libraries that read and write files.
_SYSTEM = (OSError, MemoryError, RecursionError)
_LIBRARIES = ("safetensors", "safetensors_rust", "pyarrow")
_NO_MEMORY = re.compile(r"DefaultCPUAllocator|out of memory|Unable to allocate")  # of torch and numpy
_FIXES = {
    errno.ENOSPC: "free some space and give the same command again",
    errno.EDQUOT: "free some space and give the same command again",
    errno.EACCES: "give a path that you may read and write",
    errno.EPERM: "give a path that you may read and write",
    errno.EROFS: "give a path that you may write",
}

_MISSING = re.compile(r"the following arguments are required: ([\w, ]+)")
_KEY = re.compile(r'Parser key "([\w.]+)"')
_VALUE = re.compile(r"(?:Got|Given) value: (.*)", re.DOTALL)
_WITHOUT = re.compile(r"argument --([\w.]+): expected one argument")
_LONGEST = 1200  # characters of a message


def one_line(error: Exception | str, positional: Iterable[str] = ()) -> str:
    r"""Return the text of an error on one line, without control characters.

    Args:
        error: an error of the toolkit or of the parser, or its text.
        positional: names of arguments that are typed without an option.

    >>> one_line("the following arguments are required: run, out", ["run"])
    'the following arguments are required: run, --out'
    >>> one_line(OSError(28, "No space left on device"))
    'No space left on device; free some space and give the same command again'
    """
    text = one_line_of(error if isinstance(error, str) else _text_of(error))
    missing = _MISSING.fullmatch(text)
    if missing is not None:
        names = missing[1].split(", ")
        typed = [name if name in positional else f"--{name.replace('_', '-')}" for name in names]
        return f"the following arguments are required: {', '.join(typed)}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"


def is_reported(error: Exception) -> bool:
    """Return whether an error is the fault of the input or of the system, so that one line is enough.

    Args:
        error: any error but those of the parser.

    >>> is_reported(InputError("k", 0, "is 0", "use 1")), is_reported(KeyError("k"))
    (True, False)
    """
    names = {each.__name__ for each in type(error).__mro__}
    ours = isinstance(error, (*_SYSTEM, InputError)) or "RouterError" in names
    return ours or _library_of(error) in _LIBRARIES or _lacks_memory(error)


def parser_error(text: str, kinds: dict[str, Any]) -> InputError | None:
    r"""Return the error of a value that the parser rejects, or misses; None for another error.

    Args:
        text: the parser's message.
        kinds: type of each option by the parser's key.

    >>> print(parser_error('Parser key "seed":\n  Expected a <class int>. Got value: a', {"seed": int}))
    seed='a': is not a whole number; use a whole number
    """
    without = _WITHOUT.match(text)
    if without is not None:
        return InputError(as_typed(without[1]), "", "has no value", "give one")
    keys = [key for key in _KEY.findall(text) if key in kinds]
    value = _VALUE.search(text)
    if not keys or value is None:
        return None
    return wrong_type(as_typed(keys[-1]), _parsed(value[1].strip()), kinds[keys[-1]])


def as_typed(key: str) -> str:
    """Return a key of the parser as the user spells it, with `method` for the key of hyperparameters."""
    return re.sub(rf"^{METHOD_KEY}(?=\.)", "method", key)


def _library_of(error: Exception) -> str:
    """Return the package that an error's class is from."""
    return type(error).__module__.partition(".")[0]


def _lacks_memory(error: Exception) -> bool:
    """Return whether torch or numpy could not allocate memory, which torch reports as a RuntimeError."""
    return not isinstance(error, InputError) and _NO_MEMORY.search(str(error)) is not None


def _text_of(error: Exception) -> str:
    """Return the text of an error; one of the system or of a library that reads files says what to do."""
    if isinstance(error, MemoryError) or _lacks_memory(error):
        return "the memory is not enough for this input; give a smaller one"
    if not isinstance(error, _SYSTEM) and _library_of(error) not in _LIBRARIES:
        return str(error)
    if isinstance(error, RecursionError):
        return "the input is nested too deeply; give a flatter one"
    if not isinstance(error, OSError) or error.strerror is None:
        fix = _FIXES[errno.ENOSPC] if "No space left" in str(error) else "give a complete file"
        return f"{error}; {fix}"
    path = "" if error.filename is None else f"{str(error.filename)!r}: "
    return f"{path}{error.strerror}; {_FIXES.get(error.errno or 0, 'check the path')}"


def _parsed(text: str) -> Any:
    """Return a value that the parser printed: the number or list, or the text itself."""
    try:
        return ast.literal_eval(text) if len(text) < 1000 else text
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
