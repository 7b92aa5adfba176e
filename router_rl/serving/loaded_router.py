"""A router loaded for serving: its folder, its digests, and its ranking of the experts for a prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experts import InputError
from experts.table.follow_ups import call_of

from ..routing import Router, RouterError, load
from ..routing.policies.cascade_policy import CascadePolicy
from ..routing.policies.cascade_router import (
    cascade_policy_of,
    cascade_router,
    reads_confidences,
    reads_features,
)
from ..routing.policies.live_queues import queue_constants
from ..routing.policies.live_servers import server_constants
from ..routing.policies.network_policy import NetworkPolicy
from ..routing.policies.network_router import network_router
from ..routing.policies.session_policy import SessionPolicy
from ..routing.policies.session_router import session_router
from ..routing.storage import stored_text_digest

__all__ = ["LoadedRouter", "Ranking"]


class Ranking(NamedTuple):
    """A router's output for one prompt.

    Attributes:
        best: id of the expert that the router chooses.
        scores: [N] float32, the logits; minus infinity for a masked expert. NaN if the rule does not have one
            logit per expert.
        features: [D] float32, features of the prompt.
        deviation: [N] float64, standard deviations of the scores for Thompson sampling; None for a router
            that chooses the best expert.
    """

    best: int
    scores: np.ndarray
    features: np.ndarray
    deviation: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class LoadedRouter:
    """A prompt router and where it was loaded from.

    Attributes:
        folder: the resolved folder.
        digest: digest of the router's files, `sha256:<hex>`.
        pipeline: digest of its text pipeline, which computes features of prompts, `sha256:<hex>`; empty for a
            cascade policy that reads answers alone.
        router: the router; for a session, cascade or network policy, the router that is made of it.
    """

    folder: Path
    digest: str
    pipeline: str
    router: Router

    @classmethod
    def of(cls, folder: Path | str, field: str = "router") -> LoadedRouter:
        """Load a router and check that it can be served.

        Args:
            folder: folder of an exported router.
            field: name of the option, for errors.

        Raises:
            InputError: the folder has no prompt router, or the router cannot serve single requests.
        """
        folder = Path(folder).resolve()
        try:
            loaded = load(folder)
        except RouterError as error:
            raise InputError(field, str(folder), str(error), "give a folder that `export` wrote") from error
        router = _as_router(loaded, field, folder)
        servers = server_constants(router)
        constants = queue_constants(router) or servers
        if constants is not None and constants.budget:
            problem = "was trained with a budget per episode, but served requests have no episodes"
            raise InputError(field, str(folder), problem, "train it without --problem.budget")
        beyond = [name for name in router.inputs if name not in ("prompt", "group")]
        if beyond and constants is None and router is loaded:
            problem = f"needs {', '.join(beyond)}, which a request does not have"
            raise InputError(field, str(folder), problem, "export a router that was trained on prompts")
        if router.stochastic or not router.rule.causal:
            problem = "is stochastic or reads whole batches, so it has no best expert for a single request"
            raise InputError(field, str(folder), problem, "serve a router with hard selection, and --explore")
        cascade = cascade_policy_of(router)
        blind = cascade is not None and not reads_features(cascade)
        if router.text is None and not blind:
            problem = "reads features, not prompts"
            raise InputError(
                field, str(folder), problem, "train on a table with prompts and without features"
            )
        name = "router.json" if router is loaded else "policy.json"
        digest = json.loads((folder / name).read_text(encoding="utf-8"))["digest"]
        pipeline = "" if router.text is None else stored_text_digest(folder)
        return cls(folder, str(digest), pipeline, router)

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts."""
        return self.router.experts

    def rank(
        self,
        prompt: str,
        group: str | None,
        may: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
    ) -> Ranking:
        """Score every expert for one prompt.

        Args:
            prompt: text of the request.
            group: task or subject of the request; required if the router's inputs have `group`.
            may: [N] bool, experts that may be chosen; None for all.
            state: [1, S] float32, state of the queues or of the conversation; only for routers that read it.

        Raises:
            RouterError: the router needs a group and there is none.
        """
        router = self.router
        groups = None if group is None else [group]
        with torch.inference_mode():
            text = router.text
            features = torch.zeros(1, router.features) if text is None else text([prompt], groups)
            # Without a group, the router reads only features and queues.
            plain = "group" not in router.inputs or state is not None
            routing = router(features, state, may) if plain else router.route(prompt, groups, action_mask=may)
        scores = routing.logits[0].numpy()
        if len(scores) != len(self.experts):
            scores = np.full(len(self.experts), np.nan, dtype=np.float32)
        return Ranking(int(routing.experts[0, 0]), scores, features[0].numpy())


def _as_router(loaded: Any, field: str, folder: Path) -> Router:
    """Return a router, or a policy that can be served in the form of one.

    Raises:
        InputError: the policy needs more than requests and answers.
    """
    if isinstance(loaded, SessionPolicy):
        return session_router(loaded)
    if isinstance(loaded, NetworkPolicy):
        try:
            return network_router(loaded)
        except RouterError as error:
            fix = "train again with `train --env queueing`, into a new folder"
            raise InputError(field, str(folder), str(error), fix) from error
    if isinstance(loaded, CascadePolicy):
        reads = reads_confidences(loaded)
        if any(call_of(name, loaded.experts).verifies is None for name in reads):
            problem = "reads confidences, which chat completions do not have"
            fix = "train it on a table with answers alone, or with those and verdicts"
            raise InputError(field, str(folder), problem, fix)
        return cascade_router(loaded)
    if not isinstance(loaded, Router):
        problem = f"holds a {getattr(loaded, 'kind', type(loaded).__name__)} policy"
        raise InputError(
            field, str(folder), problem, "serve a router, or a policy of queues, sessions or cascades"
        )
    return loaded
