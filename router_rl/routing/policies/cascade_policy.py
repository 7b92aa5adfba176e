"""The cascade policy: which expert to ask next, or whose answer to return, from the answers so far.

```python
policy = load("cascade/")
features = policy.text(["a prompt"])  # where the policy was trained on prompts
observation = policy.observe(features, confidence, answers, compute_weight=0.1)  # NaN where not asked
step = policy.decide(observation)  # .ask [T] and .answer [T], expert ids; one of them is -1
```

Legend: T queries, N experts, D features, M members of the ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from ..text import TextFeatures
from .cascade_beliefs import Beliefs, BeliefSizes
from .cascade_rules import CascadeRules

__all__ = ["CascadePolicy", "CascadeStep", "CascadeView"]

_INPUTS = 14  # inputs of each expert, see `_encode`
_NO_EXPERT = -9.0  # log-odds where there is no expert to take the maximum of
_TEMPERATURE = 0.05  # of utility: what turns advantages into logits


class CascadeStep(NamedTuple):
    """The next step of T queries.

    Attributes:
        ask: [T] int64, the expert to ask, or -1.
        answer: [T] int64, the expert whose answer to return, or -1.
        fallback: [T] bool, True where a row was not finite and took the fallback: the answer of the asked
            expert with the lowest id, or, where none was asked, the cheapest expert that may be.
    """

    ask: Tensor
    answer: Tensor
    fallback: Tensor


class CascadeView(NamedTuple):
    """An observation of the environment by name.

    Attributes:
        features: [T, D].
        asked: [T, N] bool.
        confidence: [T, N], 0 where not asked.
        askable: [T, N] bool.
        agree: [T, N, N], 1 where both were asked and agree (an asked expert does with itself), else 0.
        weight: [T], utility per unit of compute.
    """

    features: Tensor
    asked: Tensor
    confidence: Tensor
    askable: Tensor
    agree: Tensor
    weight: Tensor

    @classmethod
    def of(cls, observation: Tensor, experts: int) -> CascadeView:
        """Split observations [T, D + 3 N + N (N - 1) / 2 + 1] by name."""
        pairs = experts * (experts - 1) // 2
        known = observation.shape[-1] - 3 * experts - pairs - 1
        sizes = [known, experts, experts, experts, pairs, 1]
        features, asked, confidence, askable, pair, weight = observation.split(sizes, dim=-1)
        agree = torch.diag_embed(asked)
        first, second = torch.triu_indices(experts, experts, 1, device=observation.device)
        agree[:, first, second] = agree[:, second, first] = (pair > 0).float()
        return cls(features, asked > 0, confidence, askable > 0, agree, weight.squeeze(-1))


class _CascadeSpec(TypedDict):
    """What every description of a cascade policy has."""

    experts: list[str]
    features: int
    limit: int
    members: int
    hidden: int
    beliefs: BeliefSizes


class CascadeSpec(_CascadeSpec, total=False):
    """What `CascadePolicy.spec` returns; `after` where there are follow-ups, `rules` where it has some."""

    after: list[int]
    rules: list[int]


class CascadePolicy(nn.Module):
    """Chooses the next step of cascades; needs torch alone.

    One network serves all experts: it reads each expert's inputs and, after a first layer, the mean over the
    experts. Its values start from the beliefs: answering is worth the probability of being right, asking the
    larger of that probability and the best answer so far, minus the price.

    Args:
        experts: the N names, in the order of the ids.
        features: D.
        limit: maximum number of experts per query.
        price: [N] mean compute of each expert, in units of the most expensive one's.
        beliefs: the probability that each expert is right.
        members: M.
        hidden: width of the network.
        after: [N] the expert that must be asked before each, -1 for none; None: there are no follow-ups.

    Attributes:
        text: makes the features of prompts; None where the policy was trained on a table's own features.
        rules: threshold cascades that decide at some compute weights in place of the network; None: nowhere.

    Raises:
        RouterError: sizes do not fit each other.
    """

    kind = "cascade"
    Spec = CascadeSpec
    price: Tensor

    def __init__(
        self,
        experts: Sequence[str],
        features: int,
        limit: int,
        price: Sequence[float],
        beliefs: Beliefs,
        *,
        members: int = 1,
        hidden: int = 48,
        after: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        count = len(tuple(experts))
        if len(price) != count or beliefs.sizes[:2] != (features, count):
            raise RouterError(f"prices and beliefs must be for {count} experts and {features} features")
        if limit < 1 or members < 1 or hidden < 1:
            raise RouterError(f"limit={limit}, members={members} and hidden={hidden} must each be 1 or more")
        if after is not None and (len(after) != count or not all(-1 <= before < count for before in after)):
            raise RouterError(f"after={list(after)} must have {count} numbers from -1 to {count - 1}")
        self.experts = tuple(experts)
        self.after = None if after is None else tuple(after)
        self.features = features
        self.text: TextFeatures | None = None
        self.rules: CascadeRules | None = None
        self.limit = limit
        self.members = members
        self.hidden = hidden
        self.beliefs = beliefs
        self.register_buffer("price", torch.tensor(list(price), dtype=torch.float32))
        self.first = nn.Parameter(torch.zeros(members, _INPUTS, hidden))
        self.own = nn.Parameter(torch.zeros(members, 1, count, hidden))
        self.second = nn.Parameter(torch.zeros(members, hidden, hidden))
        self.pooled = nn.Parameter(torch.zeros(members, hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.last = nn.Parameter(torch.zeros(members, hidden, 2))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, 2))

    @property
    def observation_size(self) -> int:
        """D + 3 N + N (N - 1) / 2 + 1, the width of an observation."""
        count = len(self.experts)
        return self.features + 3 * count + count * (count - 1) // 2 + 1

    def initialise(self, generator: torch.Generator) -> CascadePolicy:
        """Draw the weights of the hidden layers; the last stays 0, so that the beliefs decide at first."""
        with torch.no_grad():
            for weight in (self.first, self.second, self.pooled):
                bound = (3.0 / weight.shape[-2]) ** 0.5
                weight.uniform_(-bound, bound, generator=generator)
        return self

    def observe(
        self,
        features: Tensor,
        confidence: Tensor,
        answers: Tensor | None = None,
        *,
        compute_weight: Tensor | float,
        may_ask: Tensor | None = None,
    ) -> Tensor:
        """Return the observations of queries in progress, as the environment returns them.

        Args:
            features: [T, D] float.
            confidence: [T, N] float in [0, 1], NaN where the expert has not been asked; 0.5 where it was and
                the policy was trained on a table without confidences.
            answers: [T, N] int64, equal where two experts gave the same answer; read where both were asked.
                None: unknown.
            compute_weight: utility per unit of compute, [T] or one number.
            may_ask: [T, N] bool, False for an expert that is down or beyond the budget; None: all may be.

        Returns:
            observation [T, D + 3 N + N (N - 1) / 2 + 1] float32.

        Raises:
            RouterError: a shape does not fit.
        """
        count = len(self.experts)
        rows = features.shape[0]
        if features.shape != (rows, self.features) or confidence.shape != (rows, count):
            shapes = f"{list(features.shape)} and {list(confidence.shape)}"
            raise RouterError(
                f"features must be [T, {self.features}] and confidence [T, {count}], not {shapes}"
            )
        asked = ~confidence.isnan()
        askable = ~asked & (asked.sum(dim=-1, keepdim=True) < self.limit)
        if self.after is not None:
            before = torch.tensor(self.after, device=asked.device)
            askable = askable & ((before < 0) | asked[:, before.clamp(min=0)])
        if may_ask is not None:
            askable = askable & may_ask
        first, second = torch.triu_indices(count, count, 1, device=features.device)
        pairs = (asked[:, first] & asked[:, second]).float()
        pairs = pairs * (0.0 if answers is None else 2.0 * (answers[:, first] == answers[:, second]) - 1.0)
        weight = torch.as_tensor(compute_weight, dtype=torch.float32, device=features.device)
        return torch.cat(
            [
                features.float(),
                asked.float(),
                confidence.float().nan_to_num(nan=0.0),
                askable.float(),
                pairs,
                weight.expand(rows).unsqueeze(-1),
            ],
            dim=-1,
        )

    def start(self, core: Any) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return the actions [T] int64 of the environment, greedy, for observations [T, O] float32."""
        return self.actions(observation)[0]

    def decide(self, observation: Tensor) -> CascadeStep:
        """Return the greedy step for observations [T, O] of `observe` or of the environment."""
        action, fallback = self.actions(observation)
        count = len(self.experts)
        ask = torch.where(action < count, action, -1)
        return CascadeStep(ask, torch.where(action < count, -1, action - count), fallback)

    def actions(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions [T] int64 of the environment, and which rows took the fallback [T] bool."""
        finite = observation.abs().amax(dim=-1) < float("inf")
        view = CascadeView.of(observation.nan_to_num(0.0, 0.0, 0.0), len(self.experts))
        prior = self.beliefs.prior(view.features)
        posterior = self.beliefs.posterior(prior, view.confidence)
        chance = self._chance(view, prior, posterior)
        action = _first_largest(chance)
        if self.rules is not None:
            settled = self.beliefs.settled(posterior, view.asked, view.agree)
            step, decides = self.rules(view.weight, view.asked, settled)
            # A rule does not decide where its expert cannot be asked: it is down, or beyond the budget.
            valid = torch.cat([view.askable, view.asked], dim=-1).gather(-1, step.unsqueeze(-1)).squeeze(-1)
            action = torch.where(decides & valid, step, action)
        cheapest = torch.where(view.askable, self.price, float("inf")).argmin(dim=-1)
        first = view.asked.float().argmax(dim=-1) + len(self.experts)
        safe = torch.where(view.asked.any(dim=-1), first, cheapest)
        return torch.where(finite, action, safe), ~finite

    def forward(self, view: CascadeView) -> Tensor:
        """Return the network's probability of each action [T, 2 N] float32, mean over members."""
        prior = self.beliefs.prior(view.features)
        return self._chance(view, prior, self.beliefs.posterior(prior, view.confidence))

    def _chance(self, view: CascadeView, prior: Tensor, posterior: Tensor) -> Tensor:
        value = self.values(prior, posterior, view.asked, view.askable, view.agree, view.weight)
        return self.chance(value, torch.cat([view.askable, view.asked], dim=-1)).mean(dim=0)

    @staticmethod
    def chance(values: Tensor, may: Tensor) -> Tensor:
        """Return the softmax [..., 2 N] of the values of the steps; 0 where `may` [..., 2 N] is False."""
        return (values / _TEMPERATURE).masked_fill(~may, -1e9).softmax(dim=-1)

    def values(
        self,
        prior: Tensor,
        posterior: Tensor,
        asked: Tensor,
        askable: Tensor,
        agree: Tensor,
        weight: Tensor,
        who: Tensor | None = None,
    ) -> Tensor:
        """Return each member's values of asking each expert and of its answer, unmasked: [M, T, 2 N] float32.

        Args:
            prior: [T, N] log-odds before asking.
            posterior: [T, N] log-odds after, read where asked.
            asked, askable: [T, N] bool.
            agree: [T, N, N] float, 1 where both were asked and agree.
            weight: [T] float, utility per unit of compute.
            who: [T, N] int64, the expert of each column, where the columns are not all experts in order.
        """
        belief = self.beliefs.current(prior, posterior, asked, agree, who)
        price, own = weight.unsqueeze(-1) * self.price, self.own
        if who is not None:
            price, own = weight.unsqueeze(-1) * self.price[who], self.own[:, 0, who]
        inputs = self._encode(belief, prior, asked, askable, agree, weight, price).flatten(0, 1)
        shape = (self.members, *belief.shape)
        hidden = torch.relu((inputs @ self.first).view(*shape, -1) + own)  # [M, T, N, H]
        pooled = hidden.mean(dim=2) @ self.pooled + self.bias  # [M, T, H]
        hidden = (hidden.flatten(1, 2) @ self.second).view(*shape, -1)
        hidden = torch.relu(hidden + pooled.unsqueeze(2)).flatten(1, 2)
        correction = (hidden @ self.last + self.last_bias).view(*shape, 2)
        likely = belief.sigmoid()
        # After asking, the best answer so far can still be returned.
        ask = torch.maximum(likely, (likely * asked).amax(dim=-1, keepdim=True)) - price
        return torch.cat([correction[..., 0] + ask, correction[..., 1] + likely], dim=-1)

    def _encode(
        self,
        belief: Tensor,
        prior: Tensor,
        asked: Tensor,
        askable: Tensor,
        agree: Tensor,
        weight: Tensor,
        price: Tensor,
    ) -> Tensor:
        """Return the network's inputs for each expert, [T, N, 14]."""
        answered = asked.float()
        known = belief * answered
        support = (agree @ known.unsqueeze(-1)).squeeze(-1)  # log-odds of the experts with the same answer
        against = (known.sum(dim=-1, keepdim=True) - support) * answered
        number = answered.sum(dim=-1, keepdim=True)
        unit = weight.unsqueeze(-1)
        own = [
            answered,
            askable.float(),
            belief / 4.0,
            prior / 4.0,
            support / 6.0,
            against / 6.0,
            agree.sum(dim=-1) / number.clamp(min=1.0),
            5.0 * price,
            belief.sigmoid(),
        ]
        shared = [
            (unit + 0.01).log() / 2.0 + 1.0,
            number - 1.0,
            torch.where(asked, support, _NO_EXPERT).amax(dim=-1, keepdim=True) / 6.0,
            torch.where(asked, belief, _NO_EXPERT).amax(dim=-1, keepdim=True) / 4.0,
            torch.where(askable, belief, _NO_EXPERT).amax(dim=-1, keepdim=True) / 4.0,
        ]
        return torch.stack([*own, *(part.expand_as(belief) for part in shared)], dim=-1)

    def spec(self) -> dict[str, Any]:
        """Return the policy without its weights, as JSON."""
        _, _, believers, width = self.beliefs.sizes
        agreement = {} if self.beliefs.agreeing is None else {"agreement": True}
        follow_ups = {} if self.after is None else {"after": list(self.after)}
        rules = {} if self.rules is None else {"rules": self.rules.sizes}
        return {
            "experts": list(self.experts),
            "features": self.features,
            "limit": self.limit,
            "members": self.members,
            "hidden": self.hidden,
            "beliefs": {"members": believers, "hidden": width, **agreement},
            **follow_ups,
            **rules,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> CascadePolicy:
        """Return an untrained policy from its JSON form."""
        count, features = len(spec["experts"]), spec["features"]
        sizes = spec["beliefs"]
        agreement = sizes.get("agreement", False)
        beliefs = Beliefs(features, count, sizes["members"], sizes["hidden"], agreement=agreement)
        policy = cls(
            spec["experts"],
            features,
            spec["limit"],
            [0.0] * count,
            beliefs,
            members=spec["members"],
            hidden=spec["hidden"],
            after=spec.get("after"),
        )
        if "rules" in spec:
            weights, size = spec["rules"]
            policy.rules = CascadeRules(weights, size)
        return policy


def _first_largest(values: Tensor) -> Tensor:
    """Return the index [T] of the largest of values [T, A]; the lowest where several are equal."""
    return (values == values.amax(dim=-1, keepdim=True)).float().argmax(dim=-1)
