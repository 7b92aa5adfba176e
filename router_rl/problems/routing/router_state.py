"""Values of a router's second input during evaluation: one provider per name of a `StateInput`.

`load` changes with every decision, so a router that reads it is evaluated step by step; the other parts
depend on the row only.
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

# Maps rows [B] int64 and the window's counts over W [B, N] to a part of the state [B, size].
Provider = Callable[[Tensor, Tensor], Tensor]


def state_of(
    state: Sequence[StateInput], table: OutcomeTable, objective: Objective, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor | None]:
    """Return a function that computes the whole second input of a router; it returns None if there is none.

    Args:
        state: `router.state`.
        table: rows that the router is evaluated on.
        objective: objective of the evaluation.
        device: device of the router.

    Raises:
        RouterError: a part has no provider.
        InputError: the table lacks a column that a part needs.
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
    """Return one-hot groups; a group without a label gets zeros."""
    if table.group is None:
        raise InputError(
            "table", table.source, "has no groups, which the router needs", "add a `group` column"
        )
    known = np.array(part.labels)
    onehot = torch.from_numpy(table.group.astype(str)[:, None] == known).float().to(device)
    return lambda rows, load: onehot[rows]


def _weight(part: StateInput, table: OutcomeTable, objective: Objective, device: torch.device) -> Provider:
    """Return the objective's weight of that name, the same for every row."""
    value = float(getattr(objective, part.name))
    return lambda rows, load: torch.full((len(rows), 1), value, device=device)


PROVIDERS: dict[str, Callable[[StateInput, OutcomeTable, Objective, torch.device], Provider]] = {
    "load": _load,
    "group": _group,
    "compute_weight": _weight,
    "load_weight": _weight,
}
