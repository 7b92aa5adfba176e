"""Answers as models write them, and what they are worth."""

from __future__ import annotations

import pytest

from experts import InputError
from experts.llm import exact_match, multiple_choice, numeric, scorer_named
from experts.llm.asking import Request
from experts.llm.endpoints import Endpoint, Judge
from experts.llm.judging import grade_in, judgement


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Paris", "paris", True),
        (" The  Seine.\n", "the seine", True),
        ("Paris, France", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_exact_match(answer, reference, right):
    assert exact_match("?", reference, answer) == right


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"),
        ("(C)", "C"),
        ("c.", "C"),
        ("**C**", "C"),
        ("C) because A is wrong", "C"),
        ("C: it is", "C"),
        ("The answer is C.", "C"),
        ("The answer is (C), not B", "C"),
        ("At first the answer is A. No: the answer is **C**", "C"),
        ("Answer: C", "C"),
        (r"So \boxed{C}", "C"),
        ("I would go with C", "C"),
        ("answer is (c), I think", "C"),
        ("the answer is c.", "C"),
        ("The answer is a bit long, but D", "D"),
        ("A or B", None),
        ("A cat sat", "A"),  # no better to be had: it begins with a letter that stands alone
        ("nothing here", None),
        ("I'm not sure", None),
        ("", None),
    ],
)
def test_multiple_choice(answer, letter):
    for choice in "ABCD":
        assert multiple_choice("?", choice, answer) == (choice == letter)
    if letter:
        assert multiple_choice("?", f"({letter.lower()})", answer) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("42", "42", True),
        ("It is 6 * 7 = 42.", "42", True),
        ("$1,234.50", "1234.5", True),
        ("-3", "3", False),
        ("x = -3", "-3", True),
        ("10-20", "20", True),
        ("GPT-4 says 5 - 3 = 2", "2", True),
        (".5", "0.5", True),
        ("1e3", "1000", True),
        ("3/4", "0.75", True),
        ("75%", "75", True),
        ("#### 12\n(checked 3 times)", "#### 12", True),
        (r"\boxed{7} of 9", "7", True),
        ("0.3333333", "1/3", True),
        ("0.33", "1/3", False),
        ("1/0", "1", True),
        ("none", "42", False),
        ("", "42", False),
    ],
)
def test_numeric(answer, reference, right):
    assert numeric("?", reference, answer) == right


def test_a_reference_that_no_answer_could_match_is_an_error():
    with pytest.raises(InputError, match="reference='many': has no number"):
        numeric("?", "many", "42")
    for scorer in (exact_match, multiple_choice, numeric):
        with pytest.raises(InputError, match="reference=None: is missing"):
            scorer("?", None, "42")


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_scorers.py").write_text(
        "def half(prompt, reference, answer):\n    return len(answer) > 2 and 0.5\n"
        "def double(prompt, reference, answer):\n    return 2\n"
        "def broken(prompt, reference, answer):\n    return answer / 2\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert scorer_named("my_scorers:half")("?", None, "long") == 0.5
    assert scorer_named("my_scorers:half")("?", None, "no") == 0.0
    with pytest.raises(InputError, match=r"scorer='my_scorers:double': returned 2.0; return 0 to 1"):
        scorer_named("my_scorers:double")("?", None, "x")
    with pytest.raises(InputError, match=r"failed on the answer 'x' .*correct it; answers are kept"):
        scorer_named("my_scorers:broken")("?", None, "x")
    for name in ("my_scorers:none", "no_such_module:f", "my_scorers:number"):
        with pytest.raises(InputError, match=name):
            scorer_named(name)
    with pytest.raises(InputError, match="scorer='numerc': unknown; did you mean 'numeric'"):
        scorer_named("numerc")


def test_a_judge_is_shown_everything_as_it_is():
    judge = Judge(
        endpoint=Endpoint(name="judge", model="openai/j"), prompt="{prompt}|{reference}|{answer}|{x}"
    )
    asked = judgement(judge, "a {answer}", "{prompt}", "it {x}")
    assert asked == Request(judge.endpoint, "a {answer}|{prompt}|it {x}|{x}")
    assert judgement(judge, "a", None, "b").prompt == "a|(none)|b|{x}"


@pytest.mark.parametrize(
    ("reply", "grade"),
    [("7", 0.7), ("Grade: 10", 1.0), ("8/10", 0.8), ("9 out of 10", 0.9), ("2.5", 0.25), ("11", None),
     ("-1", None), ("good", None), ("", None)],
)  # fmt: skip
def test_grades(reply, grade):
    assert grade_in(reply, 10.0) == (None if grade is None else pytest.approx(grade))
