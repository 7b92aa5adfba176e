"""An option that the problem or the method does not take is an error that names what it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from environment_tables import made_cascade

from router_rl.cli import COMMANDS, find_command
from router_rl.cli.command import Names
from router_rl.cli.command_arguments import arguments_of, boolean_options
from router_rl.cli.compare_command import StudyOptions
from router_rl.cli.data_options import DataOptions
from router_rl.cli.old_options import OLD as REPLACED
from router_rl.cli.parsing import build_parser, normalised
from train_router import main

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    made_cascade(rows=60).write(path)
    return str(path)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fails:
    """Return a function that runs a command that must fail in one line, and leaves no folder."""

    def command(*words: str) -> str:
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return captured.err

    return command


# Every option of `train` and `compare` of version 1 that is spelled otherwise now, and its new spelling.
OLD = {
    "tries": "n-trials",
    "settings.epochs": "method.epochs",
    "options.loads": "problem.loads",
    "limit": "objective.max-cost",
    "objective.limit": "objective.max-cost",
    "load-weight": "objective.load-weight",
    "window": "objective.window",
    "budget": "objective.budget",
    "select": "problem.select",
    "k": "problem.k",
    "tree": "problem.tree",
    "scorer.kind": "problem.scorer.kind",
    "observe-load": "problem.observe-load",
    "feedback": "problem.feedback",
    "log.epsilon": "problem.log.epsilon",
    "method.gate": "method.start",
    "features.text": "problem.features.text",
    "features.analyser": "problem.features.analyzer",
    "features.shortest": "problem.features.ngram-range",
    "features.longest": "problem.features.ngram-range",
    "features.terms": "problem.features.max-features",
    "features.least": "problem.features.min-df",
    "features.readouts": "problem.features.out-of-fold",
    "device": "problem.device",
    "compile": "problem.compile",
}


@pytest.mark.slow
@pytest.mark.parametrize("old", OLD)
def test_an_old_spelling_names_the_new_one(old: str, fails: Fails) -> None:
    env = "queueing" if old.startswith("options") else "routing"
    method = "warm_exact_pg" if old.startswith("method.") else "softmax_gate"
    words = ["--env", env, "--method", method]
    for typed in (f"--{old}", f"--{old.replace('-', '_')}"):
        error = fails("train", "--table", "digits", *words, typed, "1")
        assert error == f"error: option='--{old}': is the spelling of version 1; write --{OLD[old]}\n"
    (key,) = normalised([f"--{OLD[old]}"])
    parser = build_parser("train", find_command("train"), Names(env=env, method=method), [])
    assert key in {option for action in parser._actions for option in action.option_strings}


def test_an_old_hyperparameter_of_another_method_lists_those_of_the_method(fails: Fails) -> None:
    error = fails("train", "--table", "digits", "--method", "knn", "--method.gate", "em_gate")
    assert error == "error: option='--method.gate': is not an option of knn; it takes metric, neighbours\n"


def test_every_old_spelling_is_tested() -> None:
    assert {old if old in REPLACED else old.partition(".")[0] for old in OLD} == set(REPLACED)


@pytest.mark.parametrize(
    ("content", "old", "new"),
    [
        ("tries: 3", "tries", "n_trials"),
        ("settings: {epochs: 3}", "settings.epochs", "hyperparameters: epochs"),
        ("scorer: {kind: linear}", "scorer.kind", "problem: scorer: kind"),
        ("objective: {compute_weight: 0.1, limit: 0.5}", "objective.limit", "objective: max_cost"),
        ("features: {terms: 10}", "features.terms", "problem: features: max_features"),
    ],
)
def test_an_old_spelling_in_a_file_names_the_new_one(
    content: str, old: str, new: str, tmp_path: Path, fails: Fails
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    error = fails("train", "--table", "digits", "--config", str(tmp_path / "config.yaml"))
    assert error == f"error: config='{old}': is the spelling of version 1; write {new}\n"


def test_an_old_spelling_of_another_command_is_unknown(fails: Fails) -> None:
    assert "this command does not take it" in fails("export", "run", "--settings.epochs", "1")
    assert "this command does not take it" in fails("compare", "--table", "digits", "--settings.epochs", "1")
    assert "write --objective.budget" in fails("compare", "--table", "digits", "--budget", "1")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_an_option_of_another_problem_names_what_the_problem_takes(
    command: str, table: str, fails: Fails
) -> None:
    cascade = [command, "--env", "cascade", "--table", table]
    error = fails(*cascade, "--problem.select", "topk")
    assert "--problem.select" in error
    assert "is not an option of cascade; it takes " in error
    assert "max-experts" in error
    assert "use-features" in error
    error = fails(command, "--table", table, "--problem.loads", "[0.5]")
    assert "--problem.loads" in error
    assert "is not an option of routing; it takes " in error
    assert "observe-load" in error


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("env", "option", "value"),
    [
        ("cascade", "load-weight", "0.9"),
        ("cascade", "budget", "0.5"),
        ("queueing", "load-weight", "0.9"),
        ("caching", "max-cost", "0.5"),
    ],
)
def test_a_part_of_the_objective_that_a_problem_does_not_use_is_an_error(
    command: str, env: str, option: str, value: str, table: str, fails: Fails
) -> None:
    error = fails(command, "--env", env, "--table", table, f"--objective.{option}", value)
    assert f"objective.{option.replace('-', '_')}={value}: {env} does not use it; it uses " in error
    assert "compute-weight" in error


def test_a_problem_without_a_table_takes_neither_table_nor_objective(table: str, fails: Fails) -> None:
    words = ["train", "--env", "token_moe"]
    assert "token_moe does not use a table" in fails(*words, "--table", table)
    assert "token_moe has no objective weights" in fails(*words, "--objective.compute-weight", "0.1")
    assert "token_moe has none" in fails("compare", *words[1:], "--compute-weights", "0.1")
    assert "there is no data; give --table" in fails("train")


def test_hyperparameters_are_those_of_the_method(table: str, fails: Fails) -> None:
    words = ["train", "--table", table]
    error = fails(*words, "--method", "ridge", "--method.epochs", "3")
    assert "--method.epochs" in error
    assert "is not an option of ridge; it takes penalty" in error
    assert "is not an option of ppo; it takes " in fails(*words, "--method.epoch", "3")  # the default method
    assert "is not an option of random; it takes none" in fails(
        *words, "--method", "random", "--method.x", "1"
    )
    assert "this command does not take it" in fails("compare", "--table", table, "--method.epochs", "3")


def test_hyperparameters_of_the_default_method_can_be_given(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--method.decisions", "2048", "--method.validate-every", "1024", "--method.lanes", "32"]
    few += ["--method.minibatch", "64"]
    assert main(["train", "--table", table, *few, "--out", str(tmp_path / "run")]) == 0
    assert "ppo" in capsys.readouterr().out
    assert "decisions: 2048" in (tmp_path / "run" / "config.yaml").read_text()


def test_compute_weights_are_given_once(table: str, fails: Fails) -> None:
    weights = ["--compute-weights", "0.1", "--objective.compute-weight", "0.2"]
    error = fails("compare", "--env", "cascade", "--table", table, *weights)
    assert "is the same option as --objective.compute-weight" in error


def test_an_unknown_problem_is_named(fails: Fails) -> None:
    assert "did you mean 'cascade'" in fails("train", "--env", "cascad", "--table", "digits")


def test_a_dataclass_among_the_arguments_stands_for_its_fields() -> None:
    command = find_command("compare")
    words = [
        "--out",
        "study",
        "--seeds",
        "2",
        "--n_trials",
        "3",
        "--allow_leakage=true",
        "--methods",
        "ridge",
    ]
    parser = build_parser("compare", command, Names(), words)
    parsed = parser.instantiate(parser.parse_args(words)).as_dict()
    given = {name: parsed[name] for name in parsed if name not in ("config", "json")}
    arguments = arguments_of(command, given)
    assert arguments["study"] == StudyOptions(seeds=2, n_trials=3, methods="ridge")
    assert arguments["data"] == DataOptions(allow_leakage=True)
    assert set(arguments) == {"out", "data", "study", "target", "problem", "objective"}


@pytest.mark.parametrize("name", COMMANDS)
def test_boolean_options_need_no_value(name: str) -> None:
    expected = {
        "import": {"drop_leaks", "print_prices"},
        "patch": {"recover"},
        "serve": {"log_prompts"},
    }
    leaks = (
        {"allow_leakage"}
        if name in ("train", "tune", "compare", "evaluate", "monitor", "add-expert")
        else set()
    )
    assert boolean_options(find_command(name)) == expected.get(name, leaks)
