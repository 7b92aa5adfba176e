"""The caching policy: which expert answers and which is evicted, where memory holds fewer than all experts.

```python
policy = load("caching/")
features = policy.text(["a prompt"])  # where the policy was trained on prompts
observation = policy.observe(features, resident, waits, on_host, idle, uses)
step = policy.decide(observation)  # .answer [T] and .victim [T], expert ids
```

Legend: T requests, N experts, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from ..text import TextFeatures
from .cascade_beliefs import Beliefs, BeliefSizes

__all__ = ["ANSWER_INPUTS", "KEEP_INPUTS", "CachingPolicy", "CachingStep"]

ANSWER_INPUTS = ("worth", "wait", "resident", "recent", "often", "worth if absent", "later", "gain")
KEEP_INPUTS = ("recent", "often", "worth", "reload", "later")
_NEVER = -1e9  # score of an action that is never taken
_DECAY = 0.95  # of the counts of use, per request, as in the environment


class CachingStep(NamedTuple):
    """The decision for T requests.

    Attributes:
        answer: [T] int64, the expert that answers; it is loaded if it is not resident.
        victim: [T] int64, the expert that is evicted first if memory is needed.
        fallback: [T] bool, True where features were not finite and were replaced by 0.
    """

    answer: Tensor
    victim: Tensor
    fallback: Tensor


class CachingSpec(TypedDict):
    """What `CachingPolicy.spec` returns."""

    experts: list[str]
    features: int
    beliefs: BeliefSizes
    later: BeliefSizes


class CachingPolicy(nn.Module):
    """Two weighted sums of each expert's inputs: the largest first answers, the smallest second is evicted.

    `worth` is the probability of being right minus the price. `later` is the same for the next requests, as
    predicted from this one. `gain` is by how much `later` of an expert that is not resident exceeds the best
    resident one, so its weight is the number of requests that a load serves. Common rules are weights too: a
    cache-aware bonus weights `resident`; eviction of the least recently used expert weights `recent` only, of
    the least frequently used `often` only.

    Args:
        experts: the N names, in the order of the ids.
        features: D.
        price: [N] compute weight times mean compute.
        reload: [2, N] seconds from host to GPU memory, and from disk to host.
        beliefs: the probability that each expert is right.
        later: the same for the next requests.
        allowed: [N], False for experts that never answer.

    Attributes:
        text: makes the features of prompts; None where the policy was trained on a table's own features.

    Raises:
        RouterError: sizes do not fit each other.
    """

    kind = "caching"
    Spec = CachingSpec
    price: Tensor
    reload: Tensor
    allowed: Tensor

    def __init__(
        self,
        experts: Sequence[str],
        features: int,
        price: Sequence[float],
        reload: Sequence[Sequence[float]],
        beliefs: Beliefs,
        later: Beliefs,
        allowed: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        count = len(tuple(experts))
        fits = all(one.sizes[:2] == (features, count) for one in (beliefs, later))
        if len(price) != count or not fits:
            raise RouterError(f"prices and beliefs must be for {count} experts and {features} features")
        self.experts = tuple(experts)
        self.features = features
        self.text: TextFeatures | None = None
        self.beliefs = beliefs
        self.later = later
        self.register_buffer("price", torch.tensor(list(price), dtype=torch.float32))
        self.register_buffer("reload", torch.tensor([list(row) for row in reload], dtype=torch.float32))
        self.register_buffer("allowed", torch.tensor([True] * count if allowed is None else list(allowed)))
        self.answer = nn.Parameter(torch.zeros(len(ANSWER_INPUTS)))
        self.keep = nn.Parameter(torch.zeros(len(KEEP_INPUTS)))

    @property
    def observation_size(self) -> int:
        """D + 5 N, the width of an observation."""
        return self.features + 5 * len(self.experts)

    def observe(
        self, features: Tensor, resident: Tensor, waits: Tensor, host: Tensor, idle: Tensor, uses: Tensor
    ) -> Tensor:
        """Return the observations [T, D + 5 N] float32 of requests, as the environment returns them.

        Args:
            features: [T, D] float.
            resident: [T, N] bool, in GPU memory or being loaded.
            waits: [T, N] seconds that the request would wait for each expert: for a resident one until its
                load ends, for another one the loads before it and its own.
            host: [T, N] bool, has a copy in host memory.
            idle: [T, N] requests since the expert was used, 1 for the last one; infinity if never.
            uses: [T, N] the expert's uses, decayed by 0.95 per request.

        Raises:
            RouterError: a shape does not fit.
        """
        shape = (features.shape[0], len(self.experts))
        parts = (resident, waits, host, idle, uses)
        if features.shape != (shape[0], self.features) or any(part.shape != shape for part in parts):
            shapes = [list(part.shape) for part in (features, *parts)]
            raise RouterError(
                f"features must be [T, {self.features}], the state [T, {shape[1]}], not {shapes}"
            )
        recent = torch.where(idle.isinf(), 0.0, 1.0 / idle.clamp(min=1.0))
        known = (features, resident, waits, host, recent, uses * (1.0 - _DECAY))
        return torch.cat([part.float() for part in known], dim=-1)

    def start(self, core: Any) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return the actions [T, 2] int64, answer and victim, for observations [T, D + 5 N] float32."""
        return self.actions(observation)[0]

    def decide(self, observation: Tensor) -> CachingStep:
        """Return the decision for observations [T, D + 5 N] of `observe` or of the environment."""
        actions, fallback = self.actions(observation)
        return CachingStep(actions[:, 0], actions[:, 1], fallback)

    def actions(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions [T, 2] int64 of the environment, and which rows took the fallback [T] bool."""
        finite = observation.abs().amax(dim=-1) < float("inf")
        chance, later, *state = self._parts(observation.nan_to_num(0.0, 0.0, 0.0))
        resident, wait, host, recent, often = state
        return self.choose(chance, later, resident, wait, host, recent, often), ~finite

    def forward(self, observation: Tensor) -> Tensor:
        """Return the scores [T, 2 N] float32 of finite observations: of each answer, and of each victim.

        The largest of each answers or is evicted. An expert that never answers has -1e9 as an answer, and one
        that is not resident as a victim: evicting the expert that answers has no effect.
        """
        parts = self._parts(observation)
        score, kept = self._scores(parts, self.answer, self.keep)
        score = score.masked_fill(~self.allowed, _NEVER)
        return torch.cat([score, (-kept).masked_fill(parts[2] == 0, _NEVER)], dim=-1)

    def _parts(self, observation: Tensor) -> tuple[Tensor, ...]:
        """Return the arguments of `choose` for observations [T, D + 5 N]."""
        sizes = [self.features, *[len(self.experts)] * 5]
        features, *state = observation.split(sizes, dim=-1)
        chance, later = (one.prior(features).sigmoid() for one in (self.beliefs, self.later))
        return (chance, later, *state)

    def choose(
        self,
        chance: Tensor,
        later: Tensor,
        resident: Tensor,
        wait: Tensor,
        host: Tensor,
        recent: Tensor,
        often: Tensor,
        weights: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return the actions [T, 2] int64: answer and victim.

        Args:
            chance, later: [T, N] probability of being right, on this request and on the next ones.
            resident, wait, host, recent, often: [T, N] float32, as the environment returns them.
            weights: [T, 8] and [T, 5], in place of the policy's own.
        """
        own = (self.answer, self.keep) if weights is None else weights
        score, kept = self._scores((chance, later, resident, wait, host, recent, often), *own)
        score = score.masked_fill(~self.allowed, -torch.inf)
        answers = _first(score == score.amax(dim=-1, keepdim=True))
        there = resident > 0
        there = there & (torch.arange(resident.shape[-1], device=resident.device) != answers.unsqueeze(-1))
        kept = kept.masked_fill(~there, torch.inf)
        return torch.stack([answers, _first(kept == kept.amin(dim=-1, keepdim=True))], dim=-1)

    def _scores(self, parts: tuple[Tensor, ...], answer: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score of each answer and of keeping each expert, [T, N] each; see `choose`."""
        chance, later, resident, wait, host, recent, often = parts
        worth, later, absent = chance - self.price, later - self.price, 1.0 - resident
        at_hand = later.masked_fill(resident == 0, -torch.inf).amax(dim=-1, keepdim=True)
        gain = (later - at_hand).clamp(min=0.0, max=1.0) * absent  # at most 1 where no expert is resident
        known = (worth, wait, resident, recent, often, worth * absent, later, gain)
        of_answer = torch.stack(known, dim=-1)
        score = (of_answer * answer.unsqueeze(-2)).sum(dim=-1)
        again = self.reload[0] + self.reload[1] * (1.0 - host)
        kept = (torch.stack([recent, often, worth, again, later], dim=-1) * keep.unsqueeze(-2)).sum(dim=-1)
        return score, kept

    def spec(self) -> dict[str, Any]:
        """Return the policy without its weights, as JSON."""
        sizes = {name: getattr(self, name).sizes[2:] for name in ("beliefs", "later")}
        return {
            "experts": list(self.experts),
            "features": self.features,
            **{name: {"members": members, "hidden": hidden} for name, (members, hidden) in sizes.items()},
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> CachingPolicy:
        """Return an untrained policy from its JSON form."""
        count, features = len(spec["experts"]), spec["features"]
        beliefs, later = (
            Beliefs(features, count, spec[name]["members"], spec[name]["hidden"])
            for name in ("beliefs", "later")
        )
        return cls(spec["experts"], features, [0.0] * count, [[0.0] * count] * 2, beliefs, later)


def _first(marked: Tensor) -> Tensor:
    """Return the index [T] of the first True of marked [T, N]."""
    return marked.float().argmax(dim=-1)
