"""What the journal has said yes to is there, whatever was cut off after it."""

from __future__ import annotations

import pytest

from experts import InputError
from experts.llm import Journal


def test_records_outlive_the_process(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append("a", {"n": 1, "text": "two\nlines \u2028 ü"})
        journal.fail("b", "Timeout: too long", {"model": "m"})
        journal.append("a", {"n": 2})
        assert journal.read("a") == {"n": 2}
    with Journal(path) as journal:
        assert list(journal) == ["a"]
        assert journal.read("a") == {"n": 2}
        assert journal.failed == {"b": "Timeout: too long"}
        assert "b" not in journal
        journal.append("b", {"n": 3})
        journal.fail("b", "later", {})
        assert journal.failed == {}
        with pytest.raises(KeyError):
            journal.read("c")
    assert path.read_bytes().count(b"\n") == 5


def test_cut_off_at_any_byte_it_keeps_what_was_finished(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        for key in ("a", "b", "c"):
            journal.append(key, {"key of": key, "text": "ü"})
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    sizes = {*range(0, len(whole), 9), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        with Journal(path) as journal:
            finished = sum(end <= size for end in ends)
            assert list(journal) == ["a", "b", "c"][:finished]
            assert all(journal.read(key)["key of"] == key for key in journal)
            journal.append("d", {"n": 4})
        with Journal(path) as journal:
            assert list(journal) == [*["a", "b", "c"][:finished], "d"]


def test_a_broken_line_within_is_an_error_and_nothing_is_changed(tmp_path):
    path = tmp_path / "j.jsonl"
    for broken in (b"{]\n", b"[1]\n", b'{"key": "b"}\n'):
        content = b'{"key": "a", "record": {}}\n' + broken + b'{"key": "c", "record": {}}\n'
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"journal='.*': line 2 is not a record .*; remove that line"):
            Journal(path)
        assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"my notes", b'{"key": "a", "record": {}}\nmy notes', b'{"keys": 1}'])
def test_the_end_of_another_file_is_not_removed(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is not a record, and it is not complete; .*name another file"):
        Journal(path)
    assert path.read_bytes() == content
    path.write_bytes(b'{"key": "a", "record": {}}\n' + bytes(500))  # zeros, as a power cut leaves them
    with Journal(path) as journal:
        assert list(journal) == ["a"]


def test_one_process_at_a_time(tmp_path):
    with Journal(tmp_path / "j"), pytest.raises(InputError, match="another process is writing to it"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match=r"journal='.*': cannot be written"):
        Journal(tmp_path / "no" / "j")
