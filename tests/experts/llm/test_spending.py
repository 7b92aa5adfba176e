"""What a cost cap admits, and what it counts."""

from __future__ import annotations

import asyncio
import json

import pytest

from experts import InputError, OutcomeTable
from experts.llm import Endpoint, Journal, collect_answers
from experts.llm.asking import Reply, Request
from experts.llm.attempts import attempted, wait_before
from experts.llm.spending import Spending, check_capped, cost_of, highest_cost
from experts.table.prices import Price

PRICE = Price(input=1.0, output=4.0, call=0.5)
MODEL = Endpoint(name="m", model="openai/m", max_tokens=1000)


def gather(models, prompts, tmp_path, **options):
    options = {"scorer": "numeric", "progress": False, "concurrency": 3, **options}
    return collect_answers(models, prompts, tmp_path / "table.parquet", **options)


def test_the_highest_cost_is_that_of_the_longest_answer():
    assert cost_of(PRICE, 1e6, 5e5) == 0.5 + 1.0 + 2.0
    # 3 bytes and 100 tokens of a template, and 1000 tokens of the answer
    assert highest_cost(Request(MODEL, "aü"), PRICE) == pytest.approx(0.5 + 103e-6 + 4e-3)
    several = Endpoint(name="m", model="x", options={"n": 3, "max_completion_tokens": 10})
    assert highest_cost(Request(several, ""), PRICE) == pytest.approx(0.5 + 100e-6 + 120e-6)
    check_capped([MODEL, several], {"m": PRICE})
    check_capped([Endpoint(name="m", model="x")], {"m": Price(input=1.0)})
    with pytest.raises(InputError, match=r"models.m.max_tokens=None: is needed with a cost cap"):
        check_capped([Endpoint(name="m", model="x")], {"m": PRICE})


def test_attempts_wait_for_room_and_stop_when_there_is_none():
    request, price = Request(MODEL, "x"), Price(call=1.0)
    spending = Spending(3.0, {"m": price}, spent=0.5)
    answer = Reply({"tokens_in": 1, "tokens_out": 1})

    async def scenario():
        assert await spending.admit(request)
        assert await spending.admit(request)
        third = asyncio.create_task(spending.admit(request))
        await asyncio.sleep(0)
        assert not third.done()  # 2.5 are spent or in flight, and it may cost 1
        assert spending.settle(request, Reply(None, "429")) == 0.0
        assert await third
        assert spending.settle(request, Reply(None, "Timeout", charged=True)) == 1.0
        waiting = [asyncio.create_task(spending.admit(request)) for _ in range(2)]
        assert spending.settle(request, answer) == 1.0
        assert await asyncio.gather(*waiting) == [False, False]

    asyncio.run(scenario())
    assert (spending.spent, spending.stopped) == (2.5, True)
    assert Spending(1.0, {}).highest(request) == 0.0


def test_a_request_costs_all_its_attempts():
    replies = [
        Reply(None, "cut", again=True, charged=True, wait_s=1e-9),
        Reply({"tokens_in": 0, "tokens_out": 0}),
    ]
    spending = Spending(None, {"m": Price(call=0.25, input=1e4)})

    async def ask(request):
        return replies.pop(0)

    reply, usd = asyncio.run(attempted(Request(MODEL, ""), ask, spending))
    assert reply.record is not None
    assert usd == pytest.approx(0.25 + 1.0 + 0.25)  # 100 tokens of a template, and the answer
    assert spending.spent == usd


def test_the_servers_wait_is_kept_if_it_is_short():
    assert 7.0 <= wait_before(0, 7.0) <= 7.75
    for asked in (None, -1.0, 0.0, 1e9, float("nan")):
        assert 0.5 <= wait_before(0, asked) <= 1.25
        assert 8.0 <= wait_before(30, asked) <= 8.75


def test_a_cap_is_kept_and_a_higher_one_goes_on(server, write_models, write_prompts, tmp_path):
    models = write_models(max_tokens=10, price={"call": 0.01})
    prompts = write_prompts(12)
    found = gather(models, prompts, tmp_path, max_cost=0.155)
    assert len(server.requests) == 15
    assert found.spent_usd == pytest.approx(0.15)
    assert (found.unsent, found.unsent_usd) == (9, pytest.approx(0.09))
    answered = set(map(str, found.table.query_id))
    assert 0 < len(answered) < 12
    assert sum(about["reasons"].get("not sent", 0) for about in found.models.values()) == 9
    assert any(note.startswith("missing: ") for note in OutcomeTable.read(tmp_path / "table.parquet").notes)
    found = gather(models, prompts, tmp_path, max_cost=0.2)
    assert len(server.requests) == 20
    assert found.unsent == 4
    found = gather(models, prompts, tmp_path, max_cost=0.3)
    assert (found.unsent, len(found.table)) == (0, 12)
    assert found.spent_usd == pytest.approx(0.24)
    assert set(server.answered.values()) == {1}
    # All answers are there, so a low cap is no obstacle.
    assert len(gather(models, prompts, tmp_path, max_cost=0.01).table) == 12


