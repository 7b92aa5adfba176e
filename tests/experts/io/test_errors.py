from __future__ import annotations

import pickle

from experts import InputError
from experts.io.errors import unknown_name


def test_the_message_names_field_value_problem_and_fix():
    error = InputError("TopK.k", 5, "exceeds 4 experts", "use 1 to 4")
    assert str(error) == "TopK.k=5: exceeds 4 experts; use 1 to 4"
    assert isinstance(error, ValueError)
    assert (error.field, error.value) == ("TopK.k", 5)


def test_a_name_like_no_other_lists_what_is_known():
    assert str(unknown_name("source", "zzz", ["b", "a"])) == "source='zzz': unknown; known: a, b"


def test_a_message_is_one_line_whatever_a_library_or_a_name_holds():
    error = InputError("a\n", "b\x1b[31m", "cannot be read (first\n  second\x07)", "fix\tit\n")
    assert str(error) == r"a ='b\x1b[31m': cannot be read (first second\x07); fix\tit"
    assert str(error).isprintable()


def test_a_value_of_any_size_makes_a_short_message():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for value in ("x" * 10**7, 10**5000, nested):
        assert len(str(InputError("a", value, "is wrong", "correct it"))) < 700
    assert str(InputError("a", 10**5000, "is wrong", "correct it")) == "a=<int>: is wrong; correct it"


def test_an_error_of_another_process_is_the_same() -> None:
    error = InputError("window", [1, object()], "is wrong", "use 1")
    received = pickle.loads(pickle.dumps(error))
    assert isinstance(received, InputError)
    assert str(received) == str(error)
    assert received.field == "window"
