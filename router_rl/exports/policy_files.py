"""Write a policy of live state as `policy.json` and `policy.safetensors`, what `load_policy` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save

from experts.io.atomic import replacing, write_json

from ..routing.policies.policy_storage import POLICY_SCHEMA
from ..routing.storage import digest_of

__all__ = ["write_policy"]


def write_policy(policy: Any, folder: Path) -> None:
    """Write a policy of a kind in `POLICIES`.

    The weights go first: a kill in between leaves a digest that does not match, which loading reports.
    """
    weights = save({name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()})
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "policy.safetensors") as temporary:
        temporary.write_bytes(weights)
    digest = digest_of(weights, policy.experts)
    description = {"schema_version": POLICY_SCHEMA, "kind": policy.kind, **policy.spec(), "digest": digest}
    write_json(folder / "policy.json", description)
