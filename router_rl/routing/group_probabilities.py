"""The group of a prompt, inferred from its n-grams: calibrated probabilities as features, in torch alone.

A router that infers the group needs the prompt only. `router_rl.problems.group_inference` fits the
classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .router_error import RouterError
from .terms import Terms

__all__ = ["InferredGroup"]


class InferredGroup:
    """Group probabilities of a prompt, and each expert's expected quality under them.

    The classifier is multinomial logistic regression on n-grams, `p = softmax((x W + b) / tau)`. The
    temperature tau calibrates the probabilities; it is fitted to out-of-fold logits (temperature scaling).

    Args:
        labels: G names.
        values: [G, N] float32, mean quality of each expert on each group; N may be 0.
        temperature: tau, above 0.
        terms: the n-grams: `analyser`, `ngram_range`, `vocabulary` and `sublinear_tf` of `Terms`.
        projection: W [V, G] float32.
        offset: b [G] float32.
        idf: [V] float32, where there is a vocabulary.

    Raises:
        RouterError: the sizes do not fit each other, or the temperature is not positive.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599,
        section 4.2.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        values: Tensor,
        temperature: float,
        terms: Mapping[str, Any],
        projection: Tensor,
        offset: Tensor,
        idf: Tensor | None = None,
    ) -> None:
        self.labels = list(labels)
        self.values = values
        self.temperature = float(temperature)
        self._terms = Terms(projection=projection, offset=offset, idf=idf, **terms)
        if values.dim() != 2 or not len(self.labels) == len(values) == self._terms.size:
            raise RouterError(
                f"{len(self.labels)} groups need as many rows of values ({len(values)}) and logits "
                f"({self._terms.size})"
            )
        if not 0.0 < self.temperature < float("inf"):
            raise RouterError(f"temperature={temperature} must be above 0")
        self.out_of_fold = values.shape[1]
        self.size = len(self.labels) + self.out_of_fold

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None) -> Tensor:
        """Columns [T, G + N] float32; `groups` is not read."""
        probability = (self._terms(prompts, None) / self.temperature).softmax(dim=-1)
        return torch.cat([probability, probability @ self.values], dim=1)

    def spec(self) -> dict[str, Any]:
        """The part without its tensors, as JSON."""
        names = ("analyser", "ngram_range", "vocabulary", "sublinear_tf")
        terms = {name: value for name, value in self._terms.spec().items() if name in names}
        return {
            "kind": "inferred_group",
            "labels": self.labels,
            "temperature": self.temperature,
            "terms": terms,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""
        return {"values": self.values, **self._terms.tensors()}
