"""The routers that serve now, and the check that they can be served together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from experts import InputError

from ..routing.policies.cascade_router import cascade_policy_of
from ..routing.policies.live_queues import queue_constants
from ..routing.policies.live_servers import server_constants
from ..routing.policies.session_router import session_policy_of
from .loaded_router import LoadedRouter

__all__ = ["Live", "check_cascades", "check_live"]


@dataclass(frozen=True, eq=False)
class Live:
    """The routers that serve now; replaced atomically, so that a decision uses one consistent set.

    Attributes:
        router: the router that decides.
        canary: a router that decides a fraction of the requests; None for none.
        fraction: fraction of the requests that the canary decides.
        shadow: a router whose decisions are only logged; None for none.
    """

    router: LoadedRouter
    canary: LoadedRouter | None = None
    fraction: float = 0.0
    shadow: LoadedRouter | None = None

    @property
    def routers(self) -> list[LoadedRouter]:
        """The router, then the canary and the shadow if they exist."""
        return [each for each in (self.router, self.canary, self.shadow) if each is not None]


def check_live(live: Live, experts: Sequence[str], known: Collection[str], *, counts: bool) -> None:
    """Check that routers can be served: their experts have prices, and their inputs are available.

    Args:
        live: the routers.
        experts: names of the experts of the router that serves.
        known: names of the models in the model list.
        counts: whether requests in flight are counted and conversations recorded.

    Raises:
        InputError: an expert is not in the model list, the routers have different experts, or a router reads
            what is not available.
    """
    for field, each in _named(live):
        missing = [name for name in each.experts if name not in known]
        if missing:
            fix = "add it to the model list, under its name in the table"
            problem = f"has the expert {missing[0]}, which is not in the model list"
            raise InputError(field, str(each.folder), problem, fix)
        if not counts and (queue_constants(each.router) or server_constants(each.router)) is not None:
            problem = "reads queues, but requests in flight are not counted here"
            raise InputError(field, str(each.folder), problem, "use `serve`, or a router without queues")
        if not counts and session_policy_of(each.router) is not None:
            problem = "reads conversations, but they are not recorded here"
            raise InputError(field, str(each.folder), problem, "use `serve`, or a router of prompts")
        if not counts and cascade_policy_of(each.router) is not None:
            problem = "asks several models about a request, which is not possible here"
            raise InputError(field, str(each.folder), problem, "use `serve`, or a router of prompts")
        if each.experts != tuple(experts):
            problem = f"has the experts {', '.join(each.experts)}"
            raise InputError(field, str(each.folder), problem, f"use a router of {', '.join(experts)}")


def check_cascades(live: Live, compute_weight: float | None, *, explores: bool) -> None:
    """Check that a cascade policy, which asks several models about a request, decides alone.

    Args:
        live: the routers.
        compute_weight: utility per unit of compute; None: not given.
        explores: whether choices are explored, learned or sticky.

    Raises:
        InputError: there are other routers beside it, or it has no compute weight.
    """
    cascades = [(field, each) for field, each in _named(live) if cascade_policy_of(each.router) is not None]
    if not cascades:
        return
    field, each = cascades[0]
    if len(live.routers) > 1 or explores:
        problem = "is a cascade policy, which has no probabilities of choices"
        fix = "serve it without --explore, --online, --sticky, shadow and canary"
        raise InputError(field, str(each.folder), problem, fix)
    if compute_weight is None:
        problem = "is missing: a cascade policy decides at a compute weight"
        raise InputError("serve.compute_weight", None, problem, "give one of its training, such as 0.1")


def _named(live: Live) -> list[tuple[str, LoadedRouter]]:
    named = (("router", live.router), ("canary", live.canary), ("shadow", live.shadow))
    return [(field, each) for field, each in named if each is not None]
