from __future__ import annotations

import pytest

from experts.io.progress import say, track


@pytest.mark.parametrize("shown", [True, False])
def test_items_pass_unchanged_and_stdout_stays_empty(shown, capsys):
    assert list(track([3, 1, 2], "counting", 3, shown=shown)) == [3, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""  # not a terminal


def test_say_speaks_on_stderr_without_markup(capsys):
    say("[bold] is kept " + "x" * 200)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "[bold] is kept " + "x" * 200 + "\n"
