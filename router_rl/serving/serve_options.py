"""Options of `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from experts.io.checked_options import CheckedOptions
from experts.io.errors import InputError
from experts.io.value_range import Count, NonNegative, Positive, Range

__all__ = ["ServeOptions"]


@dataclass(frozen=True, kw_only=True)
class ServeOptions(CheckedOptions):
    """How requests are served, explored and logged.

    Attributes:
        host: address to listen on; 127.0.0.1 is this machine only.
        port: port to listen on; 0 takes a free one.
        log: URL of the decision log: `sqlite:///decisions.db`, or a PostgreSQL database
            (`postgresql://user@host/name`) for several processes or machines.
        log_prompts: store prompts as text; otherwise only a keyed hash and the features.
        hash_key_env: environment variable with the key of the hashes; null: a random key of this process.
        explore: probability of a random expert; off-policy estimates from the log need it.
        explore_temperature: draw the random expert by a softmax of the router's scores / this temperature, in
            the unit of the scores, so that poor experts are drawn less; null: uniformly.
        explore_extra_usd: maximum expected extra cost of an explored request, US dollars; null: no limit.
        deadline_s: seconds until a request is late, which queue routers read; `metadata.deadline_s` of a
            request overrides it; null: 2 mean service times.
        first_deadline_s: seconds until the first token is late, which routers of APIs and engines read;
            `metadata.first_deadline_s` of a request overrides it; null: the first token has no deadline.
        sticky: bonus for the score of the model that answered the same session last (`metadata.session`), so
            that its prompt cache is used; in the unit of the router's scores; 0: sessions are not sticky.
        sticky_s: lifetime of a prompt cache after its last use, seconds.
        online: `linucb` or `thompson`: continue learning from the outcomes, starting from the router.
        online_scale: strength of the learner's exploration: width of `linucb`'s confidence bound in standard
            deviations, or a factor of `thompson`'s standard deviation.
        online_penalty: number of outcomes that the router itself counts as.
        cost_weight: utility = score - cost_weight * US dollars, for online learning and the shadow router.
        compute_weight: utility per unit of compute at which a cascade policy decides; it needs one.
        answers: how a cascade policy compares answers, as `collect --scorer` does: their last number, their
            letter, or their whole text.
        shadow: folder of a candidate router whose decisions are only logged.
        api_key_env: environment variable with the keys that clients must send, separated by commas; null:
            no key is needed.
        max_request_bytes: maximum size of a request, bytes.
        buffer: maximum number of decisions in memory while the log cannot be written.
        poll_s: seconds between two checks for promoted routers and outcomes.
    """

    prefix: ClassVar[str] = "serve"

    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8080
    log: str = "sqlite:///decisions.db"
    log_prompts: bool = False
    hash_key_env: str | None = None
    explore: Annotated[float, Range(0.0, 1.0)] = 0.0
    explore_temperature: Positive | None = None
    explore_extra_usd: NonNegative | None = None
    deadline_s: Positive | None = None
    first_deadline_s: Positive | None = None
    sticky: NonNegative = 0.0
    sticky_s: Positive = 300.0
    online: Literal["linucb", "thompson"] | None = None
    online_scale: NonNegative = 0.3
    online_penalty: Positive = 10.0
    cost_weight: NonNegative = 0.0
    compute_weight: NonNegative | None = None
    answers: Literal["exact_match", "multiple_choice", "numeric"] = "exact_match"
    shadow: Path | None = None
    api_key_env: str | None = None
    max_request_bytes: Count = 10_000_000
    buffer: Count = 10_000
    poll_s: Positive = 1.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field has another type or range, or an option of exploration without exploration.
        """
        super().__post_init__()
        fix = "add --explore 0.1"
        if self.explore_temperature is not None and not self.explore:
            problem = "has no effect without exploration"
            raise InputError("serve.explore_temperature", self.explore_temperature, problem, fix)
        if self.explore_extra_usd is not None and not self.explore and self.online is None:
            problem = "has no effect without exploration"
            raise InputError("serve.explore_extra_usd", self.explore_extra_usd, problem, fix)
