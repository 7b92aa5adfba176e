"""Further samples and verdicts are columns of the table, which cascades can ask for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from experts import InputError
from experts.llm import collect_answers, read_models
from experts.llm.endpoints import Endpoint
from experts.llm.verifying import sampled
from experts.table.follow_ups import call_of, followed_by
from router_rl import CascadeProblem

NAMES = ("small", "large", "small#2", "small?check", "large?check")


@pytest.fixture
def listed(server, tmp_path) -> Path:
    """`small` is asked twice and is right the second time; `check` has no verdict on the sum of 3."""
    asked = Counter()

    def answer(model: str, prompt: str) -> str:
        if model == "check":
            if "<question>\n3 +" in prompt:
                return "no idea"
            right = "I don't know" not in prompt.partition("<answer>")[2]
            return f"{9 if right else 1} out of 10"
        first = int(prompt.split()[0])
        asked[model, prompt] += 1
        known = model == "large" or first < 5 or asked[model, prompt] == 2
        return f"It is {2 * first + 1}." if known else "I don't know"

    server.answer = answer
    common = {"api_base": server.url, "timeout": 20, "price": {"input": 1.0, "output": 4.0}}
    small = {
        "name": "small",
        "model": "openai/small",
        "samples": 2,
        "options": {"temperature": 0.7, "seed": 4},
    }
    models = [{**small, **common}, {"name": "large", "model": "openai/large", **common}]
    verifier = {"name": "check", "model": "openai/check", **common, "price": {"input": 0.5, "output": 0.5}}
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump({"models": models, "verifiers": [verifier]}))
    return path


def test_samples_and_verdicts_are_collected(server, listed, write_prompts, tmp_path):
    prompts = write_prompts(40)
    found = collect_answers(listed, prompts, tmp_path / "table.parquet", scorer="numeric", progress=False)
    table = found.table
    assert table.experts == NAMES
    kept = [row for row in range(40) if row != 3]  # the verifier has no verdict on query 3
    assert [str(prompt).split()[0] for prompt in table.prompt] == list(map(str, kept))
    assert "small?check (1)" in " ".join(table.notes)
    assert found.models["small?check"]["reasons"] == {"verifier": 1}
    # The samples are drawn in any order; one of the two is right from 5 on.
    assert (table.quality[:, 0] + table.quality[:, 2]).tolist() == [2.0 if each < 5 else 1.0 for each in kept]
    assert table.quality[:, 3].tolist() == table.quality[:, 0].tolist()
    assert table.quality[:, 4].tolist() == table.quality[:, 1].tolist()
    assert table.confidence[:, :3].tolist() == [[0.5] * 3] * 39
    expected = [0.9 if each else 0.1 for each in table.quality[:, 0]]
    assert table.confidence[:, 3].tolist() == pytest.approx(expected)
    assert table.extra["answer/small?check"].to_pylist() == table.extra["answer/small"].to_pylist()
    # The verifier's prompt and reply, at its own price.
    assert table.tokens_in[:, 3].min() > 40
    assert table.cost[:, 3].tolist() == pytest.approx(
        ((table.tokens_in[:, 3] + table.tokens_out[:, 3]) * 0.5e-6).tolist()
    )
    seeds = [body["seed"] for body in server.requests if body["model"] == "small"]
    assert Counter(seeds) == {4: 40, 5: 40}
    assert not any("reference" in str(body["messages"]) for body in server.requests)
    sent = len(server.requests)
    again = collect_answers(listed, prompts, tmp_path / "table.parquet", scorer="numeric", progress=False)
    assert len(server.requests) == sent
    assert again.table.confidence.tolist() == table.confidence.tolist()
    problem = CascadeProblem(again.table, use_features=False)
    assert problem.agreement_beliefs
    assert followed_by(problem.experts) == (-1, -1, 0, 0, 1)


def test_samples_share_the_rate_limits_of_their_model():
    options = {"temperature": 1.0}
    model = Endpoint(
        name="a", model="openai/a", samples=3, options=options, requests_per_minute=60, tokens_per_minute=900
    )
    other = Endpoint(name="b", model="openai/b", requests_per_minute=7)
    columns = sampled([model, other])
    assert [each.name for each in columns] == ["a", "b", "a#2", "a#3"]
    assert [each.requests_per_minute for each in columns] == [20, 7, 20, 20]
    assert [each.tokens_per_minute for each in columns] == [300, None, 300, 300]
    assert all("seed" not in each.options for each in columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("samples: 2", "samples: 0"), "models.small.samples=0: is out of range"),
        (("samples: 2", "samples: true"), "models.small.samples=True: is not such a number"),
        (("temperature: 0.7", "temperature: 0"), "models.small.samples=2: are equal answers"),
        (("name: check", "name: large"), r"verifiers\[0\].name='large': is the name of another model"),
        (("name: check\n", "name: check\n  prompt: right?\n"), "verifiers.check.prompt='right.': lacks"),
        (
            ("name: check\n", "name: check\n  prompt: '{answer} {reference}'\n"),
            "verifiers.check.prompt='.*has {reference}, which a verifier does not know",
        ),
        (("name: check\n", "name: check\n  scale: 0\n"), "verifiers.check.scale=0: is not a grade"),
        (("name: check\n", "name: check\n  grade: 0\n"), r"verifiers\[0\]='grade': unknown; known: api_base"),
    ],
)
def test_a_list_that_is_wrong_is_refused(listed, change, message):
    text = listed.read_text()
    assert change[0] in text
    listed.write_text(text.replace(*change))
    with pytest.raises(InputError, match=message):
        read_models(listed)


def test_verifiers_are_a_list(listed):
    listed.write_text(listed.read_text().partition("verifiers:")[0] + "verifiers: {name: check}\n")
    with pytest.raises(InputError, match=r"verifiers=.*is not a list"):
        read_models(listed)


def test_what_a_column_calls():
    names = ["a", "b#2", "a#2", "a#2?v", "a?v", "a?v#2", "c?v", "a#x", "a#1"]
    calls = [tuple(call_of(name, names)) for name in names]
    assert calls == [
        *(("a", 1, None), ("b#2", 1, None), ("a", 2, None), ("v", 1, "a#2"), ("v", 1, "a")),
        *(("v", 2, "a"), ("c?v", 1, None), ("a#x", 1, None), ("a#1", 1, None)),
    ]
