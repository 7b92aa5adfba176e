"""Values on a command line and in a file are checked as in Python, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from environment_tables import made_cascade

from experts import InputError
from router_rl.cli.error_text import one_line, parser_error
from router_rl.methods.method import Method
from router_rl.methods.registry import find_method
from router_rl.problems.registry import find_problem
from train_router import main

Fails = Callable[..., str]
TREE = ("--problem.select", "hierarchical")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    made_cascade(rows=60).write(path)
    return str(path)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Return a function that runs a command that must fail in one line, and writes nothing."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return captured.err.removeprefix("error: ").rstrip("\n")

    return command


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("softmax_gate", "learning_rate", "abc"),
        ("softmax_gate", "learning_rate", -1.0),
        ("softmax_gate", "learning_rate", None),
        ("softmax_gate", "epochs", 1.5),
        ("softmax_gate", "epochs", 0),
        ("ppo", "critic_hidden", [100_000_000_000]),
        ("knn", "metric", "manhattan"),
        ("em_gate", "hard", "maybe"),
    ],
)
def test_a_hyperparameter_has_the_same_error_in_python(
    name: str, field: str, value: Any, table: str, fails: Fails, tmp_path: Path
) -> None:
    method = find_method("routing", name)
    assert isinstance(method, Method)
    with pytest.raises(InputError, match=rf"^method\.{field}=") as caught:
        method.configure({field: value})
    typed = "null" if value is None else str(value)
    words = ["train", "--table", table, "--method", name, "--out", "out"]
    assert fails(*words, f"--method.{field.replace('_', '-')}", typed) == str(caught.value)
    (tmp_path / "c.yaml").write_text(f"hyperparameters:\n  {field}: {typed}\n")
    assert fails(*words, "--config", "c.yaml") == str(caught.value)


@pytest.mark.parametrize(
    ("env", "field", "value"),
    [
        ("routing", "k", 0),
        ("routing", "feedback", "none"),
        ("cascade", "max_experts", 0),
        ("queueing", "batch_slope", 3.0),
        ("queueing", "loads", [0.5, -1.0]),
        ("caching", "host_share", 0.0),
        ("caching", "window", 100_000_000_000),
        ("token_moe", "experts_per_token", 3),
    ],
)
def test_an_option_of_a_problem_has_the_same_error_in_python(
    env: str, field: str, value: Any, table: str, fails: Fails
) -> None:
    with pytest.raises(InputError, match=rf"^problem\.{field}=") as caught:
        find_problem(env).options_type(**{field: value})
    data = [] if env == "token_moe" else ["--table", table]
    option = f"--problem.{field.replace('_', '-')}"
    assert fails("train", "--env", env, *data, "--out", "out", option, str(value)) == str(caught.value)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--seed", "1e20"], "seed=1e+20: is not a whole number"),
        (["--seed", "100000000000000000000"], "is above 2,147,483,647"),
        (["--seed", "-1"], "seed=-1: is out of range; use a whole number of at least 0"),
        (["--n-trials", "0"], "n_trials=0: is out of range"),
        (["--objective.compute-weight", "nan"], "objective.compute_weight"),
        (["--problem.tree", "{x: 5}", *TREE], "the branch 'x' is neither branches nor names of experts"),
        (["--problem.tree", "{x: [a, b], y: []}", *TREE], "the branch 'y' is neither branches nor names"),
        (["--problem.tree", "{x: [a, b], y: [c, c]}", *TREE], "has the expert 'c' 2 times; give each expert"),
        (["--problem.tree", "{x: [a, 5]}", *TREE], "problem.tree='5': unknown; known: a, b, c, d"),
        (["--problem.tree", "{a: [a]}"], "problem.tree={'a': ['a']}: select hard does not use it"),
        (["--problem.k", "3"], "problem.k=3: select hard does not use it; leave it out, or use topk"),
        (["--problem.log.epsilon", "0.5"], "problem.log="),
        (
            ["--env", "queueing", "--method", "random", "--problem.shares", "[0]"],
            "problem.shares=[0.0]: are all",
        ),
        (["--problem.device", "meta"], "problem.device='meta': cannot be used"),
        (
            ["--problem.features.min-df", "3"],
            "problem.features.min_df=3: is not used: the table has features",
        ),
        (["--problem", "/dev/zero"], "problem='/dev/zero': is not a mapping; give its fields"),
        (["--problem.log", "file.yaml"], "problem.log='file.yaml': is not a mapping"),
        (["--allow-leakage", "maybe"], "allow_leakage='maybe': is not true or false"),
        (["--seed"], "seed='': has no value; give one"),
        (["--env"], "env='': has no value; give one"),
        (["extra"], "argument='extra': belongs to no option"),
    ],
)
def test_values_of_train(words: list[str], error: str, table: str, fails: Fails) -> None:
    assert error in fails("train", "--table", table, "--method", "softmax_gate", "--out", "out", *words)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("- a\n", "config='c.yaml': is a list, not a mapping of options"),
        ("", "config='c.yaml': is empty"),
        ("on: 1\n", "config=True: is not the name of an option; put it in quotes"),
        ("nope: 1\n", "config='nope': unknown; known: "),
        (
            "problem: {log: {epsilo: 1}}\n",
            "'problem.log.epsilo': unknown; did you mean 'problem.log.epsilon'",
        ),
        ("problem: [1]\n", "problem=[1]: is not a mapping"),
        ("problem: null\n", "problem=None: is not a mapping"),
        ("seed: 1\nseed: 2\n", "'seed' occurs twice"),
        ("config: other.yaml\n", "config='config': unknown"),
        ("json: maybe\n", "json='maybe': is not true or false"),
        ("seed: &a [*a]\n", "config='c.yaml': is not YAML"),
        ("out: null\n", "out"),
    ],
)
def test_content_of_a_file(content: str, error: str, table: str, fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(content)
    (tmp_path / "other.yaml").write_text("seed: 1\n")
    words = [] if content.startswith("out") else ["--out", "out"]
    assert error in fails("train", "--table", table, *words, "--config", "c.yaml")
    # The second of two files is read too.
    assert error in fails("train", "--table", table, *words, "--config", "other.yaml", "--config=c.yaml")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["compare", "--methods", "ridge,ridge"], "methods='ridge,ridge': has 'ridge' twice"),
        (["compare", "--methods", ","], "methods=',': has no name"),
        (["compare", "--methods", "ridge,"], "methods='ridge,': has an empty name"),
        (["compare", "--methods", "ridg"], "methods='ridg': unknown; did you mean 'ridge'"),
        (["compare", "--jobs", "0"], "jobs=0: is out of range"),
        (["compare", "--seeds", "0"], "seeds=0: is out of range"),
        (["compare", "--compute-weights", "0.1,x"], "compute_weights='0.1,x': not comma-separated numbers"),
        (["evaluate", "run", "--on", "2024-07-01"], "on='2024-07-01': is the date of prices"),
    ],
)
def test_values_of_other_commands(words: list[str], error: str, table: str, fails: Fails) -> None:
    out = ["--out", "out"] if words[0] == "compare" else []
    assert error in fails(*words, "--table", table, *out)


def test_options_of_a_log_without_a_table_and_of_quick_timings(fails: Fails) -> None:
    assert "split='train': is about the rows of a table" in fails(
        "evaluate", "run", "--log", "l.parquet", "--split", "train"
    )
    assert "repeats=3: is not used with --quick" in fails("bench", "router", "--quick", "--repeats", "3")
    assert "limit=1.0: is not used with router" in fails("bench", "router", "--limit", "1")
    assemble = ["assemble", "--base", "b", "--experts", "c,d", "--out", "out"]
    assert "segments=3: is of the deepseek form" in fails(*assemble, "--segments", "3")
    assert "layers='1,1': has a layer twice" in fails(*assemble, "--layers", "1,1")


@pytest.mark.parametrize(
    ("value", "error"),
    [("{x: 1}", "method.x=1: softmax_gate has no such"), ("x", "method.start_hyperparameters='x': are not")],
)
def test_hyperparameters_of_a_start(
    value: str, error: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--table", table, "--method", "warm_exact_pg", "--out", str(tmp_path / "out")]
    assert main([*words, "--method.start-hyperparameters", value]) == 2
    assert f"error: {error}" in capsys.readouterr().err


def test_a_message_never_rewrites_a_path() -> None:
    for path in ("/data/hyperparameters.epochs/train.parquet", "/data/my hyperparameters.yaml", "/a/--b/c"):
        text = f"table='{path}': no such file; give a Parquet file"
        assert one_line(text) == text


def test_a_message_has_no_control_characters_and_an_end() -> None:
    assert one_line("a\x1b[31m\nb\tc") == r"a\x1b[31m b\tc"
    assert len(one_line("x" * 100_000)) < 2_000
    assert parser_error("something else", {"seed": int}) is None
    error = parser_error(
        'Parser key "hyperparameters.rate":\n  Expected a float. Got value: None',
        {"hyperparameters.rate": float},
    )
    assert str(error) == "method.rate=None: is not a number; use a number"
