from __future__ import annotations

from experts import InputError
from experts.io.errors import unknown_name


def test_the_message_names_field_value_problem_and_fix():
    error = InputError("TopK.k", 5, "exceeds 4 experts", "use 1 to 4")
    assert str(error) == "TopK.k=5: exceeds 4 experts; use 1 to 4"
    assert isinstance(error, ValueError)
    assert (error.field, error.value) == ("TopK.k", 5)


def test_a_name_like_no_other_lists_what_is_known():
    assert str(unknown_name("source", "zzz", ["b", "a"])) == "source='zzz': unknown; known: a, b"
