"""The batched core of an environment: B lanes that step together, as tensors on one device.

`Core` is the contract that the adapters and the agents use. `BatchedCore` is the base class of every core of
this package: it checks the lanes, seeds them, resets them and saves their state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, Union, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import InputError

__all__ = ["ActionSpace", "BatchedCore", "Core", "Step", "float_box", "replace_lanes"]

ActionSpace = Union[spaces.Discrete, spaces.MultiDiscrete, spaces.Box]  # noqa: UP007 (read at run time)
State = TypeVar("State", bound=tuple[Any, ...])


class Step(NamedTuple):
    """The result of one step in every lane.

    Attributes:
        reward: [B] float32.
        terminated: [B] bool, True where the episode ended by its own rules.
        parts: the parts of the reward, [B] float32 each, and `share` [B, N] float32, how the decision divides
            among the experts.
    """

    reward: Tensor
    terminated: Tensor
    parts: dict[str, Tensor]


class Core(Protocol):
    """An environment of B lanes on one device.

    A lane that terminates keeps its last state, so that its final observation can be read. Clear it before
    the next step.
    """

    lanes: int
    experts: int
    device: torch.device
    observation_space: spaces.Box
    action_space: ActionSpace

    def reset(self, seed: int | None = None) -> Tensor:
        """Start an episode in every lane; with a seed s, lane i restarts its random stream from s + i."""
        ...

    def step(self, actions: Tensor) -> Step:
        """Apply actions [B] or [B, k], int64 or, for a Box, float32."""
        ...

    def observation(self) -> Tensor:
        """The current observations, [B, ...] float32."""
        ...

    def clear(self, finished: Tensor) -> None:
        """Start a new episode where `finished` [B] bool is True."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors from which `load_state_dict` continues exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        ...


class BatchedCore(ABC, Generic[State]):
    """Base class of cores whose state is a named tuple of tensors.

    A subclass calls this constructor, sets `observation_space` and `action_space`, and then sets
    `state = self._initial_state(self._lane_seeds(seed))`.

    Args:
        experts: N.
        device: where the state lives.
        lanes: B.
        group: consecutive lanes that share a random stream.

    Raises:
        InputError: `lanes` or `group` is less than 1.
    """

    observation_space: spaces.Box
    action_space: ActionSpace
    state: State

    def __init__(self, experts: int, device: torch.device, lanes: int, group: int = 1) -> None:
        for name, value in (("lanes", lanes), ("group", group)):
            if value < 1:
                raise InputError(name, value, "not positive", "use 1 or more")
        self.experts = experts
        self.device = device
        self.lanes = lanes
        self.group = group

    def immediate(self) -> BatchedCore[State]:
        """Return this core; later rewards come with the decisions that cause them, if it supports that."""
        return self

    @abstractmethod
    def step(self, actions: Tensor) -> Step:
        """Apply one action in every lane."""

    @abstractmethod
    def observation(self) -> Tensor:
        """The current observations, [B, ...] float32."""

    @abstractmethod
    def clear(self, finished: Tensor) -> None:
        """Start a new episode where `finished` [B] bool is True."""

    @abstractmethod
    def _initial_state(self, seeds: Tensor) -> State:
        """The first state of random streams `seeds` [B] int64."""

    def reset(self, seed: int | None = None) -> Tensor:
        """Start an episode in every lane and return the observations.

        Args:
            seed: restarts the random streams: lane i restarts from `seed + i // group`. None continues them.
        """
        if seed is None:
            self.clear(torch.ones(self.lanes, dtype=torch.bool, device=self.device))
        else:
            self.state = self._initial_state(self._lane_seeds(seed))
        return self.observation()

    def state_dict(self) -> dict[str, Any]:
        """The state of the lanes as tensors by name."""
        return dict(cast(Any, self.state)._asdict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.state = type(self.state)(**state)

    def _lane_seeds(self, seed: int) -> Tensor:
        """The random stream of each lane, [B] int64."""
        return torch.arange(self.lanes, dtype=torch.int64, device=self.device) // self.group + seed


def replace_lanes(finished: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` in the lanes that finished, `old` in the others.

    Args:
        finished: [B] bool.
        new, old: [B, ...], of the same shape.

    >>> replace_lanes(torch.tensor([True, False]), torch.zeros(2, 1), torch.ones(2, 1)).tolist()
    [[0.0], [1.0]]
    """
    return torch.where(finished.reshape(-1, *[1] * (new.dim() - 1)), new, old)


def float_box(low: Sequence[np.ndarray], high: Sequence[np.ndarray]) -> spaces.Box:
    """A float32 Box from the bounds of each part of an observation, concatenated."""
    lower, upper = (np.concatenate(parts).astype(np.float32) for parts in (low, high))
    return spaces.Box(lower, upper, dtype=np.float32)
