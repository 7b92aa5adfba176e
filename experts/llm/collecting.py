"""Collect an outcome table from language models: request all answers, score them, write the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..io.atomic import writable_file
from ..io.checked_options import CheckedOptions
from ..io.errors import InputError, unknown_name
from ..io.progress import track
from ..io.ray_cluster import require_ray
from ..io.value_range import Count, Positive, Seed, Whole
from ..table.outcome_table import OutcomeTable
from ..table.prices import Price
from .answers import UNSENT, Answers
from .asking import Request, check_record
from .endpoints import Endpoint, Judge, check_endpoints, prices_of, read_models
from .gathering import gather
from .journal import Journal
from .judging import grade_in, judgement
from .questions import Questions, read_questions
from .scoring import JUDGED, READERS, SCORERS, Scorer, scorer_named
from .spending import Spending, check_capped, cost_of
from .verifying import collect_verdicts, sampled, verdict_columns

__all__ = ["CollectOptions", "Collected", "collect_answers"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Collected:
    """The result of a collection.

    Attributes:
        table: the queries that every model answered.
        queries: number of prompts.
        models: statistics of each model by name: `answered`, `missing`, `reasons` (type of error to count),
            `cut_off` (answers that ended at `max_tokens`), and over its answers the means `quality` and
            `latency_s` and the sums `tokens_out` and `usd`.
        journal: the file with every response.
        spent_usd: US dollars of all attempts in the journal, those of a judge included. Attempts without an
            answer count at their highest possible cost if the provider may charge for them.
        unsent: requests that did not fit under the cost cap.
        unsent_usd: their highest possible cost.
    """

    table: OutcomeTable
    queries: int
    models: dict[str, dict[str, Any]]
    journal: Path
    spent_usd: float
    unsent: int = 0
    unsent_usd: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CollectOptions(CheckedOptions):
    """How requests are sent and answers scored.

    Attributes:
        scorer: scorer of the answers: exact_match, multiple_choice, numeric, judge, or module:function.
        concurrency: concurrent requests per model.
        workers: worker processes on Ray (pip install 'router-rl[scale]'); 0: this process.
        engine: where requests are sent from: local (this process) or ray (the cluster of RAY_ADDRESS, or one
            that is started here; one worker if --workers is not given); null: ray if --workers is given.
        limit: number of prompts, from the first; null: all.
        max_cost: maximum cost of all requests of this journal in US dollars, earlier runs included; null: no
            maximum. A request is sent only if its highest possible cost fits beside those in flight.
        seed: random seed of the split, if the prompts have none, and of a source's experts.
    """

    scorer: str = "exact_match"
    concurrency: Count = 8
    workers: Whole = 0
    engine: str | None = None
    limit: Count | None = None
    max_cost: Positive | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine not in (None, "local", "ray"):
            raise unknown_name("engine", self.engine, ("local", "ray"))
        if self.engine == "local" and self.workers:
            fix = "use --engine ray, or leave --workers out"
            raise InputError("workers", self.workers, "are of Ray, and --engine is local", fix)
        if self.ray_workers:
            field, value = ("workers", self.workers) if self.engine is None else ("engine", self.engine)
            require_ray(field, value, "leave it out")

    @property
    def ray_workers(self) -> int:
        """Number of worker processes on Ray; 0: requests are sent from this process."""
        return max(1, self.workers) if self.engine == "ray" else self.workers


def collect_answers(
    models: Path | str,
    prompts: Path | str,
    out: Path | str,
    *,
    progress: bool = True,
    options: CollectOptions | None = None,
    **changes: Any,
) -> Collected:
    """Send every prompt to every model once, score the answers, and write the outcome table.

    Responses are journaled in `<out>.journal.jsonl`: an interrupted run resumes without repeating requests,
    another scorer sends no request, and a new model or prompt sends only its own. A request that fails after
    all attempts is missing, with the reason in the journal; the next run repeats it.

    A query that some model did not answer is left out of the table, and the table's notes say so, because an
    outage is not a wrong answer. Requests that do not fit under `max_cost` are not sent; the same command
    with a higher one sends them.

    Args:
        models: YAML, see `read_models`.
        prompts: Parquet, CSV or JSON Lines, see `read_questions`.
        out: the Parquet file.
        progress: show progress on stderr.
        options: how requests are sent and answers scored; the defaults if None.
        changes: fields of `CollectOptions`, in place of those of `options`.

    Returns:
        The table that was written, with statistics. Costs are US dollars, at the prices of the model list or
        else of LiteLLM's price map.

    Raises:
        InputError: an input cannot be used, a model refuses every request, or no query has all answers.
    """
    plan = replace(options or CollectOptions(), **changes)
    listed = read_models(models)
    judge = listed.judge if plan.scorer == JUDGED else None
    if plan.scorer == JUDGED and judge is None:
        raise InputError("scorer", plan.scorer, "the model list has no judge", "add judge: with model: to it")
    score = None if judge is not None else scorer_named(plan.scorer)
    questions = read_questions(prompts, plan.limit)
    models_asked = sampled(listed.endpoints)
    columns = (*models_asked, *verdict_columns(listed.endpoints, listed.verifiers))
    answers = Answers(questions, columns, prices_of(columns))
    answers.check(plan.seed)
    if plan.scorer in SCORERS:
        _check_references(plan.scorer, questions)
    graders = [*([] if judge is None else [judge]), *listed.verifiers]
    endpoints = [*models_asked, *(each.endpoint for each in graders)]
    out = writable_file("out", out)
    check_endpoints(endpoints)  # imports LiteLLM, which takes seconds
    known = _known_prices(answers.prices.prices, graders, capped=plan.max_cost is not None)
    if plan.max_cost is not None:
        check_capped(endpoints, known)
    path = out.with_name(out.name + ".journal.jsonl")
    with Journal(path, check=check_record) as journal:
        spending = Spending(
            plan.max_cost,
            known,
            spent=journal.usd + _uncounted(journal, known),
            reserve=lambda request, usd: journal.reserve(request.key, usd),
        )
        unsent: list[Request] = []

        def send(requests: Sequence[Request], doing: str) -> None:
            left = gather(
                requests,
                journal,
                concurrency=plan.concurrency,
                workers=plan.ray_workers,
                spending=spending,
                doing=doing,
                progress=progress,
            )
            unsent.extend(left)

        requests = _pairs(questions, models_asked)
        send(list(requests.values()), "requesting answers")
        _read(answers, requests, journal)
        if score is not None:
            _score(answers, requests, journal, score, progress=progress)
            _read_texts(answers, requests, journal, plan.scorer)
        if judge is not None:
            _judge(answers, requests, journal, judge, send)
        if listed.verifiers:
            collect_verdicts(answers, requests, journal, listed.verifiers, send)
    most = math.fsum(map(spending.highest, unsent))
    if unsent and not answers.complete().any():
        problem = (
            f"no query is answered by every model: US$ {spending.spent:.6g} are spent, {len(unsent)} "
            f"requests are left, at most US$ {most:.6g}"
        )
        fix = "give a higher --max-cost; answers so far are kept, and the same command resumes"
        raise InputError("max_cost", plan.max_cost, problem, fix)
    names = ", ".join(endpoint.model for endpoint in listed.endpoints)
    table = answers.table(f"{Path(prompts).name} answered by {names}, scored by {plan.scorer}", plan.seed)
    table.write(out)
    return Collected(
        table=table,
        queries=len(questions),
        models=answers.summary(),
        journal=path,
        spent_usd=spending.spent,
        unsent=len(unsent),
        unsent_usd=most,
    )


def _known_prices(prices: Mapping[str, Price], graders: Sequence[Judge], *, capped: bool) -> dict[str, Price]:
    """Return the prices of the models, verifiers and judge; the judge's is needed with a cost cap only."""
    known = dict(prices)
    for grader in graders:
        try:
            known |= prices_of([grader.endpoint]).prices
        except InputError:
            if capped:
                raise
    return known


