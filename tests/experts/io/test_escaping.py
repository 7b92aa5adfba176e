"""Names from outside are shown as they are, whatever they hold, at every place that they are written to."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.io.escaping import file_name, markdown_text, shown, tag_part
from experts.io.progress import say

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "[red]x[/red]",
    "a\nb\r\n# c",
    "\u202egnp.exe",
    "\x00\x07\x9b31m",
    "a\u2028b",
    "<script>alert(1)</script>",
    "a|b`c`**d**_e_",
    "../../etc/passwd",
    "",
]


@given(st.text())
def test_a_shown_text_is_printable(text: str) -> None:
    result = shown([text, {text: text}])
    for each in (result[0], *result[1], *result[1].values()):
        assert each.isprintable()
    if text.isprintable():
        assert result == [text, {text: text}]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("gpt-4o_mini", "gpt-4o_mini"),
        ("softmax_gate (0.960), cost 1.5 US$", "softmax_gate (0.960), cost 1.5 US$"),
        ("a|b", r"a\|b"),
        ("`rm`", r"\`rm\`"),
        ("*a* _b_ __c__ ~~d~~", r"\*a\* \_b\_ \_\_c\_\_ \~\~d\~\~"),
        ("[x](http://y)", r"\[x\](http://y)"),
        ("<img src=x>", r"\<img src=x\>"),
        ("&lt;b&gt; &", r"\&lt;b\&gt; &"),
        ("# title", r"\# title"),
        ("- item", r"\- item"),
        ("+ item", r"\+ item"),
        ("12. item", r"12\. item"),
        ("a # b - c", "a # b - c"),
        ("a\nb", r"a\\nb"),
        ("\\", "\\\\"),
    ],
)
def test_markdown_shows_the_text(text: str, written: str) -> None:
    assert markdown_text(text) == written


@given(st.text())
def test_markdown_is_one_line(text: str) -> None:
    written = markdown_text(text)
    assert written.isprintable()
    assert "|" not in written.replace(r"\|", "")
    assert "<" not in written.replace(r"\<", "")


@given(st.text())
def test_a_tag_has_one_part(text: str) -> None:
    part = tag_part(text)
    assert 0 < len(part) <= 100
    assert "/" not in part
    assert part.isprintable()


@given(st.text(), st.text())
def test_file_names_stay_in_their_folder_and_apart(one: str, two: str) -> None:
    for text in (one, two):
        name = file_name(text)
        assert Path("folder", name).name == name
        assert name not in ("", ".", "..")
        assert len(name.encode()) < 120
        assert not any(unicodedata.category(character) == "Cc" for character in name)
    if one != two:
        assert file_name(one) != file_name(two)


@pytest.mark.parametrize("text", ["con", "NUL.txt", "a/b", "a\\b", "..", "a.", "x" * 300, "a:b", "\x00"])
def test_other_names_of_files_are_changed(text: str) -> None:
    assert file_name(text) != text
    assert not {"/", "\\", ":", "\x00"} & set(file_name(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_message_holds_no_control_characters(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{text} ends")
    printed = capsys.readouterr().err
    assert printed.endswith("ends\n")
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "[red]x[/red]" in printed or "[red]" not in text
