"""Each format, as its project writes it: the outcomes that are read, and that the format is recognised."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experts import InputError
from experts.readers import FORMATS, Outcome, ReaderOptions, find_format, result_files

Read = Callable[..., list[Outcome]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that writes files, finds their format and reads them."""

    def write_and_read(
        files: dict[str, str | list[Any]], format: str, metric: str | None = None
    ) -> list[Outcome]:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(row) + "\n" for row in content)
            path.write_text(content if isinstance(content, str) else lines, encoding="utf-8")
        found = result_files(tmp_path)
        assert find_format("auto", found) == format
        return list(FORMATS[format].read(found, ReaderOptions(metric=metric)))

    return write_and_read


def _told(outcomes: list[Outcome], *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(outcome, field) for field in fields) for outcome in outcomes]


def test_wide(read: Read) -> None:
    text = (
        "query_id,prompt,split,fold,quality/a,quality/b,cost/a,cost/b,tokens_in/a\n"
        "q1,hello,Train,3,1,0.5,1e-3,2,7\n"
        "q2,there,dev,,,0,,1,\n"
    )
    found = read({"t.csv": text}, "wide")
    assert _told(found, "query", "expert", "quality", "cost", "tokens_in", "split", "fold") == [
        ("q1", "a", 1.0, 1e-3, 7.0, "train", 3),
        ("q1", "b", 0.5, 2.0, None, "train", 3),
        ("q2", "a", None, None, None, "validation", None),
        ("q2", "b", 0.0, 1.0, None, "validation", None),
    ]


def test_wide_counts_tokens_by_a_shared_tokenizer_where_an_expert_has_no_count(read: Read) -> None:
    row = {"quality/a": 1, "quality/b": 0, "tokens_in/cl100k": 9, "tokens_in/b": 7, "features": [0.5, 1.0]}
    found = read({"t.jsonl": [row, {**row, "tokens_in/b": None}]}, "wide")
    assert _told(found, "expert", "tokens_in") == [("a", 9.0), ("b", 7.0), ("a", 9.0), ("b", 9.0)]
    assert found[0].features is not None
    assert found[0].features.tolist() == [0.5, 1.0]


def test_wide_without_ids_counts_the_rows(read: Read) -> None:
    found = read({"t.jsonl": [{"quality/a": 1}, {"quality/a": 0}]}, "wide")
    assert _told(found, "query") == [("t.jsonl:0",), ("t.jsonl:1",)]


def test_long_under_other_names(read: Read) -> None:
    rows = [
        {"question": "1+1", "model": "a", "correct": True, "cost_usd": 0.1, "prompt_tokens": 3},
        {"question": "1+1", "model": "b", "correct": "False", "latency": 2.5},
        {"question": "1+1", "model": "b", "correct": None, "task": "other"},
    ]
    found = read({"t.jsonl": rows}, "long")
    assert _told(found, "expert", "quality", "cost", "tokens_in", "latency_s") == [
        ("a", 1.0, 0.1, 3.0, None),
        ("b", 0.0, None, None, 2.5),
        ("b", None, None, None, None),
    ]
    assert found[0].query == found[1].query != found[2].query


def test_routellm_responses(read: Read) -> None:
    files: dict[str, str | list[Any]] = {
        "mmlu_anatomy.csv": 'prompt,weak-7b,gpt-4\n"Which?\nA. x\nAnswer:",True,False\n',
        "gsm8k_responses.csv": "prompt,weak-7b,gpt-4,weak-7b_response,gpt-4_response\n"
        "How many?,False,True,12345678,1234\n",
    }
    found = read(files, "routellm")
    assert _told(found, "query", "group", "expert", "quality", "tokens_in", "tokens_out") == [
        ("gsm8k_responses:0", "gsm8k", "weak-7b", 0.0, 2.25, 2.0),
        ("gsm8k_responses:0", "gsm8k", "gpt-4", 1.0, 2.25, 1.0),
        ("mmlu_anatomy:0", "anatomy", "weak-7b", 1.0, 4.75, 1.0),
        ("mmlu_anatomy:0", "anatomy", "gpt-4", 0.0, 4.75, 1.0),
    ]
    assert found[2].prompt == "Which?\nA. x\nAnswer:"


def test_routellm_judgements(read: Read) -> None:
    files: dict[str, str | list[Any]] = {
        "judgements.jsonl": [
            {"question_id": 81, "model": "gpt-4", "score": 9, "turn": 2, "judge": ["gpt-4", "x"]},
            {"question_id": 81, "model": "gpt-4", "score": -1, "turn": 1},
        ],
        "question.jsonl": [{"question_id": 81, "category": "writing", "turns": ["Compose.", "Rewrite."]}],
    }
    found = read(files, "routellm")
    assert _told(found, "query", "group", "quality", "prompt") == [
        ("81/2", "writing", 0.9, "Compose.\n\nRewrite."),
        ("81/1", "writing", None, "Compose."),
    ]


