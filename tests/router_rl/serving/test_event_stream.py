"""Server-sent events: the data of each event, wherever the stream is cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_rl.serving.event_stream import EventStream

STREAM = (
    b": a comment\n\ndata: one\n\nevent: message\r\nid: 7\r\ndata:two\r\n\r\n"
    b"data: of\ndata: lines\n\n\n\ndata: \xe2\x80\xa8 and \xc2\x85 end no line\n\ndata: [DONE]\n\n"
)
EVENTS = [b"one", b"two", b"of\nlines", b"\xe2\x80\xa8 and \xc2\x85 end no line", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_pieces_may_be_cut_anywhere(cuts: list[int]) -> None:
    stream, events, bounds = EventStream(), list[bytes](), [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(bounds):
        events += stream.read(STREAM[start:end])
    assert events == EVENTS
    assert stream.end() == []


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_last_event_may_lack_its_end(end: bytes) -> None:
    stream = EventStream()
    assert stream.read(b"data: last" + end) == []
    assert stream.end() == [b"last"]
