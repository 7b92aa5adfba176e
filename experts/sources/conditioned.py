"""Images under several conditions, with a specialist for each condition and generalists for all.

Every expert is pretrained on the same number of images: a specialist on all of them under its condition, a
generalist on an equal share under each condition. A specialist is therefore better under its condition than a
larger generalist, which makes routing useful. No pretraining image is a query.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..io.cache import cache_folder
from ..io.progress import track
from ..pool.expert_pool import Expert, ExpertPool
from ..table.splitting import split_by_key
from ..training.specialists import Recipe, train_classifier
from .conditions import conditions
from .source import Queries

__all__ = ["ConditionedImages", "ExpertPlan", "Images"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Images:
    """Base images, divided into disjoint sets for pretraining and for queries.

    Args:
        pretraining: [P, H, W] float32 in [0, 1].
        pretraining_labels: [P] int64.
        queries: [Q, H, W] float32 in [0, 1].
        query_labels: [Q] int64.
        base: [Q] int64, the index of each query's image in the source.
    """

    pretraining: torch.Tensor
    pretraining_labels: torch.Tensor
    queries: torch.Tensor
    query_labels: torch.Tensor
    base: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertPlan:
    """The architecture and training of one expert.

    Args:
        name: of the expert.
        widths: layer widths, the argument of the source's `build`.
        conditions: of its pretraining images, in equal shares.
        recipe: training hyperparameters.
    """

    name: str
    widths: tuple[int, ...]
    conditions: tuple[str, ...]
    recipe: Recipe


class ConditionedImages(ABC):
    """Base class of image sources; a subclass provides the data, the experts and the router's features."""

    name: str
    version: int  # increase it when queries or experts change
    plans: tuple[ExpertPlan, ...]
    noise: float
    patch: int

    @abstractmethod
    def describe(self) -> str:
        """Return one sentence that says what the outcomes are of."""

    @abstractmethod
    def images(self, seed: int) -> Images:
        """Return the base images; the seed determines the division."""

    @abstractmethod
    def build(self, widths: tuple[int, ...]) -> nn.Module:
        """Return an untrained classifier, initialised from torch's global generator.

        Args:
            widths: layer widths, as in `ExpertPlan`.
        """

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the router's features.

        Args:
            images: [T, H, W] float32, under their conditions.

        Returns:
            [T, D] float32.
        """

    def data_digest(self) -> str:
        """Return a digest of data that is not part of an installed package."""
        return ""

    def digest(self, seed: int) -> str:
        """Return a cache key of this source's data, configuration and seed."""
        identity = (self.name, self.version, self.plans, self.noise, self.patch, self.data_digest(), seed)
        return hashlib.sha256(repr(identity).encode()).hexdigest()[:16]

    def queries(self, seed: int) -> Queries:
        """Return every query image under every condition, split by image."""
        images = self.images(seed)
        by_name = conditions(noise=self.noise, patch=self.patch)
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.cat([apply(images.queries, generator) for apply in by_name.values()])
        base = images.base.repeat(len(by_name)).numpy()
        group = np.repeat(np.array(list(by_name), dtype=object), len(images.queries))
        return Queries(
            query_id=np.array([f"{b}/{g}" for b, g in zip(base, group, strict=True)], dtype=object),
            inputs=inputs,
            features=self.features(inputs).numpy(),
            label=images.query_labels.repeat(len(by_name)).numpy(),
            split=split_by_key(map(str, base), seed),
            group=group,
            base=base,
        )

    def pool(self, seed: int, *, progress: bool = True) -> ExpertPool:
        """Return the frozen experts, which are pretrained on the first call and loaded on later ones."""
        images = self.images(seed)
        modules: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for place, plan in enumerate(self.plans):
                torch.default_generator.manual_seed(1000 * seed + place)
                modules.append(self.build(plan.widths))
        weights = cache_folder(self.name) / f"pool-{self.digest(seed)}.safetensors"
        if not weights.exists():
            work = list(enumerate(zip(self.plans, modules, strict=True)))
            for place, (plan, module) in track(work, "pretraining experts", len(work), shown=progress):
                draw = _drawing(images.pretraining, plan.conditions, noise=self.noise, patch=self.patch)
                labels = images.pretraining_labels
                train_classifier(module, draw, labels, plan.recipe, seed=1000 * seed + place)
            # Costs are measured after loading; the file does not hold them.
            untimed = [
                Expert(plan.name, module, 0.0) for plan, module in zip(self.plans, modules, strict=True)
            ]
            ExpertPool(untimed).save(weights)
        example = images.queries[:1]
        pairs = zip(self.plans, modules, strict=True)
        pool = ExpertPool([Expert.measured(plan.name, module.eval(), example) for plan, module in pairs])
        pool.load(weights)
        return pool


def _drawing(
    images: torch.Tensor, names: tuple[str, ...], *, noise: float, patch: int
) -> Callable[[torch.Generator], torch.Tensor]:
    """Return a function that makes one epoch: image i under condition i mod len(names), with new noise."""
    by_name = conditions(noise=noise, patch=patch)

    def draw(generator: torch.Generator) -> torch.Tensor:
        drawn = images.clone()
        for place, name in enumerate(names):
            drawn[place :: len(names)] = by_name[name](images[place :: len(names)], generator)
        return drawn

    return draw
