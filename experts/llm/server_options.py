"""The options of language model servers: engines with continuous batching, and rate-limited APIs.

Every default is published or marked as an assumption. A value is one number, or one for each expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from ..io.checked_options import CheckedOptions
from ..io.errors import InputError
from ..io.value_range import Count, Fraction, NonNegative, Positive, Width

__all__ = ["ApiOptions", "ContinuousOptions"]


@dataclass(frozen=True, kw_only=True)
class ContinuousOptions(CheckedOptions):
    """An engine with continuous batching, one for each expert. The defaults: Llama-3.1-8B on one A100.

    A step with B decoding sequences, which hold C tokens, and P tokens of a prompt takes
    `step_s + sequence_s * B + context_s * C + prefill_s * P` seconds.

    Attributes:
        step_s: seconds of every step. Source: fit to vLLM 0.8.4 (inference-sim 1a6eb35, `defaults.yaml`).
        sequence_s: seconds for each decoding sequence. Source: as `step_s`.
        prefill_s: seconds for each token of a prompt. Source: as `step_s`.
        context_s: seconds for each token that decoding sequences hold. Source: roofline of semantic-router
            3d48f8c, `src/fleet-sim`: 0.080 ms for a sequence and 1,000 tokens.
        kv_tokens: tokens that the KV cache holds. Source: 0.9 x 80 GiB less the weights, at 131,072
            bytes a token.
        max_seqs: maximum number of sequences in a step. Source: vLLM 001999d, `max_num_seqs` of an A100.
        chunk: maximum number of prompt tokens in a step. Source: as `max_seqs`, `max_num_batched_tokens`.

    Raises:
        InputError: a value is out of range.
    """

    prefix: ClassVar[str] = "problem.continuous"

    step_s: Positive | tuple[Positive, ...] = 0.016442
    sequence_s: NonNegative | tuple[NonNegative, ...] = 18.21e-6
    prefill_s: Positive | tuple[Positive, ...] = 47.84e-6
    context_s: NonNegative | tuple[NonNegative, ...] = 80e-9
    kv_tokens: Count | tuple[Count, ...] = 467_000
    max_seqs: Width | tuple[Width, ...] = 256
    chunk: Count | tuple[Count, ...] = 2_048

    def of(self, experts: int) -> dict[str, list[float]]:
        """Return the values of each expert by name, N numbers each.

        Args:
            experts: N.

        Raises:
            InputError: a list does not have length N.
        """
        return {name: _each(f"continuous.{name}", value, experts) for name, value in _values(self)}


@dataclass(frozen=True, kw_only=True)
class ApiOptions(CheckedOptions):
    """A rate-limited API, one for each expert. The default limits: Anthropic, tier 1, Sonnet.

    Attributes:
        requests_per_minute: limit on requests. Source: the table of tiers at apis.io, a secondary page.
        input_per_minute: limit on prompt tokens; 0 for none. Source: as above.
        output_per_minute: limit on answer tokens; 0 for none. Source: as above.
        burst_s: seconds of its rate that a token bucket holds. 60 is a minute's limit at once.
        first_s: seconds to the first token, without the prompt. Source: Llama-2-70B on 8 H100 (splitwise-sim
            8f99e7d, `data/perf_model.csv`): 54 ms for 512 tokens.
        prefill_s: seconds for each token of a prompt. Source: as above, 54 to 845 ms from 512 to
            8,192 tokens.
        token_s: seconds for each further token of the answer. Source: as above, 34.2 ms in a batch of 16.
        failure_rate: fraction of calls that fail. Source: BurstGPT e92f533, file 1: 1.8%.
        failure_s: seconds until a failed call returns. An assumption.
        backoff_s: seconds before the first repeat of a failed call; doubles with each. Source: LiteLLM
            1.110.2, `calculate_retry_after`, without its jitter and its maximum of 8 s.
        straggler_rate: fraction of requests that are slow. An assumption.
        straggler_slowdown: time of a slow request over its usual time. An assumption.

    Raises:
        InputError: a value is out of range.
    """

    prefix: ClassVar[str] = "problem.api"

    requests_per_minute: Positive | tuple[Positive, ...] = 50.0
    input_per_minute: NonNegative | tuple[NonNegative, ...] = 30_000.0
    output_per_minute: NonNegative | tuple[NonNegative, ...] = 8_000.0
    burst_s: Positive | tuple[Positive, ...] = 60.0
    first_s: NonNegative | tuple[NonNegative, ...] = 0.054
    prefill_s: NonNegative | tuple[NonNegative, ...] = 103e-6
    token_s: Positive | tuple[Positive, ...] = 0.0342
    failure_rate: Fraction | tuple[Fraction, ...] = 0.018
    failure_s: NonNegative | tuple[NonNegative, ...] = 1.0
    backoff_s: NonNegative | tuple[NonNegative, ...] = 0.5
    straggler_rate: Fraction | tuple[Fraction, ...] = 0.0
    straggler_slowdown: Positive | tuple[Positive, ...] = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rates = self.failure_rate if isinstance(self.failure_rate, tuple) else (self.failure_rate,)
        if max(rates) > 0.9:
            raise InputError("problem.api.failure_rate", max(rates), "leaves few answers", "use at most 0.9")

    def of(self, experts: int) -> dict[str, list[float]]:
        """Return the values of each expert by name, N numbers each.

        Args:
            experts: N.

        Raises:
            InputError: a list does not have length N.
        """
        return {name: _each(f"api.{name}", value, experts) for name, value in _values(self)}


def _values(options: ContinuousOptions | ApiOptions) -> list[tuple[str, float | Sequence[float]]]:
    return [(each.name, getattr(options, each.name)) for each in fields(options)]


def _each(name: str, value: float | Sequence[float], experts: int) -> list[float]:
    """Return the values of each expert, N numbers."""
    if isinstance(value, int | float):
        return [float(value)] * experts
    if len(value) != experts:
        fix = "give one number, or one for each expert"
        raise InputError(name, list(value), f"there are {experts} experts", fix)
    return [float(each) for each in value]
