"""The data of the cascade environment: outcomes, confidences and which experts give the same answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experts import InputError, OutcomeTable
from experts.table.answer_numbers import answer_numbers
from experts.table.follow_ups import followed_by

from .outcomes import Outcomes

__all__ = ["NO_CONFIDENCE", "CascadeTable"]

NO_CONFIDENCE = 0.5
"""The confidence of every expert in a table that has answers alone; its log-odds are 0."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class CascadeTable:
    """The answer of every expert to every query, with its confidence.

    Attributes:
        outcomes: features, quality and compute.
        confidence: [T, N] float32 in [0, 1].
        same: [T, N, N] bool, whether two experts give the same answer; None where answers are unknown.
        price: [N] float32, mean compute of each expert, which a budget is compared with.
        after: [N] int64, the expert that must be called before each, -1 for none; None if there are no
            follow-ups.
    """

    outcomes: Outcomes
    confidence: Tensor
    same: Tensor | None
    price: Tensor
    after: Tensor | None = None

    @classmethod
    def of(cls, table: OutcomeTable, scale: float, device: torch.device | str = "cpu") -> CascadeTable:
        """Move a table to a device.

        Confidence is the column of that name, or else the probability of the most probable class, or else 0.5
        where answers alone are known. Answers are the most probable classes, or else the texts of the columns
        `answer/<expert>`.

        Args:
            table: the rows.
            scale: cost of one unit of compute.
            device: where the tensors live.

        Raises:
            InputError: the table has neither confidences nor probabilities nor answers, or lacks some
                confidences, or has no features.
        """
        outcomes = Outcomes.of(table, scale, device)
        confidence = table.confidence
        if confidence is None and table.probabilities is not None:
            confidence = table.probabilities.max(axis=2)
        answers = answer_numbers(table)
        if confidence is None and answers is not None:
            confidence = np.full(table.quality.shape, NO_CONFIDENCE, dtype=np.float32)
        if confidence is None:
            problem = (
                "has neither `confidence` nor `probabilities` nor `answer/<expert>`, so a cascade has no "
                "confidence to observe"
            )
            fix = "add confidence/<expert> columns to it, or answer/<expert> columns"
            raise InputError("table", table.source, problem, fix)
        invalid = np.argwhere(~((confidence >= 0.0) & (confidence <= 1.0)))
        if len(invalid):
            row, expert = (int(place) for place in invalid[0])
            problem = f"row {row}, expert {table.experts[expert]!r} is not in [0, 1]"
            raise InputError(
                "confidence", float(confidence[row, expert]), problem, "fill it in or drop the row"
            )
        same = None
        if answers is not None:
            answer = torch.from_numpy(answers).to(device)
            same = answer.unsqueeze(-1) == answer.unsqueeze(-2)
        after = followed_by(table.experts)
        return cls(
            outcomes=outcomes,
            confidence=torch.from_numpy(np.array(confidence, dtype=np.float32)).to(device),
            same=same,
            price=outcomes.compute.mean(dim=0),
            after=torch.tensor(after, device=device) if max(after) >= 0 else None,
        )
