"""Every answer is asked for once, kept, scored; what is missing is said to be missing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experts import InputError, OutcomeTable
from experts.llm import collect_answers
from experts.llm.collecting import CollectOptions
from experts.table.answer_numbers import answer_numbers
from router_rl.cli.collect_command import collect, collect_view
from train_router import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def gather(models, prompts, tmp_path, **options):
    options = {"scorer": "numeric", "progress": False, **options}
    return collect_answers(models, prompts, tmp_path / "table.parquet", **options)


def test_scores_prices_and_keeps_every_answer(server, write_models, write_prompts, tmp_path):
    found = gather(write_models(options={"temperature": 0}, max_tokens=9), write_prompts(8), tmp_path)
    table = found.table
    assert table.experts == ("small", "large")
    assert table.quality.tolist() == [[1.0, 1.0]] * 5 + [[0.0, 1.0]] * 3
    # Prompts are 4 words; "I don't know" is 3. A dollar, four dollars a million.
    expected = np.array([[8e-6, 8e-6]] * 5 + [[16e-6, 8e-6]] * 3)
    np.testing.assert_allclose(table.cost, expected, rtol=1e-6)
    assert table.cost_unit == "usd"
    assert table.tokens_out is not None
    assert table.tokens_in is not None
    assert (table.tokens_in == 4).all()
    assert table.latency_s is not None
    assert table.tokens_out.tolist() == [[1.0, 1.0]] * 5 + [[3.0, 1.0]] * 3
    assert (table.latency_s > 0).all()
    assert table.group is not None
    assert table.group.tolist() == ["even", "odd"] * 4
    assert found.models["small"]["answered"] == 8
    assert found.models["small"]["quality"] == 5 / 8
    assert found.models["small"]["usd"] == pytest.approx(88e-6)
    again = OutcomeTable.read(tmp_path / "table.parquet", progress=False)
    assert again.quality.tolist() == table.quality.tolist()
    assert {body["temperature"] for body in server.requests} == {0}
    assert {body["max_tokens"] for body in server.requests} == {9}
    lines = [json.loads(line) for line in found.journal.read_text().splitlines()]
    assert len(lines) == 16
    assert all(line["record"]["response"]["choices"] for line in lines)
    assert {line["record"]["prompt"] for line in lines} == set(map(str, table.prompt))


def test_the_table_has_what_the_scorer_reads_of_each_answer(server, write_models, write_prompts, tmp_path):
    """So that a cascade can compare the answers; another scorer repeats no request."""
    plain = server.answer
    server.answer = lambda model, prompt: f"So it is {plain(model, prompt)}."
    models, prompts = write_models(), write_prompts(8)
    table = gather(models, prompts, tmp_path).table
    assert table.extra.column_names == ["answer/small", "answer/large"]
    assert table.extra["answer/small"].to_pylist() == ["1", "3", "5", "7", "9", None, None, None]
    assert table.extra["answer/large"].to_pylist() == [str(2 * i + 1) for i in range(8)]
    again = OutcomeTable.read(tmp_path / "table.parquet", progress=False)
    assert again.extra.equals(table.extra)
    same = answer_numbers(table)
    assert (same[:, 0] == same[:, 1]).tolist() == [True] * 5 + [False] * 3
    sent = len(server.requests)
    whole = gather(models, prompts, tmp_path, scorer="exact_match").table
    assert whole.extra["answer/small"][0].as_py() == "so it is 1"
    assert len(server.requests) == sent


@pytest.mark.slow
def test_what_fails_for_a_while_is_answered_in_the_end(server, write_models, write_prompts, tmp_path):
    server.retry_after = 4
    faults = {0: "429", 1: "500", 2: "cut", 3: "garbage", 4: "hang"}
    found = gather(write_models(timeout=2), write_prompts(6, faults), tmp_path, concurrency=6)
    assert len(found.table) == 6
    assert found.table.notes[1].startswith("split: made here")
    for row, prompt in enumerate(map(str, found.table.prompt)):
        assert server.attempts("large", prompt) >= (2 if row in faults else 1)
        assert server.answered["large", prompt] == 1
    # The server's Retry-After is kept; LiteLLM's own first waits are shorter.
    times = [
        body["time"]
        for body in server.requests
        if body["model"] == "large" and "429" in body["messages"][0]["content"]
    ]
    assert times[1] - times[0] >= 4.0


NO_ANSWERS = ("empty", "error", "bad_key", "text", "negative", "half", "huge", "drip")


def test_a_reply_that_is_no_answer_is_asked_for_again(server, write_models, write_prompts, tmp_path):
    count, began = len(NO_ANSWERS), time.monotonic()
    prompts = write_prompts(count, dict(enumerate(NO_ANSWERS)))
    found = gather(write_models(retries=1, timeout=6), prompts, tmp_path)
    assert time.monotonic() - began < 45  # the dripped reply alone takes over a minute
    assert found.table.query_id.tolist() == [f"q{row}" for row in range(count)]
    assert found.table.quality[:, 1].tolist() == [1.0] * count
    np.testing.assert_allclose(found.table.cost[:, 1], 9e-6, rtol=1e-6)  # of the second answer: 5 words and 1
    for prompt in map(str, found.table.prompt):
        assert server.attempts("large", prompt) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "timeout", "reasons"),
    [(NO_ANSWERS[:-1], 60, {"FaultyAnswerError": len(NO_ANSWERS) - 1}), (("drip",), 5, {"Timeout": 1})],
    ids=["faulty", "dripped"],
)
def test_a_reply_that_stays_no_answer_is_missing_with_its_reason(
    server, write_models, write_prompts, tmp_path, faults, timeout, reasons
):
    models = write_models(retries=0, timeout=timeout)
    prompts = write_prompts(len(faults) + 1, dict(enumerate(faults)))
    found = gather(models, prompts, tmp_path)
    assert found.table.query_id.tolist() == [f"q{len(faults)}"]
    assert found.models["small"]["reasons"] == reasons


def test_what_still_fails_is_missing_with_its_reason_and_never_wrong(
    server, write_models, write_prompts, tmp_path
):
    faults = {1: "400", 3: "500 500", 4: "garbage garbage"}
    models, prompts = write_models(retries=1), write_prompts(6, faults)
    found = gather(models, prompts, tmp_path, concurrency=6)
    assert found.table.query_id.tolist() == ["q0", "q2", "q5"]
    assert found.table.notes[:2] == (
        "prices: the model list",
        "missing: 3 of 6 queries left out, not answered by small (3), large (3)",
    )
    assert found.models["small"]["missing"] == 3
    assert found.models["small"]["reasons"] == {"BadRequestError": 1, "InternalServerError": 2}
    assert found.models["small"]["answered"] == 3
    assert found.models["small"]["quality"] == 2 / 3  # of what it answered
    failed = [json.loads(line) for line in found.journal.read_text().splitlines() if '"failed"' in line]
    assert len(failed) == 6
    assert all({"model", "prompt"} <= set(line) for line in failed)
    assert "made to fail with 400" in next(line["failed"] for line in failed if "400" in line["prompt"])
    written = OutcomeTable.read(tmp_path / "table.parquet", progress=False)
    assert set(found.table.notes) <= set(written.notes)
    # The next run asks for what is missing, and only for that; rows keep their split.
    before, split = len(server.requests), dict(zip(written.query_id, written.split, strict=True))
    found = gather(models, prompts, tmp_path)
    assert len(server.requests) - before == 6
    assert found.table.query_id.tolist() == [f"q{i}" for i in range(6)]
    assert not [note for note in found.table.notes if "missing" in note]
    now = dict(zip(found.table.query_id, found.table.split, strict=True))
    assert {name: now[name] for name in split} == split


def test_asks_nothing_twice(server, write_models, write_prompts, tmp_path):
    models, prompts = write_models(), write_prompts(4)
    gather(models, prompts, tmp_path)
    first = gather(models, prompts, tmp_path, scorer="exact_match").table
    assert len(server.requests) == 8
    assert first.quality.tolist() == [[1.0, 1.0]] * 4
    # A prompt more, a model more, a price more: only what is new is asked.
    gather(models, write_prompts(5), tmp_path)
    assert len(server.requests) == 10
    found = gather(write_models("small", "large", "tiny"), write_prompts(5), tmp_path)
    assert len(server.requests) == 15
    dear = gather(write_models(price={"call": 1.0}), write_prompts(5), tmp_path).table
    assert len(server.requests) == 15
    assert dear.cost.min() > found.table.cost.max()
    # Another setting is another question.
    gather(write_models(max_tokens=5), write_prompts(5), tmp_path)
    assert len(server.requests) == 25
    assert set(server.answered.values()) == {1, 2}


def test_runs_in_a_notebook(server, write_models, write_prompts, tmp_path):
    async def cell():
        return gather(write_models(), write_prompts(2), tmp_path)

    assert len(asyncio.run(cell()).table) == 2


def test_the_same_prompt_twice_is_asked_once(server, write_models, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("prompt,reference\n1 + 1,2\n1 + 1,2\n1 + 2,3\n")
    found = gather(write_models(), path, tmp_path)
    assert found.table.quality.shape == (3, 2)
    assert len(server.requests) == 4


def test_a_model_that_refuses_everybody_stops_the_run_and_keeps_the_rest(
    server, write_models, write_prompts, tmp_path
):
    models, prompts = write_models(), write_prompts(40, {3: "401"})
    server.exempt.add(
        "large"
    )  # else it would refuse in the second run, where the first ended before it was asked
    with pytest.raises(InputError, match=r"models\.small='openai/.*': refuses: AuthenticationError"):
        gather(models, prompts, tmp_path, concurrency=2)
    kept = (tmp_path / "table.parquet.journal.jsonl").read_text().count('"record"')
    assert kept == sum(server.answered.values()) <= 12
    assert not (tmp_path / "table.parquet").exists()
    assert len(gather(models, prompts, tmp_path).table) == 40
    assert set(server.answered.values()) == {1}


def test_a_model_that_never_answers_is_named(server, write_models, write_prompts, tmp_path):
    server.down.add("small")
    with pytest.raises(InputError, match=r"models='small': no query was answered by every model; .*503"):
        gather(write_models(retries=0), write_prompts(2), tmp_path)


def test_keys_go_to_the_server_they_are_for_and_into_no_file(
    server, write_models, write_prompts, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-provider")
    monkeypatch.setenv("MINE", "secret-of-mine")
    gather(write_models(), write_prompts(1), tmp_path)
    assert {body["authorization"] for body in server.requests} == {"Bearer none"}
    gather(write_models(api_key_env="MINE"), write_prompts(2), tmp_path)
    assert server.requests[-1]["authorization"] == "Bearer secret-of-mine"
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes()


@pytest.mark.slow
def test_paces_requests_and_limits_how_many_wait(server, write_models, write_prompts, tmp_path):
    server.seconds = 0.1
    gather(write_models(), write_prompts(12), tmp_path, concurrency=3)
    assert server.most_working <= 6  # three of each of two models
    server.seconds, start = 0.0, len(server.requests)
    gather(write_models(requests_per_minute=600, max_tokens=2), write_prompts(8), tmp_path)
    times = sorted(body["time"] for body in server.requests[start:])
    assert times[-1] - times[0] >= 0.1 * 7 - 0.05  # 16 requests, 8 of each model
    # 12 requests of about 8 tokens each: 90 at once, and then 1.5 a second.
    start, began = len(server.requests), time.monotonic()
    gather(write_models(tokens_per_minute=90, max_tokens=6), write_prompts(12), tmp_path)
    assert len(server.requests) - start == 24
    assert time.monotonic() - began >= 2.0


def test_a_judge_grades(server, write_models, write_prompts, tmp_path):
    judge = {"model": "openai/grader", "api_base": server.url}
    models = write_models(judge=judge)
    found = gather(models, write_prompts(3), tmp_path, scorer="judge")
    assert found.table.quality.tolist() == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    asked = len(server.requests)
    assert asked == 6 + 6 - 3  # both models say the same, so three judgements serve for six
    gather(models, write_prompts(3), tmp_path, scorer="judge")
    assert len(server.requests) == asked
    server.answer = lambda model, prompt: "no idea" if model == "grader" else "4"
    with pytest.raises(InputError, match="failed with: judge: no grade"):
        gather(write_models("x", "y", judge=judge), write_prompts(3), tmp_path, scorer="judge")
    with pytest.raises(InputError, match="scorer='judge': the model list has no judge"):
        gather(write_models(), write_prompts(3), tmp_path, scorer="judge")


def test_a_server_that_counts_no_tokens_is_not_free(server, write_models, write_prompts, tmp_path):
    server.usage = False
    found = gather(write_models(), write_prompts(2), tmp_path)
    assert (found.table.cost > 0).all()


def test_mistakes_are_found_before_anything_is_asked(server, write_models, write_prompts, tmp_path):
    models, prompts = write_models(), write_prompts(3)
    bad = tmp_path / "bad.csv"
    bad.write_text("prompt,reference,split\na,1,train\na,1,test\n")
    none = tmp_path / "none.csv"
    none.write_text("prompt,reference\na,x\n")
    wrong = [
        (models, bad, {}, "the same prompt is in split"),
        (models, none, {}, "reference='x': has no number"),
        (models, none, {"scorer": "multiple_choice"}, "reference='x': row 0 is not a correct answer"),
        (models, prompts, {"scorer": "exact"}, "scorer='exact': unknown"),
        (models, prompts, {"concurrency": 0}, "concurrency=0"),
        (models, prompts, {"limit": 0}, "limit=0"),
    ]
    for given, asked, options, message in wrong:
        with pytest.raises(InputError, match=message):
            gather(given, asked, tmp_path, **options)
    with pytest.raises(InputError, match="LiteLLM's price map"):
        gather(write_models(price=None), prompts, tmp_path)
    assert server.requests == []


def test_the_command_prints_what_each_model_answered(server, write_models, write_prompts, tmp_path):
    found = collect(
        out=tmp_path / "t.parquet",
        models=write_models(retries=0),
        prompts=write_prompts(4, {0: "500"}),
        options=CollectOptions(scorer="numeric"),
    )
    text = io.StringIO()
    Console(width=80, file=text).print(collect_view(found))
    text = text.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "small: 1 x InternalServerError" in text
    json.dumps(found, allow_nan=False)
    for wrong in ({}, {"source": "digits", "models": Path("m")}, {"models": Path("m")}):
        with pytest.raises(InputError, match=r"source|prompts"):
            collect(out=tmp_path / "t.parquet", options=CollectOptions(), **wrong)
    for options in ({"scorer": "numeric"}, {"limit": 5}, {"max_cost": 1.0}, {"workers": 2}):
        with pytest.raises(InputError, match=f"{next(iter(options))}=.*has no use with a source"):
            collect(out=tmp_path / "t.parquet", source="digits", options=CollectOptions(**options))
    with pytest.raises(InputError, match=r"prompts='p': has no use with a source"):
        collect(out=tmp_path / "t.parquet", source="digits", prompts=Path("p"), options=CollectOptions())
    both = {"models": Path("m"), "prompts": Path("p"), "batch_size": 7}
    with pytest.raises(InputError, match="batch_size=7: has no use with language models"):
        collect(out=tmp_path / "t.parquet", options=CollectOptions(), **both)


def test_the_command_says_what_a_cost_cap_left(server, write_models, write_prompts, tmp_path, capsys):
    words = [
        *("collect", "--models", str(write_models(max_tokens=5, price={"call": 0.01}))),
        *("--prompts", str(write_prompts(4)), "--scorer", "numeric", "--concurrency", "1"),
        *("--out", str(tmp_path / "t.parquet"), "--max-cost"),
    ]
    assert main([*words, "0.061"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    left = (
        "Stopped below --max-cost 0.061: US$ 0.0600 are spent, and 2 requests are left, at most US$ 0.0200."
    )
    assert left in shown
    assert main([*words, "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["spent_usd"], result["unsent"], result["queries"]) == (pytest.approx(0.08), 0, 4)
    assert len(server.requests) == 8


@pytest.mark.slow
def test_kill_9_loses_no_finished_answer_and_asks_none_twice(server, write_models, write_prompts, tmp_path):
    server.seconds = 0.05
    models, prompts = write_models(), write_prompts(60)
    process = _start(models, prompts, tmp_path, concurrency=4)
    deadline = time.monotonic() + 120
    while sum(server.answered.values()) < 40 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    journal = tmp_path / "table.parquet.journal.jsonl"
    kept = [json.loads(line)["record"] for line in journal.read_text().splitlines(keepends=True)
            if line.endswith("\n")]  # fmt: skip
    finished = {(record["model"], record["prompt"]) for record in kept}
    assert 32 <= len(finished) < 120
    before = len(server.requests)
    found = gather(models, prompts, tmp_path)
    asked = {(body["model"], body["messages"][-1]["content"]) for body in server.requests[before:]}
    assert not asked & finished
    assert len(asked) == 120 - len(finished)
    assert len(found.table) == 60
    # Only what was on its way when the process died was asked again.
    assert sum(server.answered.values()) <= 120 + 2 * 4


def _start(models, prompts, tmp_path, **options):
    code = (
        "import sys, json; from experts.llm import collect_answers; "
        "collect_answers(*sys.argv[1:4], scorer='numeric', progress=False, **json.loads(sys.argv[4]))"
    )
    arguments = [str(models), str(prompts), str(tmp_path / "table.parquet"), json.dumps(options)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT)
