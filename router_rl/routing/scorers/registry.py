"""Scorers by the name that `router.json` gives them. A new scorer is one line here."""

from __future__ import annotations

import reprlib
from typing import Any

from ..router_error import RouterError
from ..strict_json import check_type
from .conditioned_scorer import ConditionedScorer
from .dense import ConstantScorer, LinearScorer, MLPScorer
from .guarded_knn_scorer import GuardedKNNScorer
from .hash_scorer import HashScorer
from .kernel_scorer import KernelScorer
from .knn_scorer import KNNScorer
from .lookup_scorer import LookupScorer
from .priced_scorer import PricedScorer
from .queue_scorer import QueueScorer
from .residual_scorer import ResidualScorer
from .scorer import Scorer
from .server_scorer import ServerScorer
from .tree_scorer import TreeScorer

__all__ = ["SCORERS", "scorer_from_spec"]

SCORERS: dict[str, type[Scorer]] = {
    "linear": LinearScorer,
    "mlp": MLPScorer,
    "constant": ConstantScorer,
    "conditioned": ConditionedScorer,
    "priced": PricedScorer,
    "knn": KNNScorer,
    "guarded_knn": GuardedKNNScorer,
    "kernel": KernelScorer,
    "trees": TreeScorer,
    "lookup": LookupScorer,
    "residual": ResidualScorer,
    "hash": HashScorer,
    "queue": QueueScorer,
    "servers": ServerScorer,
}


def scorer_from_spec(spec: dict[str, Any]) -> Scorer:
    """Build an untrained scorer from its JSON form.

    Args:
        spec: what `Scorer.spec` gave.

    Raises:
        RouterError: the kind is unknown or an argument does not fit it.
    """
    arguments = dict(spec)
    kind = arguments.pop("kind", None)
    if not isinstance(kind, str) or kind not in SCORERS:
        raise RouterError(f"scorer {kind!r} is unknown; known: {', '.join(sorted(SCORERS))}")
    try:
        for name, hint in SCORERS[kind].fields().items():
            if name in arguments:
                check_type(arguments[name], dict[str, Any] if name == "base" else hint, f"scorer.{name}")
    except ValueError as error:
        raise RouterError(str(error)) from error
    if "base" in arguments:  # a scorer that holds another one
        arguments["base"] = scorer_from_spec(arguments["base"])
    try:
        return SCORERS[kind].from_spec(arguments)
    except TypeError as error:
        raise RouterError(f"scorer {kind!r} does not take {reprlib.repr(arguments)}: {error}") from error
