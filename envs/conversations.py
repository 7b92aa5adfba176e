"""Conversations of several turns: tokens of each prompt, what it shares with the one before, and gaps.

They come from a trace with `hash_ids`, or from a seeded generator with the moments of published agent traces.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experts import InputError

__all__ = ["Conversations"]

_BLOCK = 512  # tokens of a block of `hash_ids`
_LEAST_SHARED = 2  # blocks: the first one, a system prompt, is common to strangers


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Conversations:
    """S conversations, M turns in all, one conversation after another.

    Attributes:
        context: [M] float64, tokens of the prompt: the whole conversation so far.
        shared: [M] float64, tokens at the start of the prompt that the previous turn's prompt also had; 0 at
            a first turn.
        output: [M] float64, tokens of the answer.
        gap_s: [M] float64, seconds since the previous turn; 0 at a first turn.
        first: [S] int64, where each conversation begins.
        turns: [S] int64, its number of turns.

    Raises:
        InputError: there is no conversation.
    """

    context: np.ndarray
    shared: np.ndarray
    output: np.ndarray
    gap_s: np.ndarray
    first: np.ndarray
    turns: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.turns):
            raise InputError("sessions", 0, "there is no conversation", "use a longer trace or part of it")
        for name, least in (("context", 1.0), ("shared", 0.0), ("output", 0.0), ("gap_s", 0.0)):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, values)
            wrong = np.flatnonzero(~(np.isfinite(values) & (values >= least)))
            if len(wrong):
                problem = f"turn {wrong[0]} is not a number of at least {least:g}"
                raise InputError(f"sessions.{name}", float(values[wrong[0]]), problem, "correct the trace")

    @classmethod
    def generated(
        cls,
        sessions: int,
        *,
        turns: float = 33.0,
        spread: float = 0.25,
        first_tokens: float = 6_000.0,
        new_tokens: float = 2_150.0,
        output_tokens: float = 390.0,
        gap_s: float = 20.0,
        seed: int = 0,
    ) -> Conversations:
        """Draw conversations that grow turn by turn.

        The defaults give the moments of published agent traces: a median of 33 turns, a context of 80,000
        tokens at turn 30, 94% of the input cached, 131 input tokens for each output token (Codex on
        SWE-Bench-Pro, 610 traces, https://blog.vllm.ai, 6 May 2026). Its spread of lengths, its first prompt
        and its gaps are not published: `spread` and `first_tokens` are set so that the four moments agree,
        and `gap_s` is an assumption.

        Args:
            sessions: S.
            turns: median number of turns; lengths are log-normal, at least 1.
            spread: standard deviation of the logarithm of the length.
            first_tokens: mean tokens of the first prompt.
            new_tokens: mean tokens that each later turn adds, beside the previous answer.
            output_tokens: mean tokens of an answer.
            gap_s: mean seconds between two turns. Tokens and gaps are exponential.
            seed: random seed.
        """
        rng = np.random.default_rng(seed)
        lengths = np.maximum(np.rint(turns * np.exp(spread * rng.standard_normal(sessions))), 1.0)
        count = lengths.astype(np.int64)
        total, first = int(count.sum()), np.cumsum(count) - count
        starts = np.zeros(total, dtype=bool)
        starts[first] = True
        output = np.ceil(rng.exponential(output_tokens, total))
        added = 1.0 + np.floor(rng.exponential(np.where(starts, first_tokens, new_tokens)))
        # The context before an answer: everything added so far, and the answers before it.
        grown = np.cumsum(added + output)
        context = grown - output - np.repeat(grown[first] - (added + output)[first], count)
        shared = np.where(starts, 0.0, np.roll(context, 1))
        gaps = np.where(starts, 0.0, rng.exponential(gap_s, total))
        return cls(context=context, shared=shared, output=output, gap_s=gaps, first=first, turns=count)

    @classmethod
    def read(cls, path: Path | str) -> Conversations:
        """Recover the conversations of a trace, in the order of their first turns.

        A request continues the latest earlier one whose blocks, without its last and partial one, are the
        first blocks of the request, with two or more blocks in common. Shared tokens count whole blocks. A
        conversation that branches is one conversation, in order of time.

        Args:
            path: Parquet with `arrival_s`, `tokens_in`, `tokens_out` and `hash_ids` (chained ids of blocks of
                512 tokens: an equal id means an equal prefix).

        Raises:
            InputError: the file or a column is missing or of another type.
        """
        columns = ["arrival_s", "tokens_in", "tokens_out", "hash_ids"]
        path = Path(path)
        if not path.is_file():
            raise InputError("sessions", str(path), "no such file", "give a Parquet trace, or generated")
        try:
            trace = pq.read_table(path, columns=columns).sort_by("arrival_s")
            arrival, given, out = (trace[name].to_numpy().astype(np.float64) for name in columns[:3])
            blocks: list[list[int]] = trace["hash_ids"].to_pylist()
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            problem = f"has no readable columns {', '.join(columns)} ({error})"
            raise InputError(
                "sessions", str(path), problem, "write them as the documentation says"
            ) from error
        members = _members(blocks)
        order = np.array([request for each in members for request in each], dtype=np.int64)
        count = np.array([len(each) for each in members], dtype=np.int64)
        first = np.cumsum(count) - count
        starts = np.zeros(len(order), dtype=bool)
        starts[first] = True
        common = [0] + [_common(blocks[a], blocks[b]) for a, b in itertools.pairwise(order)]
        context = given[order]
        before = np.minimum(context, np.roll(context, 1))
        shared = np.where(starts, 0.0, np.minimum(_BLOCK * np.array(common), before))
        gaps = np.where(starts, 0.0, np.diff(arrival[order], prepend=0.0))
        return cls(context=context, shared=shared, output=out[order], gap_s=gaps, first=first, turns=count)

    def part(self, low: float, high: float) -> Conversations:
        """The conversations between two fractions of their number: `part(0.0, 0.5)` is the first half."""
        chosen = slice(int(low * len(self.turns)), int(high * len(self.turns)))
        return self.take(np.arange(len(self.turns))[chosen])

    def take(self, sessions: np.ndarray) -> Conversations:
        """Some conversations by number, [K] int64 or [S] bool."""
        first, turns = self.first[sessions], self.turns[sessions]
        rows = np.concatenate([np.arange(a, a + n) for a, n in zip(first, turns, strict=True)] or [first])
        names = ("context", "shared", "output", "gap_s")
        values = {name: getattr(self, name)[rows] for name in names}
        return Conversations(**values, first=np.cumsum(turns) - turns, turns=turns)

    def facts(self) -> dict[str, float]:
        """Return the number of conversations, turns, tokens and the share of input that a cache can hold."""
        return {
            "sessions": len(self.turns),
            "turns_mean": float(self.turns.mean()),
            "turns_median": float(np.median(self.turns)),
            "context_mean": float(self.context.mean()),
            "input_per_output": float(self.context.sum() / self.output.sum()),
            "cacheable": float(self.shared.sum() / self.context.sum()),
        }


def _members(blocks: list[list[int]]) -> list[list[int]]:
    """The requests of each conversation in order of time; conversations in order of their first request."""
    latest: dict[int, int] = {}  # by the last whole block of a request
    root: list[int] = []
    members: dict[int, list[int]] = {}
    for request, ids in enumerate(blocks):
        parents = [latest[block] for block in ids[_LEAST_SHARED - 1 :] if block in latest]
        root.append(root[max(parents)] if parents else request)
        members.setdefault(root[request], []).append(request)
        if len(ids) > _LEAST_SHARED:
            latest[ids[-2]] = request
    return list(members.values())


def _common(one: list[int], other: list[int]) -> int:
    """The number of blocks that two requests begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
