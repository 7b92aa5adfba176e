"""Routing inside a mixture as `--env token_moe` poses it: frozen experts, text, and where all start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experts import InputError
from experts.moe.donor_pool import TextSizes, donor_pool
from experts.moe.tiny import tiny_pool
from experts.moe.token_pool import TokenPool

from ...methods.token_moe.handover import foldable
from ...methods.token_moe.token_ridge import RidgeHyperparameters, fit_ridge
from ...methods.token_moe.token_training import Training
from ...routing import Hard, Selection, TopK
from ..problem import Case
from .layer_routers import LayerRouters
from .token_measurement import Choose, measure

__all__ = ["DEFAULTS", "LayerPolicy", "MixtureProblem", "cases_of", "prepare", "rule_of"]

DEFAULTS: Mapping[str, Any] = {
    "base": None,
    "experts": (),
    "texts": None,
    "keep": None,
    "experts_per_token": (1,),
    "length": 128,
    "train": 192,
    "validation": 48,
    "test": 96,
    "mixed": 0.25,
    "passes": 4,
    "batch": 8,
}
_TINY_DOMAINS = 6
_RIDGES = [
    RidgeHyperparameters(penalty=penalty, window=window) for penalty in (1e-2, 1e-1) for window in (4, 16)
]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPolicy:
    """How every token is routed: by a walk through the layers, or along paths whose losses are known.

    Attributes:
        choose: layer and gate inputs to experts and weights.
        known: split to the loss of every token [S, T], where no walk is needed.
        routers: linear routers without bias, where there are any to keep.
    """

    choose: Choose | None = None
    known: Callable[[str], np.ndarray] | None = None
    routers: LayerRouters | None = None


@dataclass(frozen=True, kw_only=True)
class MixtureProblem:
    """What every method is given.

    Attributes:
        pool: the frozen experts and the text.
        texts: names of the texts.
        counts: experts a token runs, a case each.
        training: settings of the loop.
    """

    pool: TokenPool
    texts: tuple[str, ...]
    counts: tuple[int, ...]
    training: Training

    @cached_property
    def start(self) -> LayerRouters:
        """The warm start of all: closed form, chosen on validation, imitated by routers that a stock gate can
        hold, which have no bias."""

        def loss(routers: LayerRouters) -> float:
            return float(measure(self.pool.tail, self.pool.parts["validation"], routers.choose).loss.mean())

        found = [fit_ridge(self.pool.tail, self.pool.parts["train"], each) for each in _RIDGES]
        return foldable(self.pool, min(found, key=loss))[0]


def prepare(table: str | None, options: Mapping[str, Any]) -> MixtureProblem:
    """Open the experts and measure the text.

    Args:
        table: None: outcomes come of running the experts.
        options: `base`, `experts` and `texts`, as `donor_pool` takes them; all left out: the packaged tiny
            pool, with as many sequences in every part as in training. `keep`, a folder for what is measured.
            `experts_per_token`, one number or several. `length`, `train`, `validation`, `test`, `mixed`: how
            much text. `passes`, `batch`: of training.

    Raises:
        InputError: an option is missing or out of range, or models and texts do not fit.
    """
    if table is not None:
        fix = "leave it out, and give --options.base, --options.experts and --options.texts"
        raise InputError("table", table, "a mixture is routed over text, not over a table", fix)
    given = {name: options[name] for name in ("base", "experts", "texts")}
    missing = [name for name, value in given.items() if not value]
    if missing and len(missing) < len(given):
        name = missing[0]
        raise InputError(
            f"options.{name}", given[name], "is missing", "give base, experts and texts, or none"
        )
    names = ("length", "train", "validation", "test", "mixed")
    sizes = TextSizes(**{name: options[name] for name in names})
    training = Training(passes=int(options["passes"]), batch=int(options["batch"]), checks=2)
    if missing:
        pool = tiny_pool(*sizes.of("train", _TINY_DOMAINS), sizes.length)
        texts = pool.domains
    else:
        folders = given["experts"].split(",") if isinstance(given["experts"], str) else given["experts"]
        keep = None if options["keep"] is None else Path(options["keep"])
        pool, texts = donor_pool(given["base"], folders, given["texts"], sizes, keep=keep)
    counts = options["experts_per_token"]
    counts = (counts,) if isinstance(counts, int) else tuple(counts)
    for count in counts:
        if count not in (1, 2) or count > pool.tail.experts:
            problem = f"{pool.tail.experts} experts can be run 1 or 2 at a time"
            raise InputError("options.experts_per_token", count, problem, "use 1, 2 or [1, 2]")
    return MixtureProblem(pool=pool, texts=texts, counts=counts, training=training)


def rule_of(count: int) -> Selection:
    """One expert alone, or the two likeliest in proportion to their probabilities."""
    return Hard() if count == 1 else TopK(k=count)


def cases_of(problem: MixtureProblem) -> list[Case]:
    """A case for each number of experts a token runs."""
    one = {1: "one expert a token", 2: "two experts a token"}
    return [Case(label=one[count], values={"experts_per_token": count}) for count in problem.counts]