def test_routerbench_wide(read: Read) -> None:
    row = {
        "sample_id": "mmlu.1",
        "prompt": "['Which one?']",
        "eval_name": "mmlu-law",
        "a/7b": 1.0,
        "gpt-4": 0.25,
        "a/7b|model_response": "['B']",
        "gpt-4|model_response": "['C']",
        "a/7b|total_cost": 1e-5,
        "gpt-4|total_cost": 2e-3,
        "oracle_model_to_route_to": "a/7b",
    }
    found = read({"r.jsonl": [row]}, "routerbench")
    assert _told(found, "query", "expert", "quality", "cost", "prompt", "group") == [
        ("mmlu-law/mmlu.1", "a/7b", 1.0, 1e-5, "Which one?", "mmlu-law"),
        ("mmlu-law/mmlu.1", "gpt-4", 0.25, 2e-3, "Which one?", "mmlu-law"),
    ]


def test_routerbench_long(read: Read) -> None:
    row = {"sample_id": 1, "prompt": "p", "eval_name": "e", "performance": 1, "cost": 0.5}
    found = read({"r.jsonl": [{**row, "model_name": "a"}, {**row, "model_name": "b"}]}, "routerbench")
    assert _told(found, "query", "expert", "quality", "cost") == [("e/1", "a", 1, 0.5), ("e/1", "b", 1, 0.5)]
    asked = read({"r.jsonl": [{**row, "model_name": "a", "prompt": ["Which", "one?"]}]}, "routerbench")
    assert asked[0].prompt == "Which\none?"


def test_llmrouter_scores_and_logs(read: Read) -> None:
    scores = json.dumps([{"question": "Q: who?", "scores": {"a": 1.0, "b": 0.0}, "cluster_id": 3}])
    log = {
        "task_name": "nq",
        "query": "when?",
        "model_name": "a",
        "performance": 0.5,
        "input_tokens": 12,
        "output_tokens": 3,
        "response_time": 0.7,
    }
    found = read({"test.json": scores, "train.jsonl": [log]}, "llmrouter")
    assert _told(found, "expert", "quality", "split", "group", "tokens_in", "tokens_out", "latency_s") == [
        ("a", 1.0, "test", None, 1.75, 1.0, None),
        ("b", 0.0, "test", None, 1.75, 1.0, None),
        ("a", 0.5, "train", "nq", 12.0, 3.0, 0.7),
    ]
    assert found[0].prompt == "Q: who?"


def _sample(doc_id: int, **values: Any) -> dict[str, Any]:
    return {
        "doc_id": doc_id,
        "doc": {"question": f"Q{doc_id}?", "answer": "x"},
        "arguments": {"gen_args_0": {"arg_0": "shots Q?", "arg_1": {}}},
        "resps": [["four score"]],
        "filtered_resps": ["x"],
        "filter": "none",
        "metrics": ["acc"],
        "acc": 1.0,
        **values,
    }


def test_lm_eval(read: Read) -> None:
    older = _sample(0, acc=0.0)
    flexible = _sample(0, filter="flexible-extract", acc=0.0)
    chosen = _sample(1, arguments=[["ctx ", " A"], ["ctx ", " B"]], resps=[[[-1.5, False]]], doc={"n": 1})
    files: dict[str, str | list[Any]] = {
        "org__m-1b/samples_gsm8k_2024-01-01T00-00-00.000000.jsonl": [older],
        "org__m-1b/samples_gsm8k_2024-06-01T00-00-00.000000.jsonl": [_sample(0), flexible, chosen],
        "org__m-1b/results_2024-06-01T00-00-00.000000.json": "{}",
        "other/samples_gsm8k_2024-01-01T00-00-00.000000.jsonl": [_sample(0, acc=0.0)],
    }
    found = read(files, "lm-eval")
    assert _told(found, "query", "expert", "quality", "prompt", "group", "tokens_in", "tokens_out") == [
        ("gsm8k/0", "org/m-1b", 1.0, "Q0?", "gsm8k", 2.0, 2.5),
        ("gsm8k/1", "org/m-1b", 1.0, "ctx ", "gsm8k", 1.0, 1.0),
        ("gsm8k/0", "other", 0.0, "Q0?", "gsm8k", 2.0, 2.5),
    ]


