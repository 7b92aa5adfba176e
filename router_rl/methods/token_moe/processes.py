"""Token-level training on several processes (accelerate): each takes a share of every batch.

The processes hold equal routers. Each computes the loss of its share; gradients are summed with the shares'
weights, so that every process makes the step of the whole batch. Random numbers are drawn for the whole batch
by each process, which uses those of its share: the result is that of one process, to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experts import InputError

__all__ = ["ONE", "Processes", "processes"]


@dataclass(frozen=True)
class Processes:
    """The processes of this training.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    def own(self, rows: Tensor) -> Tensor:
        """Return this process's share of a batch's rows: every `size`-th one; all if there are too few.

        Args:
            rows: [B, ...].
        """
        return rows if len(rows) < self.size else rows[self.rank :: self.size]

    def check(self, count: int, batch: int) -> None:
        """Check that every process has a share of every batch.

        Args:
            count: training sequences.
            batch: sequences of a batch.

        Raises:
            InputError: a batch has fewer sequences than there are processes.
        """
        smallest = min(count, batch, count % batch or batch)
        if smallest < self.size:
            problem = f"gives a batch of {smallest} sequences to {self.size} processes"
            raise InputError("problem.batch", batch, problem, "use another batch, or fewer processes")

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes.

        Args:
            values: of one shape in all processes; without gradient.
        """
        if self.size == 1:
            return values
        summed = values.detach().clone()
        torch.distributed.all_reduce(summed)
        return summed

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.total(torch.zeros(()))

    def row_mean(self, values: Tensor) -> Tensor:
        """Return the mean over the rows of all processes.

        Args:
            values: [M, N] float32, without gradient.
        """
        if self.size == 1:
            return values.mean(dim=0)
        return self.total(values.sum(dim=0)) / self.total(torch.tensor(float(len(values))))

    def std(self, values: Tensor) -> Tensor:
        """Return the standard deviation of the values of all processes (unbiased, as `Tensor.std`).

        Args:
            values: float32, without gradient.
        """
        if self.size == 1:
            return values.std()
        count = self.total(torch.tensor(float(values.numel()), dtype=torch.float64))
        mean = self.total(values.double().sum()) / count
        return (self.total((values.double() - mean).square().sum()) / (count - 1)).sqrt().float()

    def weight(self, count: int | Tensor) -> float:
        """Return the share of this process in a count of all processes.

        Args:
            count: of this process.
        """
        if self.size == 1:
            return 1.0
        own = torch.as_tensor(count, dtype=torch.float64)
        return float(own / self.total(own))

    def sum_gradients(self, module: nn.Module, weight: float) -> None:
        """Replace gradients by their sum over all processes, each times its process's weight.

        Args:
            module: whose parameters have gradients.
            weight: of this process; the weights of all sum to 1.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() * weight for gradient in gradients])
        torch.distributed.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.reshape(gradient.shape))

    def refuse(self, option: str, value: Any, allowed: Iterable[Any]) -> None:
        """Raise InputError for a value of an option that several processes cannot reproduce.

        Args:
            option: its name.
            value: its value.
            allowed: the values that they can.
        """
        if self.size > 1 and value not in tuple(allowed):
            wanted = ", ".join(map(str, allowed))
            problem = f"cannot be trained on {self.size} processes"
            raise InputError(option, value, problem, f"use {wanted}, or one process")


ONE = Processes()


def processes() -> Processes:
    """Return the processes that `torchrun` or `accelerate launch` started; one without them.

    Raises:
        InputError: accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ONE
    try:
        from accelerate import PartialState
    except ImportError as error:
        problem = f"cannot be imported ({error})"
        raise InputError("accelerate", None, problem, "pip install 'router-rl[moe]'") from error
    state: Any = PartialState(cpu=True)  # experts run on the CPU
    return Processes(int(state.process_index), int(state.num_processes))
