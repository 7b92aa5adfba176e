"""Write a policy as `policy.json` and `policy.safetensors`, the files that `router_rl.routing.load` reads.

A policy that was trained on prompts also has the files of its text pipeline, as a router has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from experts.io.atomic import replacing, write_json
from experts.io.escaping import markdown_text

from ..routing.digests import digest_of
from ..routing.router_error import RouterError
from ..routing.storage import SCHEMA_VERSION
from .safetensors import write_text

__all__ = ["check_text", "policy_readme", "random_observations", "write_policy"]


def write_policy(policy: Any, folder: Path) -> None:
    """Write a policy.

    The weights are written first. If the process is killed in between, the digest does not match and loading
    raises an error.

    Args:
        policy: an instance of a class in `router_rl.routing.POLICIES`.
        folder: the output folder; created if it does not exist.
    """
    weights = save({name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()})
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "policy.safetensors") as temporary:
        temporary.write_bytes(weights)
    description = {"schema_version": SCHEMA_VERSION, "kind": policy.kind, **policy.spec()}
    if policy.text is not None:
        description["text"] = write_text(policy.text, folder)
    description["digest"] = digest_of(description, weights)
    write_json(folder / "policy.json", description)


def check_text(policy: Any, exported: Any, prompts: Sequence[str]) -> float:
    """Check that a policy's export computes the same features of prompts.

    Args:
        policy: the trained policy, with a text pipeline.
        exported: the policy loaded from the export.
        prompts: T texts; each gets a group that is unknown to the pipeline.

    Returns:
        the largest absolute difference of a feature, which is 0.

    Raises:
        RouterError: the export has no text pipeline, or a feature differs.
    """
    groups = ["a group without rows"] * len(prompts)
    if exported.text is None:
        raise RouterError("the exported policy has no text pipeline")
    with torch.inference_mode():
        difference = (policy.text(prompts, groups) - exported.text(prompts, groups)).abs().max()
    if not float(difference) == 0.0:
        raise RouterError(f"the exported policy's features of prompts differ by up to {difference:g}")
    return float(difference)


def random_observations(policy: Any, rows: int = 1000) -> Tensor:
    """Random observations for the parity check: half of the entries are 0, the others are in (0, 1).

    Flags, confidences and counts all vary. The last two rows are not finite.

    Args:
        policy: a policy with `observation_size`, O.
        rows: number of observations, at least 2.

    Returns:
        [rows, O] float32.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(rows, policy.observation_size, generator=generator)
    nonzero = torch.rand(rows, policy.observation_size, generator=generator) < 0.5
    observations = values * nonzero
    observations[-2, 0], observations[-1, -1] = float("nan"), float("inf")
    return observations


def policy_readme(policy: Any) -> str:
    """Return the content of an exported policy's `README.md`."""
    names = ", ".join(markdown_text(name) for name in policy.experts)
    text = ""
    if policy.text is not None:
        text = 'features = policy.text(["a prompt"])  # [T, D] float32, for policy.observe\n'
    return f"""# A {policy.kind} policy for {len(policy.experts)} experts: {names}

It chooses actions for observations [T, {policy.observation_size}] float32, which `policy.observe` returns.
`parity.json` has the comparison with the trained policy.

```python
from router_rl.routing import load  # imports torch alone
policy = load(".")
{text}actions = policy.act(observation)
step = policy.decide(observation)  # the same action, by name
```
"""
