"""The session policy: which model answers the next turn of a conversation, where a switch loses the cache.

```python
policy = load("session/")
features = policy.text(["a prompt"])  # where the policy was trained on prompts
observation = policy.observe(features, context, shared, cached, idle_s, last, turn, switches)
step = policy.decide(observation)  # .answer [T], expert ids
```

Legend: T turns, N experts, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from ..text import TextFeatures
from .cascade_beliefs import Beliefs, BeliefSizes

__all__ = ["INPUTS", "SessionPolicy", "SessionStep", "by_expert", "session_aware"]

INPUTS = ("chance", "later", "cost", "refill", "stay", "long stay", "session-aware")
_STATE = 6  # further inputs of the network: cached, idle, context, reused, turn, switches


class SessionStep(NamedTuple):
    """The decision for T turns.

    Attributes:
        answer: [T] int64, the expert that answers.
        fallback: [T] bool, True where an observation was not finite and its entries were replaced by 0.
    """

    answer: Tensor
    fallback: Tensor


class SessionSpec(TypedDict):
    """What `SessionPolicy.spec` returns."""

    experts: list[str]
    features: int
    hidden: int
    beliefs: BeliefSizes
    later: BeliefSizes


class SessionPolicy(nn.Module):
    """A score for each expert: a weighted sum of its inputs, and a network of them; the largest answers.

    The inputs of an expert:

    - `chance`: probability that it is right on this turn; `later`: on the next ones, predicted from this one;
    - `cost`: compute weight times the compute of the turn if its cache were warm;
    - `refill`: compute weight times the further compute because tokens are not in its cache;
    - `stay`: 1 for the expert of the turn before; `long stay`: only where the context is above `threshold`;
    - `session-aware`: see `session_aware`.

    Common rules are weights: a myopic rule weights `chance`, `cost` and `refill` by 1, -1 and -1; a switching
    bonus weights `stay` too. The network also reads the state of the caches and of the conversation.

    Args:
        experts: the N names, in the order of the ids.
        features: D.
        beliefs: the probability that each expert is right.
        later: the same for the next turns.
        hidden: width of the network's hidden layer; 0 for none.

    Attributes:
        prices: [4, N] compute per token: input, cached input, input that is not cached, output.
        expiry_s: [N] seconds since its last use after which an expert's cache is lost.
        mean_output: tokens of an answer.
        compute_weight: utility per unit of compute.
        threshold: tokens of the context, for `long stay`.
        weights: [7] of the inputs.
        bias: [N] added to the scores.
        text: makes the features of prompts; None where the policy was trained on a table's own features.

    Raises:
        RouterError: sizes do not fit each other.
    """

    kind = "session"
    Spec = SessionSpec
    prices: Tensor
    expiry_s: Tensor
    mean_output: Tensor
    compute_weight: Tensor
    threshold: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self, experts: Sequence[str], features: int, beliefs: Beliefs, later: Beliefs, hidden: int = 0
    ) -> None:
        super().__init__()
        count = len(tuple(experts))
        if hidden < 0 or not all(one.sizes[:2] == (features, count) for one in (beliefs, later)):
            raise RouterError(f"beliefs must be for {count} experts and {features} features, hidden >= 0")
        self.experts = tuple(experts)
        self.features = features
        self.hidden = hidden
        self.text: TextFeatures | None = None
        self.beliefs = beliefs
        self.later = later
        self.register_buffer("prices", torch.ones(4, count))
        self.register_buffer("expiry_s", torch.ones(count))
        for name in ("mean_output", "compute_weight", "threshold"):
            self.register_buffer(name, torch.zeros(()))
        self.weights = nn.Parameter(torch.zeros(len(INPUTS)))
        self.bias = nn.Parameter(torch.zeros(count))
        width = len(INPUTS) + _STATE
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        layers = (nn.Linear(2 * width, hidden), nn.Tanh(), nn.Linear(hidden, 1)) if hidden else ()
        self.network = nn.Sequential(*layers)

    @property
    def observation_size(self) -> int:
        """D + 5 N + 4, the width of an observation."""
        return self.features + 5 * len(self.experts) + 4

    def observe(
        self,
        features: Tensor,
        context: Tensor,
        shared: Tensor,
        cached: Tensor,
        idle_s: Tensor,
        last: Tensor,
        turn: Tensor,
        switches: Tensor,
    ) -> Tensor:
        """Return the observations [T, D + 5 N + 4] float32 of turns, as the environment returns them.

        Args:
            features: [T, D] float.
            context: [T] tokens of the prompt, at least 1.
            shared: [T] tokens at its start that the prompt of the turn before had too.
            cached: [T, N] tokens at its start that each expert answered last; 0 if it has not answered.
            idle_s: [T, N] seconds since each expert answered.
            last: [T] int64, the expert of the turn before; N at a first turn.
            turn: [T] turns before this one.
            switches: [T] times that the expert changed.

        Raises:
            RouterError: a shape does not fit.
        """
        rows, count = features.shape[0], len(self.experts)
        flat = (context, shared, last, turn, switches)
        if (
            features.shape != (rows, self.features)
            or any(part.shape != (rows,) for part in flat)
            or any(part.shape != (rows, count) for part in (cached, idle_s))
        ):
            shapes = [list(part.shape) for part in (features, cached, idle_s, *flat)]
            raise RouterError(
                f"features must be [T, {self.features}], cached and idle_s [T, {count}], the others [T], "
                f"not {shapes}"
            )
        tokens, before = context.float().unsqueeze(-1), shared.float().unsqueeze(-1)
        there = torch.where(idle_s <= self.expiry_s, cached.float(), 0.0)
        used = last.unsqueeze(-1) == torch.arange(count)
        # The expert of the turn before was idle since that turn.
        gap = torch.where(used, idle_s, 0.0).sum(dim=-1, keepdim=True)
        warm = torch.where(gap <= self.expiry_s, before, 0.0)
        known = (
            features,
            there / tokens,
            torch.where(there > 0, (idle_s / self.expiry_s).clamp(max=1.0), 1.0),
            used,
            self._cost(tokens, there),
            self._cost(tokens, warm),
            tokens.log2(),
            before / tokens,
            turn.unsqueeze(-1),
            switches.unsqueeze(-1),
        )
        return torch.cat([part.float() for part in known], dim=-1)

    def start(self, core: Any) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return the experts [T] int64 for observations [T, D + 5 N + 4] float32."""
        return self.decide(observation).answer

    def decide(self, observation: Tensor) -> SessionStep:
        """Return the decision for observations [T, D + 5 N + 4] of `observe` or of the environment."""
        finite = observation.abs().amax(dim=-1) < float("inf")
        score = self.observed_scores(observation.nan_to_num(0.0, 0.0, 0.0))
        # The first of equals: argmax promises no order.
        best = (score == score.amax(dim=-1, keepdim=True)).float().argmax(dim=-1)
        return SessionStep(best, ~finite)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the scores [T, N] float32 of observations [T, D + 5 N + 4]; the largest answers."""
        return self.observed_scores(observation)

    def observed_scores(self, observation: Tensor) -> Tensor:
        """Return the scores [T, N] float32 of finite observations [T, D + 5 N + 4]."""
        features, state = observation[:, : self.features], observation[:, self.features :]
        chance, later = (one.prior(features).sigmoid() for one in (self.beliefs, self.later))
        return self.scores(self.inputs(chance, later, state), state)

    def inputs(self, chance: Tensor, later: Tensor, state: Tensor) -> Tensor:
        """Return the inputs [T, N, 7] of each expert.

        Args:
            chance, later: [T, N] probability of being right, on this turn and on the next ones.
            state: [T, 5 N + 4] float32, the observation without the features.
        """
        _, _, last, cost, warm = by_expert(state, len(self.experts))
        weight = self.compute_weight
        affinity = session_aware(chance - weight * warm, state, self.prices[0] + self.prices[3])
        long = last * (state[:, -4:-3] > self.threshold.clamp(min=1.0).log2())
        known = (chance, later, weight * warm, weight * (cost - warm), last, long, affinity)
        return torch.stack(known, dim=-1)

    def scores(self, inputs: Tensor, state: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the scores [T, N] of `inputs` [T, N, 7] and of `state` [T, 5 N + 4].

        Args:
            weights: [T, 7], in place of the policy's own.
        """
        given = self.weights if weights is None else weights.unsqueeze(1)
        score = (inputs * given).sum(dim=-1) + self.bias
        return score if self.hidden == 0 else score + self.correction(inputs, state)

    def correction(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Return what the network adds to the scores, [T, N]; arguments as for `scores`."""
        x = ((self.network_inputs(inputs, state) - self.shift) * self.scale).clamp(-5.0, 5.0)
        both = torch.cat([x, x.mean(dim=1, keepdim=True).expand_as(x)], dim=-1)
        return cast(Tensor, self.network(both)).squeeze(-1)

    def network_inputs(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Return what the network reads of each expert, [T, N, 13]; arguments as for `scores`."""
        cached, idle, *_ = by_expert(state, len(self.experts))
        scalars = state[:, None, -4:].expand(-1, inputs.shape[1], -1)
        return torch.cat([inputs, cached.unsqueeze(-1), idle.unsqueeze(-1), scalars], dim=-1)

    def spec(self) -> dict[str, Any]:
        """Return the policy without its weights, as JSON."""
        sizes = {name: getattr(self, name).sizes[2:] for name in ("beliefs", "later")}
        return {
            "experts": list(self.experts),
            "features": self.features,
            "hidden": self.hidden,
            **{name: {"members": members, "hidden": hidden} for name, (members, hidden) in sizes.items()},
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> SessionPolicy:
        """Return an untrained policy from its JSON form."""
        count, features = len(spec["experts"]), spec["features"]
        beliefs, later = (
            Beliefs(features, count, spec[name]["members"], spec[name]["hidden"])
            for name in ("beliefs", "later")
        )
        return cls(spec["experts"], features, beliefs, later, spec["hidden"])

    def _cost(self, context: Tensor, cached: Tensor) -> Tensor:
        _, hit, missed, written = self.prices
        return (context - cached) * missed + cached * hit + self.mean_output * written


def session_aware(base: Tensor, state: Tensor, price: Tensor) -> Tensor:
    """Return what vLLM Semantic Router's session-aware selection adds to each expert's base score, [T, N].

    With the defaults of `SessionAwareConfig`: the current model gets a stay bias of 0.10 and
    `0.20 * continuation * warmth * multiplier`. Another model loses as much of the latter, a handoff penalty
    of 0.05, a switch margin of 0.05, `0.04 * min(switches / 8, 1)`, and 0.10 where its base score is no
    better. `continuation = 0.45 * reused + 0.35 * min(history / 8192, 1) + 0.20 * min(turns / 8, 1)`;
    the multiplier is `1 + 1.5 * max(price of the current model, price of the other) / highest price`. All is
    0 at a first turn. Where we differ: all is 0 once the current model's cache is lost, in place of 300 idle
    seconds; tool loops and quality tables are left out.

    Args:
        base: [T, N] utility of each expert without regard to caches.
        state: [T, 5 N + 4] float32, the observation without the features.
        price: [N] price of each expert's input and output.

    Source: https://github.com/vllm-project/semantic-router, src/semantic-router/pkg/selection,
    session_aware.go and session_aware_scoring.go, commit 3d48f8c.
    """
    cached, idle, last, *_ = by_expert(state, len(price))
    context, reused, turn, switches = state[:, -4:].unsqueeze(-1).unbind(dim=1)
    history = context.exp2() * reused
    continuation = 0.45 * reused + 0.35 * (history / 8192).clamp(max=1.0) + 0.2 * (turn / 8).clamp(max=1.0)
    warmth = (last * cached).sum(dim=-1, keepdim=True)
    own = (last * price).sum(dim=-1, keepdim=True)
    prefix = 0.2 * continuation * warmth * (1.0 + 1.5 * torch.maximum(price, own) / price.max())
    worse = base <= (last * base).sum(dim=-1, keepdim=True)
    leave = prefix + 0.05 + 0.05 + 0.04 * (switches / 8).clamp(max=1.0) + 0.1 * worse
    valid = (last * (idle < 1.0)).sum(dim=-1, keepdim=True)
    return valid * torch.where(last > 0, 0.1 + prefix, -leave)


def by_expert(state: Tensor, experts: int) -> tuple[Tensor, ...]:
    """Return cached, idle, last, cost and warm cost, [T, N] each, of the state [T, 5 N + 4]."""
    return state[:, :-4].reshape(len(state), 5, experts).unbind(dim=1)
