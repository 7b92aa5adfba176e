"""Parse server-sent events, the format of streamed answers."""

from __future__ import annotations

__all__ = ["EventStream"]


class EventStream:
    r"""Incremental parser of server-sent events: takes a stream in pieces of any size.

    Fields other than `data`, and comments, are ignored.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

    >>> stream = EventStream()
    >>> stream.read(b"data: one\n\nda"), stream.read(b"ta: two\n\n")
    ([b'one'], [b'two'])
    """

    def __init__(self) -> None:
        self._rest = b""  # an incomplete line
        self._data: list[bytes] = []  # of the current event

    def read(self, piece: bytes) -> list[bytes]:
        """Return the data of the events that end in the next piece of the stream.

        Args:
            piece: the next bytes.
        """
        lines = (self._rest + piece).splitlines(keepends=True)
        self._rest = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        ended = [self._line(line.rstrip(b"\r\n")) for line in lines]
        return [data for data in ended if data is not None]

    def end(self) -> list[bytes]:
        """Return the data of the last event, if the stream ends without the empty line after it."""
        return self.read(b"\n\n")

    def _line(self, line: bytes) -> bytes | None:
        """Parse a line; return the data of an event if the line ends it."""
        if line:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            return None
        if not self._data:
            return None
        data, self._data = b"\n".join(self._data), []
        return data
