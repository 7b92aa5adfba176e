"""A policy of live state as `policy.json` and `policy.safetensors`, as `router_rl.routing.load` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from experts.io.atomic import replacing, write_json

from ..routing.safetensors_file import digest_of
from ..routing.storage import POLICY_SCHEMA

__all__ = ["policy_readme", "random_observations", "write_policy"]


def write_policy(policy: Any, folder: Path) -> None:
    """Write a policy.

    The weights are written first: a kill in between leaves a digest that does not match, which loading
    reports.

    Args:
        policy: of a class in `router_rl.routing.POLICIES`.
        folder: made if it does not exist.
    """
    weights = save({name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()})
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "policy.safetensors") as temporary:
        temporary.write_bytes(weights)
    digest = digest_of(weights, policy.experts)
    description = {"schema_version": POLICY_SCHEMA, "kind": policy.kind, **policy.spec(), "digest": digest}
    write_json(folder / "policy.json", description)


def random_observations(policy: Any, rows: int = 1000) -> Tensor:
    """Observations [rows, O] float32 to compare policies on: half of the entries 0, the others in (0, 1).

    So flags, confidences and counts all vary. The last two rows are not finite.

    Args:
        policy: with `observation_size`, O.
        rows: how many, at least 2.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(rows, policy.observation_size, generator=generator)
    shown = torch.rand(rows, policy.observation_size, generator=generator) < 0.5
    observations = values * shown
    observations[-2, 0], observations[-1, -1] = float("nan"), float("inf")
    return observations


def policy_readme(policy: Any) -> str:
    """The content of `README.md` beside a policy."""
    names = ", ".join(policy.experts)
    return f"""# A {policy.kind} policy for {len(policy.experts)} experts: {names}

It chooses actions for observations [T, {policy.observation_size}] float32, which `policy.observe` makes.
`parity.json` says how it agrees with the policy that was trained.

```python
from router_rl.routing import load  # imports torch alone
policy = load(".")
actions = policy.act(observation)
step = policy.decide(observation)  # the same by name
```
"""
