"""What a router's second input holds while it is measured: a provider for each name of a `StateInput`.

`load` changes with every decision, so a router that reads it is played decision by decision; the others
are known of a row beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from experts import InputError, OutcomeTable

from ...routing import RouterError, StateInput
from ..objective import Objective

__all__ = ["PROVIDERS", "Provider", "state_of"]

# Of the rows asked for [B] int64 and the window's counts over W [B, N]: a part of the state [B, size].
Provider = Callable[[Tensor, Tensor], Tensor]


def state_of(
    state: Sequence[StateInput], table: OutcomeTable, objective: Objective, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor | None]:
    """The whole second input of a router, or None for one that has none.

    Args:
        state: `router.state`.
        table: the rows that the router is measured on.
        objective: what it is measured by.
        device: where the router lives.

    Raises:
        RouterError: nobody knows how to provide a part.
        InputError: the table lacks what a part is made of.
    """
    parts: list[Provider] = []
    for part in state:
        if part.name not in PROVIDERS:
            raise RouterError(
                f"the router's state {part.name!r} cannot be computed from a table; known: "
                f"{', '.join(sorted(PROVIDERS))}"
            )
        parts.append(PROVIDERS[part.name](part, table, objective, device))

    def provide(rows: Tensor, load: Tensor) -> Tensor | None:
        return torch.cat([part(rows, load) for part in parts], dim=-1) if parts else None

    return provide


def _load(part: StateInput, table: OutcomeTable, objective: Objective, device: torch.device) -> Provider:
    return lambda rows, load: load


def _group(part: StateInput, table: OutcomeTable, objective: Objective, device: torch.device) -> Provider:
    """One-hot of each row's group among the part's labels; zeros for a group that is none of them."""
    if table.group is None:
        raise InputError(
            "table", table.source, "has no groups, which the router reads", "add a `group` column to it"
        )
    known = np.array(part.labels)
    onehot = torch.from_numpy(table.group.astype(str)[:, None] == known).float().to(device)
    return lambda rows, load: onehot[rows]


def _weight(part: StateInput, table: OutcomeTable, objective: Objective, device: torch.device) -> Provider:
    """The objective's own weight of that name, the same for every row."""
    value = float(getattr(objective, part.name))
    return lambda rows, load: torch.full((len(rows), 1), value, device=device)


PROVIDERS: dict[str, Callable[[StateInput, OutcomeTable, Objective, torch.device], Provider]] = {
    "load": _load,
    "group": _group,
    "compute_weight": _weight,
    "load_weight": _weight,
}