def test_requests_in_flight_count_at_their_highest_cost(server, write_models, write_prompts, tmp_path):
    server.seconds = 0.05
    models = write_models(max_tokens=1000, price={"output": 1000.0})  # 1 dollar at most, 0.001 a word
    found = gather(models, write_prompts(8), tmp_path, max_cost=2.5, concurrency=8)
    assert server.most_working == 2
    assert len(found.table) == 8
    assert found.spent_usd < 0.05


def test_a_cap_below_one_request_asks_nothing(server, write_models, write_prompts, tmp_path):
    models, prompts = write_models(max_tokens=10, price={"call": 0.01}), write_prompts(2)
    with pytest.raises(
        InputError, match=r"max_cost=0.009: no query .* 4 requests are left, at most US\$ 0.04; give a"
    ):
        gather(models, prompts, tmp_path, max_cost=0.009)
    assert server.requests == []
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"max_cost=.*: is"):
            gather(models, prompts, tmp_path, max_cost=wrong)
    with pytest.raises(InputError, match=r"models.small.max_tokens=None: is needed"):
        gather(write_models(), prompts, tmp_path, max_cost=1.0)
    judge = {"model": "openai/unknown-grader", "api_base": server.url, "max_tokens": 5}
    capped = write_models(max_tokens=5, judge=judge)
    with pytest.raises(InputError, match=r"models.judge.price=None"):
        gather(capped, prompts, tmp_path, max_cost=1.0, scorer="judge")
    assert server.requests == []


def test_a_judge_is_paid_from_the_same_cap(server, write_models, write_prompts, tmp_path):
    judge = {"model": "openai/grader", "api_base": server.url, "price": {"call": 0.01}}
    models, prompts = write_models(price={"call": 0.01}, judge=judge), write_prompts(4)
    with pytest.raises(InputError, match=r"max_cost=0.08: .*US\$ 0.08 are spent, 4 requests are left"):
        gather(
            models, prompts, tmp_path, max_cost=0.08, scorer="judge"
        )  # two answers are equal: 4 judgements
    found = gather(models, prompts, tmp_path, max_cost=0.12, scorer="judge")
    assert found.spent_usd == pytest.approx(0.12)
    assert len(found.table) == 4


def test_attempts_without_an_answer_count(server, write_models, write_prompts, tmp_path):
    models = write_models(max_tokens=10, price={"call": 0.01}, retries=1)
    found = gather(models, write_prompts(3, {0: "empty", 1: "500"}), tmp_path, max_cost=1.0)
    assert found.spent_usd == pytest.approx(0.01 * (3 * 2 + 2))  # providers do not charge for a 500


def test_what_a_kill_left_in_flight_stays_counted(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.reserve("a", 0.5)
        journal.reserve("b", 0.25)
        journal.append("b", {"n": 1}, 0.125)
        journal.fail("c", "Timeout", {}, 0.25)
        journal.append("old", {"n": 1})
        assert journal.usd == 0.375
    for _ in range(2):
        with Journal(path) as journal:
            assert journal.usd == 0.875
            assert journal.uncounted == {"old"}
    with Journal(path) as journal:
        journal.reserve("a", 0.5)
        journal.append("a", {"n": 2}, 0.125)
        assert journal.usd == 1.0
    with Journal(path) as journal:
        assert journal.usd == 1.0
        assert len(journal) == 3


def test_answers_of_earlier_journals_are_priced_by_their_tokens(
    server, write_models, write_prompts, tmp_path
):
    models, prompts = write_models(max_tokens=10), write_prompts(3)
    before = gather(models, prompts, tmp_path).spent_usd
    journal = tmp_path / "table.parquet.journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert all(line.pop("usd") > 0 for line in lines)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gather(models, prompts, tmp_path).spent_usd == pytest.approx(before)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"record": {"answer": "x"}}, "it has no finish_reason"),
        ({"record": None}, "neither an object"),
        ({"record": []}, "neither an object"),
        ({"tokens_in": -1}, "tokens_in is -1, out of range"),
        ({"tokens_in": "4"}, "tokens_in is '4'"),
        ({"tokens_out": True}, "tokens_out is True"),
        ({"tokens_out": 10**30}, "tokens_out is 10+, out of range"),
        ({"latency_s": float("nan")}, "latency_s is nan, out of range"),
        ({"answer": 5}, "answer is 5"),
        ({"usd": -1}, "usd is -1, not US dollars"),
        ({"usd": 10**400}, "usd is 10+, not US dollars"),
        ({"usd": "1"}, "usd is '1', not US dollars"),
        ({"key": 5}, "not an object with a key"),
    ],
)
def test_an_edited_journal_is_refused(server, write_models, write_prompts, tmp_path, change, problem):
    models, prompts = write_models(), write_prompts(2)
    gather(models, prompts, tmp_path)
    journal = tmp_path / "table.parquet.journal.jsonl"
    first, *others = journal.read_text().splitlines()
    line = json.loads(first)
    for name, value in change.items():
        (line["record"] if name in line["record"] else line)[name] = value
    text = "\n".join([json.dumps(line), *others]) + "\n"
    journal.write_text(text)
    with pytest.raises(InputError, match=rf"journal=.*: line 1 is not a record \(.*{problem}"):
        gather(models, prompts, tmp_path)
    assert journal.read_text() == text
