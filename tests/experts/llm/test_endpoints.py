"""A model list is checked whole before anything is asked, and keys go where they are meant to."""

from __future__ import annotations

import pytest

from experts import InputError
from experts.llm import Endpoint, read_models
from experts.llm.endpoints import Judge, check_endpoints, prices_of
from experts.table.prices import Price

GOOD = """
models:
  - {name: a, model: openai/gpt-4o-mini, options: {temperature: 0}, max_tokens: 64}
  - {name: b, model: openai/mine, api_base: "http://127.0.0.1:1/v1", price: {input: 0}}
judge: {model: openai/grader, api_base: "http://127.0.0.1:1/v1", scale: 5, prompt: "Grade {answer}"}
"""


def read(tmp_path, text):
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return read_models(path)


def test_reads_every_field(tmp_path):
    found = read(tmp_path, GOOD)
    first, second = found.endpoints
    assert first == Endpoint(name="a", model="openai/gpt-4o-mini", options={"temperature": 0}, max_tokens=64)
    assert second.price == Price()
    assert found.judge is not None
    assert (found.judge.scale, found.judge.endpoint.name) == (5, "judge")
    assert "{reference}" in Judge(endpoint=first).prompt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", "is not YAML"),
        ("- a", r"models=\['a'\]: is not a mapping"),
        ("model: []", "models='model': unknown; did you mean 'models'"),
        ("models: {}", "has no list `models`"),
        ("models: [{name: a, model: x}]", "routing needs a choice; list 2 or more"),
        ("models: [{name: a, model: x}, {name: a, model: y}]", "models='a': occurs twice"),
        ("models: [{model: x}]", r"models\[0\].name=None: is missing; add it"),
        ("models: [{name: a, model: x, max_token: 5}]", r"models\[0\]='max_token': unknown; did you mean"),
        ("models: [{name: a, model: 5}]", r"models\[0\].model=5: is not text"),
        ("models: [{name: a, model: x, options: 5}]", r"models\[0\].options=5: is not a mapping"),
        ("models: [{name: a, model: x, timeout: 0}]", "models.a.timeout=0: is out of range"),
        ("models: [{name: a, model: x, timeout: soon}]", "models.a.timeout='soon': is not such a number"),
        ("models: [{name: a, model: x, retries: 1.5}]", "models.a.retries=1.5: is not such a number"),
        ("models: [{name: a, model: x, replicas: 0}]", "models.a.replicas=0: is out of range"),
        ("models: [{name: a, model: x, replicas: 1.5}]", "models.a.replicas=1.5: is not such a number"),
        ("models: [{name: a, model: x, retries: null}]", "models.a.retries=None: is not such a number"),
        ("models: [{name: a, model: x, price: 5}]", r"models\[0\].price=5: is not a price"),
        ("models: [{name: a, model: x, price: {in: 5}}]", r"models\[0\].price=.*: has unknown keys: in"),
        ("models: [{name: a, model: x, price: {input: -1}}]", r"models\[0\].price.input=-1: is not a price"),
        (GOOD.replace("{answer}", "it"), "models.judge.prompt='Grade it': lacks {answer}"),
        (GOOD.replace('prompt: "Grade {answer}"', "prompt: 5"), "models.judge.prompt=5: lacks {answer}"),
        (GOOD.replace("scale: 5", "scale: 0"), "models.judge.scale=0: is not a grade"),
        (GOOD.replace("scale: 5", "scale: true"), "models.judge.scale=True: is not a grade"),
        (GOOD.partition("judge:")[0] + "judge: 3", "models.judge=3: is not a mapping"),
        (GOOD.partition("judge:")[0] + "judge: {scale: 3}", "models.judge.model=None: is missing"),
        (GOOD.replace("name: a", "name: judge"), "models='judge': is the name of the judge"),
        ("models: [{name: a, model: x, timeout: .inf}]", "models.a.timeout=inf: is out of range"),
        ("models: [{name: a, model: x, timeout: .nan}]", "models.a.timeout=nan: is out of range"),
        (
            "models: [{name: a, model: x, max_tokens: 1" + "0" * 300 + "}]",
            "models.a.max_tokens=.*: is out of",
        ),
        ("models: [{name: null, model: x}]", "models.None.name=None: is empty"),
        ("models: [{name: ' ', model: x}]", "name=' ': is empty"),
        ("models: [{name: a, model: x, api_base: here}]", "models.a.api_base='here': is not an address"),
        (
            "models: [{name: a, model: x, api_base: 'http://a\n\nb'}]",
            "models.a.api_base=.*: is not an address",
        ),
        ("models: [{name: a, model: x, api_key_env: ''}]", "models.a.api_key_env='': is not the name of an"),
        ("models: [{name: a, model: x, price: {input: 1.0e+308}}]", r"price.input=1e\+308: is not a price"),
        ('models: [{name: "a\\e[31m", model: x}]', "holds a character that cannot be printed"),
        (
            "models: [{name: a, model: x, options: {messages: []}}]",
            r"models.a.options.messages=\[\]: is not an",
        ),
        ("models: [{name: a, model: x, options: {api_key: k}}]", "use the field api_key_env"),
        ("models: [{name: a, model: x, options: {x: 2024-01-01}}]", "models.a.options=.*: is not JSON"),
        ("models: [{name: a, model: x, options: {1: 2, b: 3}}]", "models.a.options=.*: is not JSON"),
    ],
)
def test_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"models='.*none.yaml': cannot be read"):
        read_models(tmp_path / "none.yaml")


def test_a_providers_key_is_never_sent_to_another_server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("MINE", "mine")
    assert Endpoint(name="a", model="openai/x", api_base="http://127.0.0.1:1").key() == "none"
    assert Endpoint(name="a", model="openai/x").key() is None
    assert Endpoint(name="a", model="openai/x", api_key_env="MINE").key() == "mine"
    with pytest.raises(InputError, match=r"models.a.api_key_env='NOT_THERE': is not set"):
        Endpoint(name="a", model="openai/x", api_key_env="NOT_THERE").key()


def test_what_nobody_could_answer_or_price_is_found_before_it_is_asked():
    known, mine = Endpoint(name="a", model="openai/gpt-4o-mini"), Endpoint(name="b", model="openai/mine")
    check_endpoints([known, mine])
    free = Endpoint(name="c", model="openai/mine", price=Price())
    found = prices_of([known, free])
    assert found.prices["a"] == Price(input=1.5e-07 * 1e6, output=6e-07 * 1e6)
    assert found.source.startswith("LiteLLM ")
    assert found.source.endswith("'s price map for a; the model list")
    assert prices_of([free]).source == "the model list"
    assert prices_of([known]).source.endswith("'s price map for a")
    with pytest.raises(InputError, match=r"models.b.price=None: LiteLLM's price map does not have openai/m"):
        prices_of([known, mine])
    with pytest.raises(InputError, match=r"models.a.model='mine': has a provider that is unknown"):
        check_endpoints([Endpoint(name="a", model="mine", price=Price())])