def _uncounted(journal: Journal, prices: Mapping[str, Price]) -> float:
    """Return the cost of the answers whose lines do not say it: those of earlier releases."""
    usd = 0.0
    for key in journal.uncounted:
        record = journal.read(key)
        price = prices.get(str(record.get("model")))
        if price is not None:
            usd += cost_of(price, record["tokens_in"], record["tokens_out"])
    return usd


_Pairs = dict[tuple[int, int], Request]


def _pairs(questions: Questions, endpoints: Sequence[Endpoint]) -> _Pairs:
    """All requests by row and column; those of one prompt are adjacent, so a partial run has whole rows."""
    return {
        (row, column): Request(endpoint, prompt)
        for row, prompt in enumerate(questions.prompt)
        for column, endpoint in enumerate(endpoints)
    }


def _check_references(scorer: str, questions: Questions) -> None:
    """Check that the scorer accepts each reference as its own answer."""
    for row, (prompt, reference) in enumerate(zip(questions.prompt, questions.reference, strict=True)):
        where = f"row {row}"
        if reference is None:
            fix = "add a reference column, or use a scorer that needs none: judge or module:function"
            raise InputError("reference", None, f"{where} is missing", fix)
        if SCORERS[scorer](prompt, reference, reference) != 1.0:
            problem = f"{where} is not a correct answer by {scorer}"
            raise InputError("reference", reference, problem, "correct it, or use another scorer")


def _read(answers: Answers, requests: _Pairs, journal: Journal) -> None:
    for (row, column), request in requests.items():
        if request.key in journal:
            answers.fill(row, column, journal.read(request.key))
        else:
            answers.miss(row, column, journal.failed.get(request.key, UNSENT))


def _score(answers: Answers, requests: _Pairs, journal: Journal, score: Scorer, *, progress: bool) -> None:
    for (row, column), request in track(requests.items(), "scoring", len(requests), shown=progress):
        if request.key in journal:
            answer = journal.read(request.key)["answer"]
            answers.score(row, column, score(request.prompt, answers.questions.reference[row], answer))


def _read_texts(answers: Answers, requests: _Pairs, journal: Journal, scorer: str) -> None:
    """Store what the scorer reads of each answer; no texts for a function of the user's."""
    reader = READERS.get(scorer)
    for (row, column), request in requests.items():
        if reader is not None and request.key in journal:
            answers.read(row, column, reader(journal.read(request.key)["answer"]))


def _judge(
    answers: Answers,
    requests: _Pairs,
    journal: Journal,
    judge: Judge,
    send: Callable[[Sequence[Request], str], None],
) -> None:
    judged = {
        (row, column): judgement(
            judge, request.prompt, answers.questions.reference[row], journal.read(request.key)["answer"]
        )
        for (row, column), request in requests.items()
        if request.key in journal
    }
    send(list(judged.values()), "judging")
    for (row, column), request in judged.items():
        if request.key not in journal:
            reason = journal.failed.get(request.key)
            answers.miss(row, column, UNSENT if reason is None else f"judge: {reason}")
            continue
        grade = grade_in(journal.read(request.key)["answer"], judge.scale)
        if grade is None:
            answers.miss(row, column, "judge: no grade in the reply")
        else:
            answers.score(row, column, grade)
