"""Conversations of this server: what each model has seen of each, which is the state of session policies."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..routing.policies.session_policy import SessionPolicy
from .chat_request import CHARACTERS_PER_TOKEN, text_length

__all__ = ["Message", "ServedConversations"]

_MAX_CONVERSATIONS = 20_000  # that are remembered
_LIFE_S = 24 * 3600.0  # seconds after its last turn that a conversation is remembered
_NEVER = 1e9  # seconds since a model answered, before it does

Message = Mapping[str, Any]


class _Part(NamedTuple):
    """A message of a prompt: a hash of everything in it, and the tokens of the prompt up to its end."""

    key: int
    tokens: int


@dataclass
class _Conversation:
    """A conversation.

    Attributes:
        last: the model that answered the turn before.
        at: time of that turn.
        turns: answered turns.
        switches: times that the model changed.
        prompts: the prompt that each model answered last, and when.
    """

    last: str = ""
    at: float = 0.0
    turns: int = 0
    switches: int = 0
    prompts: dict[str, tuple[list[_Part], float]] = field(
        default_factory=dict[str, tuple[list[_Part], float]]
    )


class ServedConversations:
    """Records the turns of conversations; thread-safe.

    Tokens are estimated as characters / 4. The prompt cache of a model holds the prompt that it answered
    last, without its answer, and serves the messages that a later prompt begins with.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, _Conversation] = OrderedDict()  # the oldest turn first
        self._lock = threading.Lock()

    def answered(self, name: str | None, expert: str, messages: Sequence[Message]) -> None:
        """Record that a model answers a turn.

        Args:
            name: of the conversation; None if the request has none: nothing is recorded.
            expert: name of the model.
            messages: the prompt.
        """
        if name is None:
            return
        parts, now = _parts(messages), self._clock()
        with self._lock:
            known = self._known.setdefault(name, _Conversation())
            known.switches += known.last not in ("", expert)
            known.turns += 1
            known.last, known.at = expert, now
            known.prompts[expert] = (parts, now)
            self._known.move_to_end(name)
            while (
                len(self._known) > _MAX_CONVERSATIONS or now - next(iter(self._known.values())).at > _LIFE_S
            ):
                self._known.popitem(last=False)

    def state(self, policy: SessionPolicy, name: str | None, messages: Sequence[Message]) -> Tensor:
        """Return what a session policy observes of the next turn besides its features, [1, 5 N + 4] float32.

        Args:
            policy: the policy.
            name: of the conversation; None, or a name without answered turns: it is a first turn.
            messages: the prompt.
        """
        parts, now = _parts(messages), self._clock()
        experts = policy.experts
        with self._lock:
            known = self._known.get(name or "", _Conversation())
            before = {
                expert: (float(_shared(parts, prompt)), now - at)
                for expert, (prompt, at) in known.prompts.items()
            }
            turns, switches, last = known.turns, known.switches, known.last
        none = (0.0, _NEVER)
        observation = policy.observe(
            torch.zeros(1, policy.features),
            context=torch.tensor([float(max(1, parts[-1].tokens if parts else 0))]),
            shared=torch.tensor([before.get(last, none)[0]]),
            cached=torch.tensor([[before.get(expert, none)[0] for expert in experts]]),
            idle_s=torch.tensor([[before.get(expert, none)[1] for expert in experts]]),
            last=torch.tensor([experts.index(last) if last in experts else len(experts)]),
            turn=torch.tensor([float(turns)]),
            switches=torch.tensor([float(switches)]),
        )
        return observation[:, policy.features :]


def _parts(messages: Sequence[Message]) -> list[_Part]:
    parts: list[_Part] = []
    tokens = 0
    for message in messages:
        calls = message.get("tool_calls")
        written = text_length(message) + (len(json.dumps(calls)) if calls else 0)
        tokens += written // CHARACTERS_PER_TOKEN
        parts.append(_Part(hash(json.dumps(message, sort_keys=True)), tokens))
    return parts


def _shared(prompt: Sequence[_Part], other: Sequence[_Part]) -> int:
    """Tokens of the messages that two prompts both begin with."""
    tokens = 0
    for one, two in zip(prompt, other, strict=False):
        if one.key != two.key:
            break
        tokens = one.tokens
    return tokens
