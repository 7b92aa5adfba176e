"""The network policy: a small network from the whole observation of any environment to its actions.

```python
policy = load("policy/")
features = policy.text(["a prompt"])  # where the policy was trained on prompts
observation = policy.observe(features, state)  # the state as the environment observes it
step = policy.decide(observation)  # .actions [T] or [T, k]
```

Legend: T observations of O numbers, N experts, D features, k parts of an action, A_i choices of part i.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from ..scorers.queue_scorer import QueueConstants
from ..scorers.registry import scorer_from_spec
from ..scorers.server_scorer import ServerConstants
from ..strict_json import check_type
from ..text import TextFeatures
from .caching_policy import CachingPolicy
from .session_policy import SessionPolicy

__all__ = ["NetworkPolicy", "NetworkStep"]

_FAR = 10.0  # standardised inputs are clipped to this many standard deviations
_INVALID = -1e9  # logit of an invalid action
_RULES: dict[str, Any] = {"caching": CachingPolicy, "session": SessionPolicy}  # beside the scorers
_CONSTANTS: dict[str, type[QueueConstants] | type[ServerConstants]] = {
    "queues": QueueConstants,
    "servers": ServerConstants,
}


class NetworkStep(NamedTuple):
    """The decision for T observations.

    Attributes:
        actions: [T] or [T, k] int64, as the environment takes them.
        fallback: [T] bool, True where an observation was not finite and its entries were replaced by 0.
    """

    actions: Tensor
    fallback: Tensor


class _NetworkSizes(TypedDict):
    """Fields of every network policy."""

    experts: list[str]
    features: int
    observation_size: int
    choices: list[int]
    hidden: list[int]


class NetworkSpec(_NetworkSizes, total=False):
    """What `NetworkPolicy.spec` returns.

    Attributes:
        queues, servers: one of them for a policy of the queueing problem.
        rule, inverse_temperature: for a policy that corrects a rule.
    """

    queues: QueueConstants
    servers: ServerConstants
    rule: dict[str, Any]
    inverse_temperature: float


class NetworkPolicy(nn.Module):
    """Logits of every action from a network on the standardised observation; needs torch alone.

    Args:
        experts: the N names, in the order of the ids.
        features: D, the first entries of an observation.
        observation_size: O.
        choices: A_1 .. A_k, the number of choices of each part of an action.
        hidden: width of each hidden layer.

    Attributes:
        shift, scale: [O] float32, `(observation - shift) * scale` is the network's input.
        valid_columns: [O, sum A_i] bool, the columns of an observation that make each action valid; an action
            is valid if one of its columns is positive. With no entry at all, every action is valid.
        text: makes the features of prompts; None where the policy was trained on a table's own features.
        constants: of the queues or servers that the policy was trained on, which serving needs; None for
            other problems, and in files of earlier releases.
        rule: frozen module from observations [T, O] to scores [T, sum A_i], which are added to the network's
            logits, times `inverse_temperature`: a scorer, or the policy of a rule; None for a network alone.
        inverse_temperature: scale of the rule's scores.

    Raises:
        RouterError: a size is not positive, or there are more features than observed numbers.
    """

    kind = "network"
    Spec = NetworkSpec
    shift: Tensor
    scale: Tensor
    valid_columns: Tensor

    def __init__(
        self,
        experts: Sequence[str],
        features: int,
        observation_size: int,
        choices: Sequence[int],
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        if min([1, *choices, *hidden]) < 1 or not choices or not 0 <= features <= observation_size:
            shape = f"{features} of {observation_size}, choices {list(choices)}, hidden {list(hidden)}"
            raise RouterError(f"the sizes of a network policy do not fit each other: features {shape}")
        self.experts = tuple(experts)
        self.features = features
        self.choices = tuple(int(size) for size in choices)
        self.hidden = tuple(int(size) for size in hidden)
        self.text: TextFeatures | None = None
        self.constants: QueueConstants | ServerConstants | None = None
        self.rule: nn.Module | None = None
        self.inverse_temperature = 1.0
        widths = (observation_size, *self.hidden, sum(self.choices))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.register_buffer("shift", torch.zeros(observation_size))
        self.register_buffer("scale", torch.ones(observation_size))
        valid = torch.zeros(observation_size, sum(self.choices), dtype=torch.bool)
        self.register_buffer("valid_columns", valid)

    @property
    def observation_size(self) -> int:
        """O, the width of an observation."""
        return int(self.shift.shape[0])

    def follow(self, rule: nn.Module, inverse_temperature: float) -> None:
        """Add the scores of a rule, and make the network's logits 0: the policy acts as the rule does.

        Args:
            rule: see the attribute; it is frozen.
            inverse_temperature: scale of its scores, above 0.

        Raises:
            RouterError: the rule reads other observations.
        """
        inputs = getattr(rule, "observation_size", None) or getattr(rule, "inputs", None)
        if inputs != self.observation_size or not inverse_temperature > 0.0:
            raise RouterError(
                f"a rule of {inputs} inputs and inverse temperature {inverse_temperature:g} does not fit a "
                f"network policy of {self.observation_size} inputs"
            )
        self.rule, self.inverse_temperature = rule.requires_grad_(False), float(inverse_temperature)
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    @property
    def corrects(self) -> bool:
        """Whether the network's logits are not all 0, so that they can change what a rule chooses."""
        return any(bool(parameter.any()) for parameter in self.layers[-1].parameters())

    def observe(self, features: Tensor, state: Tensor) -> Tensor:
        """Return observations [T, O] float32 of features [T, D] and the rest of the observation [T, O - D].

        Raises:
            RouterError: a shape does not fit.
        """
        rest = self.observation_size - self.features
        rows = features.shape[0]
        if features.shape != (rows, self.features) or state.shape != (rows, rest):
            shapes = [list(features.shape), list(state.shape)]
            raise RouterError(f"features must be [T, {self.features}], the state [T, {rest}], not {shapes}")
        return torch.cat([features.float(), state.float()], dim=-1)

    def start(self, core: Any) -> None:
        """Begin an evaluation; the policy keeps no state between decisions."""

    def act(self, observation: Tensor) -> Tensor:
        """Return the most probable actions, [T] or [T, k] int64, for observations [T, O] float32."""
        return self.decide(observation).actions

    def decide(self, observation: Tensor) -> NetworkStep:
        """Return the decision for observations [T, O] of `observe` or of the environment."""
        finite = observation.abs().amax(dim=-1) < float("inf")
        parts = self(observation.nan_to_num(0.0, 0.0, 0.0)).split(self.choices, dim=-1)
        # The first of equals: argmax promises no order.
        best = [(part == part.amax(dim=-1, keepdim=True)).float().argmax(dim=-1) for part in parts]
        return NetworkStep(best[0] if len(best) == 1 else torch.stack(best, dim=-1), ~finite)

    def forward(self, observation: Tensor) -> Tensor:
        """Return logits [T, sum A_i] float32; those of invalid actions are -1e9."""
        x = self.standardised(observation)
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).tanh()
        logits = cast(Tensor, last(x))
        if self.rule is not None:
            logits = logits + self.inverse_temperature * self.rule(observation)
        return logits.masked_fill(~self.valid(observation), _INVALID)

    def standardised(self, observation: Tensor) -> Tensor:
        """Return the network's input for observations [T, O]: standardised and clipped."""
        return ((observation.float() - self.shift) * self.scale).clamp(-_FAR, _FAR)

    def valid(self, observation: Tensor) -> Tensor:
        """Return the valid actions [T, sum A_i] bool of observations [T, O]."""
        positive = (observation > 0).float() @ self.valid_columns.float()
        return (positive > 0) | ~self.valid_columns.any()

    def spec(self) -> dict[str, Any]:
        """Return the policy without its weights, as JSON."""
        return {
            "experts": list(self.experts),
            "features": self.features,
            "observation_size": self.observation_size,
            "choices": list(self.choices),
            "hidden": list(self.hidden),
            **_constants_as_json(self.constants),
            **self._rule_as_json(),
        }

    def _rule_as_json(self) -> dict[str, Any]:
        """Return the fields of the rule in `spec`, if there is one."""
        rule: Any = self.rule
        if rule is None:
            return {}
        return {
            "rule": {"kind": rule.kind, **rule.spec()},
            "inverse_temperature": self.inverse_temperature,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> NetworkPolicy:
        """Return an untrained policy from its JSON form.

        Raises:
            RouterError: the sizes do not fit each other, or a constant is outside its range.
        """
        sizes = (spec["features"], spec["observation_size"], spec["choices"], spec["hidden"])
        policy = cls(spec["experts"], *sizes)
        if "rule" in spec:
            policy.follow(_rule_from_spec(spec["rule"]), spec.get("inverse_temperature", 1.0))
        for name, made in _CONSTANTS.items():
            if name in spec:
                policy.constants = made(**_with_tuples(spec[name]))
                policy.constants.check(len(policy.experts))
        return policy


def _rule_from_spec(spec: Mapping[str, Any]) -> nn.Module:
    """Return the untrained rule of its JSON form."""
    kind, fields = spec.get("kind"), {name: value for name, value in spec.items() if name != "kind"}
    if kind not in _RULES:
        return scorer_from_spec(dict(spec))
    try:
        check_type(fields, _RULES[kind].Spec, "rule")
    except ValueError as error:
        raise RouterError(str(error)) from error
    rule: nn.Module = _RULES[kind].from_spec(fields)
    return rule


def _constants_as_json(constants: QueueConstants | ServerConstants | None) -> dict[str, Any]:
    """Return the field of the constants in `spec`, if there are any."""
    return {
        name: {field: list(v) if isinstance(v, tuple) else v for field, v in asdict(constants).items()}
        for name, made in _CONSTANTS.items()
        if constants is not None and type(constants) is made
    }


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return constants with tuples in place of JSON's lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
