"""Collect further samples of models, and verdicts on their answers: the follow-ups of cascades.

The columns are those of `experts/table/follow_ups.py`: `a#2` is another sample of the model `a`, and `a?v` is
the verdict of the verifier `v` on the first answer of `a`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from .answers import UNSENT, Answers
from .asking import Request
from .endpoints import Endpoint, Judge
from .journal import Journal
from .judging import grade_in, judgement

__all__ = ["collect_verdicts", "sampled", "verdict_columns"]


def sampled(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints, then one for each further sample; the samples of a model share its rate limits.

    Args:
        endpoints: the models of a list.
    """
    shared = [
        replace(
            each,
            requests_per_minute=_part(each.requests_per_minute, each.samples),
            tokens_per_minute=_part(each.tokens_per_minute, each.samples),
        )
        for each in endpoints
    ]
    return (*shared, *(_sample(each, number) for each in shared for number in range(2, each.samples + 1)))


def verdict_columns(endpoints: Sequence[Endpoint], verifiers: Sequence[Judge]) -> tuple[Endpoint, ...]:
    """Return the verifiers' endpoints under the names of their columns, one for each model and verifier.

    Args:
        endpoints: the models of a list.
        verifiers: of the list.
    """
    return tuple(
        replace(verifier.endpoint, name=f"{each.name}?{verifier.endpoint.name}")
        for each in endpoints
        for verifier in verifiers
    )


def collect_verdicts(
    answers: Answers,
    requests: Mapping[tuple[int, int], Request],
    journal: Journal,
    verifiers: Sequence[Judge],
    send: Callable[[Sequence[Request], str], None],
) -> None:
    """Ask every verifier about every first answer, and fill in the columns of verdicts.

    Args:
        answers: of the models, read and scored.
        requests: of the models, by row and column.
        journal: of all requests.
        verifiers: of the model list.
        send: sends requests; the second argument names them in the progress bar.
    """
    places = {endpoint.name: place for place, endpoint in enumerate(answers.endpoints)}
    wanted: dict[tuple[int, int], tuple[int, Judge, Request]] = {}
    for (row, column), request in requests.items():
        for verifier in verifiers:
            place = places.get(f"{answers.endpoints[column].name}?{verifier.endpoint.name}")
            if place is not None and request.key in journal:
                answer = journal.read(request.key)["answer"]
                asked = judgement(verifier, request.prompt, None, answer)
                wanted[row, place] = (column, verifier, asked)
    send([asked for _, _, asked in wanted.values()], "verifying")
    for (row, place), (column, verifier, asked) in wanted.items():
        if asked.key not in journal:
            answers.miss(row, place, journal.failed.get(asked.key, UNSENT))
            continue
        record = journal.read(asked.key)
        verdict = grade_in(record["answer"], verifier.scale)
        answers.fill(row, place, record)
        if verdict is None:
            answers.miss(row, place, "verifier: no verdict in the reply")
        else:
            answers.verify(row, place, column, verdict)


def _sample(endpoint: Endpoint, number: int) -> Endpoint:
    options = dict(endpoint.options)
    if isinstance(options.get("seed"), int):
        options["seed"] += number - 1
    return replace(endpoint, name=f"{endpoint.name}#{number}", options=options, samples=1)


def _part(limit: float | None, samples: int) -> float | None:
    return None if limit is None else limit / samples
