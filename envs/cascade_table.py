"""The data of the cascade environment: outcomes, confidences and which experts give the same answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experts import InputError, OutcomeTable

from .outcomes import Outcomes

__all__ = ["CascadeTable"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class CascadeTable:
    """The answer of every expert to every query, with its confidence.

    Attributes:
        outcomes: features, quality and compute.
        confidence: [T, N] float32 in [0, 1].
        same: [T, N, N] bool, whether two experts give the same answer; None where answers are unknown.
        price: [N] float32, mean compute of each expert, which a budget is compared with.
    """

    outcomes: Outcomes
    confidence: Tensor
    same: Tensor | None
    price: Tensor

    @classmethod
    def of(cls, table: OutcomeTable, scale: float, device: torch.device | str = "cpu") -> CascadeTable:
        """Move a table to a device.

        Confidence is the column of that name, or else the probability of the most probable class. Answers are
        the most probable classes.

        Args:
            table: the rows.
            scale: cost of one unit of compute.
            device: where the tensors live.

        Raises:
            InputError: the table has neither confidence nor probabilities, or lacks some, or has no features.
        """
        outcomes = Outcomes.of(table, scale, device)
        confidence = table.confidence
        if confidence is None and table.probabilities is not None:
            confidence = table.probabilities.max(axis=2)
        if confidence is None:
            problem = (
                "has neither `confidence` nor `probabilities`, so a cascade has no confidence to observe"
            )
            raise InputError("table", table.source, problem, "add confidence/<expert> columns to it")
        invalid = np.argwhere(~((confidence >= 0.0) & (confidence <= 1.0)))
        if len(invalid):
            row, expert = (int(place) for place in invalid[0])
            problem = f"row {row}, expert {table.experts[expert]!r} is not in [0, 1]"
            raise InputError(
                "confidence", float(confidence[row, expert]), problem, "fill it in or drop the row"
            )
        same = None
        if table.probabilities is not None:
            answer = torch.from_numpy(table.probabilities.argmax(axis=2)).to(device)
            same = answer.unsqueeze(-1) == answer.unsqueeze(-2)
        return cls(
            outcomes=outcomes,
            confidence=torch.from_numpy(np.array(confidence, dtype=np.float32)).to(device),
            same=same,
            price=outcomes.compute.mean(dim=0),
        )
