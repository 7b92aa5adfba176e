"""The policy protocol: what an evaluation calls, whatever the problem."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

__all__ = ["Policy"]


class Policy(Protocol):
    """Chooses actions from observations; `Router` and every class in `POLICIES` are policies."""

    def start(self, core: Any) -> None:
        """Begin one evaluation, which may last several episodes.

        Args:
            core: the environment's core, for policies that read more of it than its observations (bounds and
                rules); its type depends on the problem.
        """
        ...

    def act(self, observation: Tensor) -> Tensor:
        """Choose actions.

        Args:
            observation: [B, O] float32, as the environment returns it.

        Returns:
            actions [B] or [B, k] int64, as the environment takes them.
        """
        ...
