"""The logger of Stable-Baselines3's agents."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

__all__ = ["without_log_folder"]


def without_log_folder(agent: BaseAlgorithm) -> None:
    """Give an agent a logger that writes nothing.

    Without one, `learn` creates an empty folder `SB3-DATE` in the system's folder of temporary files, and
    leaves it there.

    Args:
        agent: before its first `learn`.
    """
    agent.set_logger(Logger(folder=None, output_formats=[]))
