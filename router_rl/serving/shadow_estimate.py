"""Off-policy estimates of a shadow router's utility, quality and cost from the decision log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from envs.reward import utility
from experts import InputError

from ..problems.off_policy import off_policy
from .live_routers import Live
from .log_row import of_one_pipeline
from .log_store import LogStore

__all__ = ["estimate_of", "shadow_estimate"]

_NEWEST = 5_000  # number of decisions that are read


def shadow_estimate(store: LogStore, live: Live, cost_weight: float = 0.0) -> dict[str, Any] | None:
    """Return the estimated utility, quality and cost of the shadow router, as JSON; None without one.

    Args:
        store: the decision log.
        live: the routers.
        cost_weight: utility per US dollar.
    """
    if live.shadow is None:
        return None
    facts = {"folder": live.shadow.folder.name, "digest": live.shadow.digest}
    try:
        rows = [
            row
            for row in store.decisions(newest=_NEWEST)
            if row["shadow_router"] == live.shadow.digest
            and row["propensity"]
            and row["score"] is not None
            and row["cost_usd"] is not None
        ]
        rows = of_one_pipeline(rows)
        choices = [str(row["shadow_expert"]) for row in rows]
        return facts | estimate_of(rows, choices, live.router.experts, cost_weight)
    except SQLAlchemyError:
        return facts | {"problem": "the log cannot be read now"}


def estimate_of(
    rows: Sequence[dict[str, Any]], choices: Sequence[str], experts: Sequence[str], cost_weight: float = 0.0
) -> dict[str, Any]:
    """Estimate utility, quality and cost of a policy from scored decisions of another one.

    Args:
        rows: T decisions with a propensity, features, a score and a cost.
        choices: [T], the policy's expert for each decision.
        experts: names of the N experts.
        cost_weight: utility per US dollar.

    Returns:
        `utility`, `quality` and `cost_usd` with estimates (see `OffPolicy.to_json`), and `live` with the
        means of the logged decisions; or `problem`, the reason why there is no estimate.
    """
    ids = {name: index for index, name in enumerate(experts)}
    known = [at for at, row in enumerate(rows) if row["expert"] in ids and choices[at] in ids]
    widths = {len(rows[at]["features"] or b"") for at in known}
    if len(known) < 2 or len(widths) > 1:
        return {"decisions": len(known), "problem": "too few scored decisions of this router"}
    logged = [rows[at] for at in known]
    features = np.stack([np.frombuffer(row["features"], dtype="<f4") for row in logged])
    action = np.array([ids[row["expert"]] for row in logged])
    propensity = np.array([row["propensity"] for row in logged])
    target = np.eye(len(experts))[[ids[choices[at]] for at in known]]
    rewards = {
        "quality": np.array([row["score"] for row in logged], dtype=np.float64),
        "cost_usd": np.array([row["cost_usd"] for row in logged], dtype=np.float64),
    }
    rewards["utility"] = utility(
        {"quality": rewards["quality"], "cost": rewards["cost_usd"]}, {"cost": cost_weight}
    )
    try:
        estimates = {
            name: off_policy(features, action, propensity, reward, target, experts).to_json()
            for name, reward in rewards.items()
        }
    except InputError as error:
        return {"decisions": len(known), "problem": str(error)}
    live = {name: float(reward.mean()) for name, reward in rewards.items()}
    return {"decisions": len(known), **estimates, "live": live}
