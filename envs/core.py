"""The contract between a decision process and its adapters: B lanes that step together, as tensors."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Union

import torch
from gymnasium import spaces
from torch import Tensor

__all__ = ["ActionSpace", "Core", "Step"]

ActionSpace = Union[spaces.Discrete, spaces.MultiDiscrete, spaces.Box]  # noqa: UP007 (read at run time)


class Step(NamedTuple):
    """What one decision in every lane earned.

    Attributes:
        reward: [B] float32.
        terminated: [B] bool, True where the episode ended by its own rules.
        parts: what the reward is made of, [B] float32, and `share` [B, N], how the decision divided
            among the experts.
    """

    reward: Tensor
    terminated: Tensor
    parts: dict[str, Tensor]


class Core(Protocol):
    """A decision process played in B lanes on one device.

    A lane that terminates keeps its last state, so that its final observation can be read; it must be
    cleared before the next step.
    """

    lanes: int
    experts: int
    device: torch.device
    observation_space: spaces.Box
    action_space: ActionSpace

    def reset(self, seed: int | None = None) -> Tensor:
        """Start an episode in every lane; a seed s starts lane i's stream anew from s + i."""
        ...

    def step(self, actions: Tensor) -> Step:
        """Play actions [B] or [B, k], int64 or, for a Box, float32."""
        ...

    def observation(self) -> Tensor:
        """What the lanes see, [B, ...] float32."""
        ...

    def clear(self, finished: Tensor) -> None:
        """Start a new episode where `finished` [B] bool."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors from which `load_state_dict` continues exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved before."""
        ...
