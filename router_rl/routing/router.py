"""The router: a scorer and a selection rule, the object that is trained, compared and exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .router_error import RouterError
from .scorers.scorer import Scorer
from .selection import Selection
from .state_input import StateInput
from .text import GROUP_MISSING, TextFeatures

__all__ = ["Router", "Routing", "StateInput"]

# The logit of an expert that is not allowed: below the -1e4 of `prefer`, so that a fallback row whose own
# expert is masked goes to an allowed one.
_NEVER = -2e4


class Routing(NamedTuple):
    """The routing decision of T queries.

    Attributes:
        experts: [T, k] int64, chosen expert ids, distinct within a row, best first; the id N means no expert
            (rules with an adaptive number of experts).
        weights: [T, k] float32, rows sum to 1.
        logits: [T, N] float32 (or as many as the rule takes), after masking and the fallback.
        fallback: [T] bool, True where the row went to the fallback expert; `fallback.sum()` counts them.
    """

    experts: Tensor
    weights: Tensor
    logits: Tensor
    fallback: Tensor


class Router(nn.Module):
    """Scores queries and selects their experts; needs torch alone.

    Args:
        scorer: features plus state [T, D + S] to logits [T, N].
        rule: logits to experts and weights.
        experts: the N expert names, in the order of the logits.
        state: the parts of the second input; empty for a router of features alone.
        fallback: the expert for a row whose features or logits are not finite, or whose mask allows none of
            the allowed experts.
        stochastic: draw from the policy instead of choosing greedily (random and zero routers).
        allowed: [N], False for experts that are never chosen; None where all are allowed.
        text: makes features from prompts; None for a router of features alone.

    Raises:
        RouterError: names, sizes or the fallback do not fit each other.
    """

    allowed: Tensor | None
    fallback_logits: Tensor

    def __init__(
        self,
        scorer: Scorer,
        rule: Selection,
        experts: Sequence[str],
        *,
        state: Sequence[StateInput] = (),
        fallback: int = 0,
        stochastic: bool = False,
        allowed: Sequence[bool] | None = None,
        text: TextFeatures | None = None,
    ) -> None:
        super().__init__()
        names = tuple(experts)
        state_size = sum(part.size for part in state)
        outputs = rule.outputs(len(names))
        if scorer.experts != outputs:
            raise RouterError(
                f"the scorer has {scorer.experts} outputs but there are {len(names)} experts and {rule.name} "
                f"selection takes {outputs}"
            )
        if scorer.inputs < state_size:
            raise RouterError(f"the scorer takes {scorer.inputs} inputs, fewer than its state's {state_size}")
        if text is not None and text.size != scorer.inputs - state_size:
            raise RouterError(
                f"the text makes {text.size} features but the router takes {scorer.inputs - state_size}; "
                "use the features it was trained on"
            )
        if fallback not in range(len(names)):
            raise RouterError(f"fallback={fallback!r} is not an expert; use 0 to {len(names) - 1}")
        rule.check(len(names))
        if allowed is not None and (len(allowed) != len(names) or not allowed[fallback]):
            raise RouterError(
                f"allowed={list(allowed)} must have {len(names)} entries and allow the fallback"
            )
        self.scorer: Scorer = scorer
        self.experts = names
        self.state = tuple(part._replace(labels=tuple(part.labels)) for part in state)  # JSON has lists
        self.features = scorer.inputs - state_size
        self.fallback = fallback
        self.stochastic = stochastic
        self.text = text
        self.rule = rule
        # Not persistent: it belongs to the description, not to the weights.
        self.register_buffer(
            "allowed", None if allowed is None else torch.tensor(list(allowed)), persistent=False
        )

    @property
    def rule(self) -> Selection:
        """Logits to experts and weights; a gate that learns its rule sets it after training."""
        return self._rule

    @rule.setter
    def rule(self, rule: Selection) -> None:
        self._rule = rule
        # The logits of a fallback row: stored, since every call needs them.
        logits = rule.prefer(self.fallback, len(self.experts))
        device = next(iter(self.scorer.parameters()), logits).device
        self.register_buffer("fallback_logits", logits.to(device), persistent=False)

    @property
    def state_size(self) -> int:
        """How many numbers the second input has for each row."""
        return sum(part.size for part in self.state)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a call must give: `prompt` or `features`, `group`, parts of the state without a default."""
        return self._with_state(("features",) if self.text is None else self.text.inputs)

    @property
    def defaults(self) -> dict[str, float]:
        """The state of a call without state, by name; empty where there is none or a part has no default."""
        defaults = {part.name: part.default for part in self.state}
        return {name: value for name, value in defaults.items() if value is not None}

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions that `at` fixes, such as `compute_weight`; empty where there are none."""
        return tuple(part.name for part in self.state) if self.scorer.ranges else ()

    def start(self, core: Any) -> None:
        """Begin an evaluation; a router keeps no state between decisions.

        Args:
            core: the environment's core.
        """

    def act(self, observation: Tensor) -> Tensor:
        """Choose experts for observations of an environment (the `Policy` protocol).

        Args:
            observation: [B, D + S] float, features and then state; a router of features alone reads the
                first D.

        Returns:
            actions [B] int64 where the rule runs one expert, else [B, k] int64, best first.

        Raises:
            RouterError: the observation is narrower than the router's inputs.
        """
        features, state = observation[:, : self.features], observation[:, self.features :]
        experts = self(features, state if self.state else None).experts
        return experts[:, 0] if self.rule.k == 1 else experts

    def forward(
        self, features: Tensor, state: Tensor | None = None, action_mask: Tensor | None = None
    ) -> Routing:
        """Route T queries.

        Args:
            features: [T, D] float; a row that is not finite goes to the fallback expert.
            state: [T, S] float; None where `router.state` is empty or all its parts have a default.
            action_mask: [N] or [T, N] bool, True where an expert may be chosen (False: it is down, or full).
                A row without any goes to the fallback expert and has `fallback` True.

        Raises:
            RouterError: a shape does not fit.
        """
        logits, fallback = self.logits(features, state, action_mask)
        if self.stochastic:
            experts, weights = self.rule.choice(logits, self.rule.sample(logits))
        else:
            experts, weights = self.rule.select(logits)
        return Routing(experts, weights, logits, fallback)

    def route(
        self,
        prompts: str | Sequence[str] | None = None,
        groups: str | Sequence[str] | None = None,
        state: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> Routing:
        """Route prompts: make their features, then call `forward`. No gradients; thread-safe.

        Args:
            prompts: one, or T of them. None: only for a router whose `inputs` have no `prompt`.
            groups: the task or subject of each; required where `inputs` has `group`, else not read. A group
                without training rows is routed as an average query.
            state: as for `forward`. A router whose state is the group computes it from `groups`.
            action_mask: [N] or [T, N] bool, True where an expert may be chosen.

        Raises:
            RouterError: the router has no text pipeline, groups are required and missing, or a shape does not
                fit.
        """
        if self.text is None:
            raise RouterError(
                "this router was trained on a table's own features, so it cannot read prompts; call it with "
                "features, or train it on a table without them"
            )
        if prompts is None:
            if "prompt" in self.inputs or groups is None:
                raise RouterError(f"this router reads {' and '.join(self.inputs)}; give route() each of them")
            prompts = "" if isinstance(groups, str) else [""] * len(groups)
        if isinstance(prompts, str):
            prompts = [prompts]
        if isinstance(groups, str):
            groups = [groups] * len(prompts)
        if groups is None and "group" in self.inputs and state is None:
            raise RouterError(GROUP_MISSING)
        with torch.inference_mode():
            features = self.text(prompts, groups)
            if state is None and groups is not None:
                state = self._state_of_groups(groups)
            return self(features, state, action_mask)

    def logits(
        self, features: Tensor, state: Tensor | None = None, action_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [T, outputs] float32 after masking and the fallback, and which rows fell back [T] bool.

        Args:
            features, state, action_mask: as for `forward`.
        """
        x = self._inputs(features, state)
        logits = self.scorer(x)
        # The same as isfinite().all(), in a tenth of the time: comparisons with NaN are False.
        finite = logits.abs().amax(dim=-1) < float("inf")
        if not self.scorer.propagates_nonfinite:
            finite = finite & (x.abs().amax(dim=-1) < float("inf"))
        # A fallback row scores 0 for the fallback expert and a large negative number for the others, so
        # that every rule keeps distinct ids and weights that sum to 1.
        logits = self._only_allowed(torch.where(finite.unsqueeze(-1), logits, self.fallback_logits))
        if action_mask is None:
            return logits, ~finite
        _check_mask(action_mask, logits.shape[0], len(self.experts))
        may_be = action_mask if self.allowed is None else action_mask & self.allowed
        left = may_be.any(dim=-1)
        masked = self.rule.mask(logits, action_mask)
        return torch.where(left.unsqueeze(-1), masked, self.fallback_logits), ~(finite & left)

    def scores(self, features: Tensor, state: Tensor | None = None) -> Tensor:
        """Logits [T, outputs] float32 without the fallback, for learners: rows must be finite.

        Args:
            features, state: as for `forward`.
        """
        return self._only_allowed(cast(Tensor, self.scorer(self._inputs(features, state))))

    def check_pool(self, experts: Sequence[str], features: int) -> None:
        """Check that a table has the router's experts and number of features.

        Args:
            experts: the table's expert names, in order.
            features: the table's D.

        Raises:
            RouterError: they differ; names both sides.
        """
        if tuple(experts) != self.experts:
            raise RouterError(
                f"the router routes between {', '.join(self.experts)} but the table has "
                f"{', '.join(experts)}; use the table it was trained on, or train again"
            )
        if features != self.features:
            raise RouterError(
                f"the router takes {self.features} features but the table has {features}; "
                "compute the features it was trained on, or train again"
            )

    def folded(self) -> Router:
        """The same router with the feature standardisation moved into the scorer's first layer."""
        return self._with(self.scorer.folded(), self.state, self.stochastic)

    def at(self, **conditions: float) -> Router:
        """The plain router at fixed conditions: `at(compute_weight=0.1)`.

        Args:
            conditions: a value for each of `conditions`.

        Raises:
            RouterError: the router has no conditions, or they are not the ones given.
        """
        names = [part.name for part in self.state]
        if not self.scorer.ranges:
            raise RouterError("no input of this router can be fixed; train it with conditioned_pg")
        if sorted(conditions) != sorted(names):
            given = ", ".join(conditions) or "nothing"
            raise RouterError(
                f"the router's conditions are {', '.join(names)}, not {given}; give each a value"
            )
        scorer = self.scorer.at([conditions[name] for name in names])
        return self._with(scorer).train(self.training)

    def repriced(self, compute: Sequence[float]) -> Router:
        """The same policy for experts of other costs; nothing is trained.

        Args:
            compute: [N], mean compute of each expert in the unit that the router was trained in.

        Raises:
            RouterError: the router does not know prices, or there are not N finite ones.
        """
        if not self.scorer.repriceable:
            raise RouterError("the experts' prices are not inputs of this router; train it with priced_pg")
        if len(compute) != len(self.experts) or not all(0.0 <= value < float("inf") for value in compute):
            raise RouterError(f"compute={list(compute)} must be {len(self.experts)} numbers, 0 or more")
        return self._with(self.scorer.repriced(compute), self.state).train(self.training)

    def spec(self) -> dict[str, Any]:
        """The router without its weights and its text pipeline, as JSON."""
        return {
            "experts": list(self.experts),
            "inputs": list(self._with_state(("features",))),
            "features": self.features,
            "scorer": self.scorer.spec(),
            "select": self.rule.spec(),
            "state": [part.spec() for part in self.state],
            "fallback": self.fallback,
            "stochastic": self.stochastic,
            **({} if self.allowed is None else {"allowed": self._allowed_list()}),
        }

    def _with(self, scorer: Scorer, state: Sequence[StateInput] = (), stochastic: bool = False) -> Router:
        """This router with another scorer."""
        return Router(
            scorer,
            self.rule,
            self.experts,
            state=state,
            fallback=self.fallback,
            stochastic=stochastic,
            allowed=self._allowed_list(),
            text=self.text,
        )

    def _with_state(self, read: Sequence[str]) -> tuple[str, ...]:
        """Names of inputs, then the parts of the state that a call must give."""
        needed = [part.name for part in self.state if part.default is None]
        return tuple(dict.fromkeys([*read, *needed]))

    def _state_of_groups(self, groups: Sequence[str]) -> Tensor | None:
        """The state [T, S] of a router whose only state is the group's one-hot; None for other routers."""
        if [part.name for part in self.state] != ["group"]:
            return None
        labels = self.state[0].labels
        return torch.tensor([[float(name == label) for label in labels] for name in groups]).reshape(
            len(groups), len(labels)
        )

    def _only_allowed(self, logits: Tensor) -> Tensor:
        if self.allowed is None:
            return logits
        # Finite, so that a learner that scores every expert (DQN) sees no infinities.
        masked = self.rule.mask(logits, self.allowed)
        return torch.where(masked == float("-inf"), _NEVER, logits)

    def _allowed_list(self) -> list[bool] | None:
        return None if self.allowed is None else [bool(value) for value in self.allowed.tolist()]

    def _inputs(self, features: Tensor, state: Tensor | None) -> Tensor:
        if features.dim() != 2 or features.shape[1] != self.features:
            raise RouterError(f"features must be [T, {self.features}], not {list(features.shape)}")
        if not self.state:
            if state is not None:
                raise RouterError("this router takes no state; call it with features alone")
            return features.float()  # here, so that a value beyond float32 counts as infinite
        if state is None and len(self.defaults) == len(self.state):
            values = [part.default or 0.0 for part in self.state for _ in range(part.size)]
            state = torch.tensor(values, device=features.device).expand(len(features), -1)
        if state is None or state.shape != (features.shape[0], self.state_size):
            names = ", ".join(f"{part.name} ({part.size})" for part in self.state)
            shape = None if state is None else list(state.shape)
            rows = features.shape[0]
            fixed = ", ".join(f"{name}=0.1" for name in self.conditions)
            fix = f"; or fix it, once: router.at({fixed})" if fixed else ""
            raise RouterError(f"state must be [{rows}, {self.state_size}] holding {names}, not {shape}{fix}")
        return torch.cat([features.float(), state.float()], dim=-1)


def _check_mask(action_mask: Tensor, rows: int, experts: int) -> None:
    if action_mask.dtype != torch.bool or action_mask.shape not in ((experts,), (rows, experts)):
        given = f"{str(action_mask.dtype).removeprefix('torch.')} {list(action_mask.shape)}"
        raise RouterError(f"action_mask must be bool [{experts}] or [{rows}, {experts}], not {given}")