def test_lm_eval_takes_the_metric_asked_for(read: Read) -> None:
    name = "m/samples_t_2024-01-01T00-00-00.000000.jsonl"
    found = read({name: [_sample(0, acc_norm=0.0)]}, "lm-eval", metric="acc_norm")
    assert found[0].quality == 0.0
    with pytest.raises(InputError, match=r"metric='bleu'.*--metric; the row has acc"):
        read({}, "lm-eval", metric="bleu")


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("wide", {"quality/a": 1}),
        ("long", {"query_id": "q", "model": "a", "score": 1}),
        ("routellm", {"prompt": "p", "a": True}),
        ("routerbench", {"sample_id": "s", "eval_name": "e", "a": 1, "a|total_cost": 1}),
        ("llmrouter", {"query": "q", "model_name": "a", "performance": 1}),
        ("lm-eval", {"doc_id": 0, "acc": 1, "resps": [["x"]]}),
    ],
)
def test_rows_are_read_as_they_are_asked_for(tmp_path: Path, format: str, row: dict[str, Any]) -> None:
    path = tmp_path / "a" / "samples_t.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(row) + "\nbroken\n")
    outcomes = iter(FORMATS[format].read([path], ReaderOptions()))
    assert next(outcomes).expert == "a"
    with pytest.raises(InputError, match="line 2 is not JSON"):
        next(outcomes)


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("wide", '{"prompt": "x"}', "quality=None"),
        ("long", '{"prompt": "x", "score": 1}', "has no expert"),
        ("long", '{"model": "x", "score": 1}', "neither an id nor a prompt"),
        ("long", '{"model": "x", "prompt": "p", "score": "good"}', "score='good'.*row 0: is not a number"),
        ("routellm", '{"prompt": "x", "a": 3}', "columns of True and False"),
        ("routerbench", '{"prompt": "x", "a": 3}', "no <model>.total_cost"),
        ("llmrouter", '{"prompt": "x", "a": 3}', "neither `model_name` nor `scores`"),
    ],
)
def test_a_row_of_another_format_is_named(tmp_path: Path, format: str, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=message):
        list(FORMATS[format].read([path], ReaderOptions()))


def test_unknown_formats(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n')
    with pytest.raises(
        InputError, match=r"no known format; its columns begin 'x'; name them quality/<expert>"
    ):
        find_format("auto", [path])
    with pytest.raises(InputError, match=r"did you mean 'routellm'"):
        find_format("routelm", [path])
    path.write_text("")
    with pytest.raises(InputError, match="has no rows"):
        find_format("auto", [path])


JUDGEMENT = {"question_id": 81, "model": "gpt-4", "score": 9, "turn": 2}
QUESTION = {"question_id": 81, "category": "writing", "turns": ["Compose.", "Rewrite."]}


@pytest.mark.parametrize(
    ("judgement", "question", "message"),
    [
        ({"turn": "x"}, {}, r"turn='x': .*row 0: is not a number"),
        ({"turn": None}, {}, r"turn=None: .*row 0: is no turn of a judgement"),
        ({"turn": 0}, {}, r"turn=0: .*row 0: is no turn of a judgement"),
        ({"model": ""}, {}, r"model='': .*row 0: is no model of a judgement"),
        ({"question_id": None}, {}, r"question_id=None: .*is no question_id of a judgement"),
        ({}, {"turns": 5}, r"turns=5: the questions beside .*'81' has no list of texts"),
        ({}, {"turns": [None, "x"]}, r"turns=\[None, 'x'\]: .*has no list of texts"),
    ],
)
def test_wrong_judgements_are_named(
    tmp_path: Path, judgement: dict[str, Any], question: dict[str, Any], message: str
) -> None:
    (tmp_path / "judgements.jsonl").write_text(json.dumps({**JUDGEMENT, **judgement}) + "\n")
    (tmp_path / "question.jsonl").write_text(json.dumps({**QUESTION, **question}) + "\n")
    with pytest.raises(InputError, match=message):
        list(FORMATS["routellm"].read(result_files(tmp_path), ReaderOptions()))


def test_questions_without_an_id_are_left_alone(read: Read) -> None:
    found = read(
        {"judgements.jsonl": [JUDGEMENT], "question.jsonl": [{"turns": ["x"]}, QUESTION]}, "routellm"
    )
    assert found[0].prompt == "Compose.\n\nRewrite."


def test_metrics_that_are_no_list_are_not_read(read: Read) -> None:
    row = {"doc_id": 0, "resps": [["x"]], "acc": 1.0, "metrics": 5}
    assert _told(read({"m/samples_t.jsonl": [row]}, "lm-eval"), "quality") == [(1.0,)]
