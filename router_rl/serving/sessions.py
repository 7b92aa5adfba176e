"""Sticky sessions: remember which model answered a session last and so has its prompt cache."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

__all__ = ["Sessions", "sticky_choice"]

_MAX_SESSIONS = 100_000  # sessions that are remembered


def sticky_choice(
    best: int, scores: Sequence[float], may: Sequence[bool], holder: int | None, bonus: float
) -> int:
    """Return the expert with the session's cache, unless the best score exceeds its score plus a bonus.

    Args:
        best: the router's choice without sessions.
        scores: [N], scores of the router.
        may: [N], whether an expert may be chosen.
        holder: the expert that has the session's prompt cache; None if there is none.
        bonus: added to the holder's score.

    >>> sticky_choice(0, [0.9, 0.8], [True, True], 1, bonus=0.2)
    1
    >>> sticky_choice(0, [0.9, 0.8], [True, True], 1, bonus=0.05)
    0
    """
    stays = holder is not None and may[holder] and scores[holder] + bonus >= scores[best]
    return holder if stays and holder is not None else best


class Sessions:
    """Remembers the model that answered each session last.

    Args:
        bonus: added to the score of that model; 0: sessions are not sticky.
        seconds: lifetime of a prompt cache after its last use.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, bonus: float = 0.0, seconds: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bonus = bonus
        self._seconds, self._clock = seconds, clock
        self._last: OrderedDict[str, tuple[str, float]] = OrderedDict()  # expert and time, the oldest first

    def answered(self, session: str | None, expert: str) -> None:
        """Record which expert answers a session.

        Args:
            session: name of the session; None if the request has none.
            expert: name of the expert.
        """
        if session is None or not self.bonus:
            return
        self._last[session] = (expert, self._clock())
        self._last.move_to_end(session)
        while len(self._last) > _MAX_SESSIONS or self._expired(next(iter(self._last.values()))[1]):
            self._last.popitem(last=False)

    def holder(self, session: str | None) -> str | None:
        """Return the name of the expert that has a session's prompt cache; None if there is none.

        Args:
            session: name of the session; None if the request has none.
        """
        last = None if session is None else self._last.get(session)
        return None if last is None or self._expired(last[1]) else last[0]

    def _expired(self, at: float) -> bool:
        return self._clock() - at > self._seconds
