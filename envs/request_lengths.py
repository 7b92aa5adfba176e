"""Tokens of prompts and answers: those of a trace's requests, else those of the table's queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experts import InputError, OutcomeTable

from .traces import Arrivals

__all__ = ["Lengths", "request_lengths"]


class Lengths(NamedTuple):
    """Tokens of prompts and answers.

    Attributes:
        tokens: [M, N, 2] float64, whole numbers of at least 1: of the prompt and of each expert's answer.
        by_trace: whether the M rows are requests of the trace, in order, or the table's queries.
    """

    tokens: Tensor
    by_trace: bool

    def of_requests(self, row: Tensor, position: Tensor) -> Tensor:
        """Return the tokens of requests, [B, W + 1, N, 2] float64.

        Args:
            row: [B, W + 1] int64, their queries.
            position: [B, W + 1] int64, the gaps before them in the trace.
        """
        return self.tokens[position if self.by_trace else row]

    def means(self) -> np.ndarray:
        """Return the mean tokens of the prompts and of each expert's answers, [N, 2] float64."""
        return self.tokens.mean(dim=0).cpu().numpy()


def request_lengths(table: OutcomeTable, arrivals: Arrivals) -> Lengths:
    """Return the lengths of the requests of a trace that has them, else of a table's queries.

    An expert's answer to a request of the trace has the trace's tokens times the ratio of the expert's mean
    answer to the mean over the experts, where the table has `tokens_out`.

    Args:
        table: T queries.
        arrivals: the trace.

    Raises:
        InputError: neither has tokens of prompts and answers.
    """
    if arrivals.tokens is not None:
        ratio = np.ones(len(table.experts))
        if table.tokens_out is not None and np.isfinite(table.tokens_out).all():
            means = table.tokens_out.mean(axis=0, dtype=np.float64)
            ratio = means / means.mean()
        tokens = np.repeat(arrivals.tokens[1:, None, :], len(ratio), axis=1)  # a gap ends at a request
        tokens[..., 1] *= ratio
    elif table.tokens_in is not None and table.tokens_out is not None:
        tokens = np.stack([table.tokens_in, table.tokens_out], axis=-1).astype(np.float64)
    else:
        fix = "use a trace with tokens_in and tokens_out, or a table with both"
        raise InputError("arrivals", arrivals.name, "has no token counts, nor has the table", fix)
    if not np.isfinite(tokens).all():
        row = int(np.argwhere(~np.isfinite(tokens))[0][0])
        raise InputError("tokens", "missing", f"row {row} has no token count", "fill it in, or drop the row")
    whole = torch.from_numpy(tokens.round().clip(min=1.0))
    return Lengths(whole, by_trace=arrivals.tokens is not None)
