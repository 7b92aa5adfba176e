"""Features made of prompts: honest on training rows, the same at serving, kept with the router."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge

from experts import InputError, OutcomeTable
from router_rl import Objective, export, fit
from router_rl.problems import prompt_features
from router_rl.problems.cross_fitting import folds_of
from router_rl.problems.prompt_features import FeatureConfig, featurised, with_features
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import RouterError, load
from router_rl.routing.digests import digest_of
from router_rl.routing.terms import Terms
from train_router import main

ROOT = Path(__file__).resolve().parents[3]
RIGHT = {"maths": 0, "german": 1}  # which expert knows what


@pytest.fixture(scope="module")
def prompts() -> OutcomeTable:
    """Return a table whose prompts say which of two experts is right."""
    rng = np.random.default_rng(0)
    words = {
        "maths": ["prime", "sum", "number", "divide", "root"],
        "german": ["haus", "baum", "wort", "satz", "lied"],
    }
    group = np.array(["maths", "german"] * 60, dtype=object)
    prompt = [" ".join(rng.choice(words[name], 4)) + f" q{i}" for i, name in enumerate(group)]
    quality = np.array([[float(RIGHT[name] == expert) for expert in range(2)] for name in group])
    noise = rng.random(quality.shape) < 0.1
    return OutcomeTable(
        experts=("maths-7b", "german-7b"),
        query_id=np.array([f"q{i}" for i in range(120)], dtype=object),
        features=None,
        quality=np.where(noise, 1 - quality, quality),
        cost=np.tile([1.0, 2.0], (120, 1)),
        split=np.array(["train", "train", "train", "train", "validation", "test"] * 20),
        prompt=np.array(prompt, dtype=object),
        group=group,
    )


def _columns(table: OutcomeTable, config: FeatureConfig) -> tuple[np.ndarray, np.ndarray, OutcomeTable]:
    made, text, _ = with_features(table, config)
    assert text is not None
    assert made.features is not None
    served = featurised(table, text).features
    assert served is not None
    return np.array(made.features), np.array(served), made


@pytest.mark.parametrize("text", ["tfidf", "hashed"])
def test_what_is_served_is_what_was_trained_on(prompts: OutcomeTable, text: Any) -> None:
    made, served, table = _columns(prompts, FeatureConfig(text=text, dimensions=8, max_features=256))
    assert made.shape == (120, 8 + 2 + 1)
    others = table.split != "train"
    np.testing.assert_allclose(made[others], served[others], atol=1e-6)
    np.testing.assert_allclose(made[:, :8], served[:, :8], atol=1e-5)  # topics have seen no outcome
    assert table.notes[-1] == f"features: computed from the prompts, 11 columns ({text})"


def test_words_and_characters_each_have_topics_and_out_of_fold_predictions(prompts: OutcomeTable) -> None:
    made, served, table = _columns(prompts, FeatureConfig(analyzer="both", dimensions=4, max_features=256))
    assert made.shape == (120, 2 * (4 + 2) + 1)
    others = table.split != "train"
    np.testing.assert_allclose(made[others], served[others], atol=1e-6)
    _, text, _ = with_features(prompts, FeatureConfig(analyzer="both", dimensions=4, max_features=256))
    assert text is not None
    assert text.out_of_fold == ((4, 5), (10, 11))
    # Digits, symbols and endings: characters from one on, inside words.
    assert [(part.analyser, part.ngram_range) for part in text.parts if isinstance(part, Terms)] == [
        ("word", (1, 2)),
        ("char_wb", (1, 3)),
    ]


@pytest.mark.parametrize("option", ["group", "infer_group"])
def test_no_column_of_a_training_row_has_seen_its_own_outcome(
    prompts: OutcomeTable, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """Flip one training row's outcomes: its own features must not move."""
    monkeypatch.setattr("router_rl.problems.prompt_features._PENALTIES", (3.0,))
    config = replace(FeatureConfig(dimensions=4), **{option: True})
    made, _, _ = _columns(prompts, config)
    flipped = prompts.quality.copy()
    flipped[0] = 1 - flipped[0]
    again, _, _ = _columns(replace(prompts, quality=flipped), config)
    np.testing.assert_allclose(again[0], made[0], atol=1e-6)
    assert not np.allclose(again[2], made[2], atol=1e-6)  # of the same group, and it has seen row 0


def test_group_means_by_hand() -> None:
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=np.array(list("1234"), dtype=object),
        features=None,
        quality=np.array([[1, 0], [0, 0], [1, 1], [0, 1]]),
        cost=np.ones((4, 2)),
        split=np.array(["train", "train", "train", "test"]),
        prompt=np.array(list("wxyz"), dtype=object),
        group=np.array(["g", "g", "h", "new"], dtype=object),
    )
    made, _, _ = _columns(table, FeatureConfig(text="none", length=False, group=True))
    mean = 2 / 3  # of a over the training rows
    expected = [(1 + 5 * mean) / 7, (1 + 5 * mean) / 7, (1 + 5 * mean) / 6, mean]
    assert made[:, 2].tolist() == pytest.approx(expected)
    np.testing.assert_allclose(made[:, :2], [[1, 0], [1, 0], [0, 1], [2 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize(("signal", "penalty"), [(2.0, 1.0), (1.0, 3.0), (0.6, 10.0), (0.2, 30.0)])
def test_the_weaker_the_words_the_larger_the_penalty(signal: float, penalty: float) -> None:
    rng = np.random.default_rng(0)
    x = csr_matrix(rng.normal(size=(60, 6)) * (rng.random((60, 6)) < 0.5))
    quality = signal * (x @ rng.normal(size=(6, 2))) + 2.0 * rng.normal(size=(60, 2))
    folds = folds_of(np.arange(60) % 5)
    weight, offset, _, _ = prompt_features._cross_fit_quality(x, quality, folds)
    expected = Ridge(alpha=penalty).fit(x.toarray(), quality)
    np.testing.assert_allclose(weight.T, expected.coef_, atol=2e-3)
    np.testing.assert_allclose(offset, expected.intercept_, atol=2e-3)


def test_few_training_rows_are_predicted_by_their_mean(prompts: OutcomeTable) -> None:
    few = prompts.take(np.r_[np.flatnonzero(prompts.split == "train")[:8], [4, 5]])
    table, text, out_of_fold = with_features(few, FeatureConfig(dimensions=2))
    assert text is not None
    assert table.features is not None
    assert out_of_fold is not None
    mean = few.quality[:8].mean(axis=0)
    (columns,) = text.out_of_fold
    np.testing.assert_allclose(table.features[:, columns], np.tile(mean, (10, 1)), atol=1e-6)
    np.testing.assert_allclose(out_of_fold.without, np.tile(mean, (5, 8, 1)), atol=1e-6)


def test_topics_are_fewer_than_training_rows(prompts: OutcomeTable) -> None:
    few = prompts.take(np.r_[np.flatnonzero(prompts.split == "train")[:8], [4, 5]])
    table, _, _ = with_features(few, FeatureConfig(min_df=1, out_of_fold=False, length=False))
    assert table.features is not None
    assert table.features.shape == (10, 7)


def test_without_predictions_the_group_is_its_one_hot_alone(prompts: OutcomeTable) -> None:
    config = FeatureConfig(text="none", length=False, group=True, out_of_fold=False)
    table, _, out_of_fold = with_features(prompts, config)
    assert out_of_fold is None
    np.testing.assert_array_equal(
        table.features, np.stack([prompts.group == "german", prompts.group == "maths"], 1)
    )


def test_a_table_with_features_keeps_them(prompts: OutcomeTable) -> None:
    own = replace(prompts, features=np.ones((120, 3), dtype=np.float32))
    table, text, out_of_fold = with_features(own)
    assert table is own
    assert text is None
    assert out_of_fold is None


def test_under_bandit_feedback_nothing_is_made_of_all_outcomes(prompts: OutcomeTable) -> None:
    table, _, out_of_fold = with_features(prompts, FeatureConfig(dimensions=4), feedback="bandit")
    assert out_of_fold is None
    assert table.features is not None
    assert table.features.shape[1] == 4 + 1


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({}, {"prompt": None, "group": None}, "neither features, nor prompts or groups"),
        ({}, {"split": np.array(["test"] * 119 + ["validation"])}, "no training rows"),
        ({"text": "none", "length": False}, {}, "without inputs"),
        ({"group": True}, {"group": None}, r"features.group=True: the table has no groups"),
        ({"infer_group": True}, {"group": None}, r"features.infer_group=True: the table has no groups"),
        ({"dimensions": 0, "out_of_fold": False}, {}, "neither topics nor out-of-fold"),
        ({}, {"prompt": np.array(["?"] * 120, dtype=object)}, "has no terms"),
    ],
)
def test_mistakes_are_named(
    prompts: OutcomeTable, config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    notes = ("leakage allowed: a test",)
    with pytest.raises(InputError, match=message):
        with_features(replace(prompts, notes=notes, **changes), FeatureConfig(**config))


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match=r"features.ngram_range"):
        FeatureConfig(ngram_range=(3, 2))
    with pytest.raises(InputError, match=r"features.dimensions"):
        FeatureConfig(dimensions=-1)
    with pytest.raises(
        InputError, match=r"features.infer_group=True: has no use where the group is an input"
    ):
        FeatureConfig(infer_group=True, group=True)
    with pytest.raises(InputError, match=r"features.infer_group=True: needs n-grams"):
        FeatureConfig(infer_group=True, text="none")


@pytest.mark.slow
def test_a_router_reads_prompts_from_its_export_alone(prompts: OutcomeTable, tmp_path: Path) -> None:
    prompts = replace(prompts, group=None)
    config = FeatureConfig(dimensions=4, length=False)  # German words here are shorter
    router = fit("ridge", RoutingProblem(prompts, Objective(compute_weight=0.01), features=config))
    export(router, tmp_path / "router", rows=prompts)
    loaded = load(tmp_path / "router")
    routing = loaded.route(["sum of prime numbers", "ein wort im satz"])
    assert [loaded.experts[e] for e in routing.experts[:, 0]] == ["maths-7b", "german-7b"]
    asked = ["prime root q", "baum lied"]
    torch.testing.assert_close(loaded.route(asked).logits, router.route(asked).logits, atol=1e-5, rtol=1e-4)
    assert not router.route(asked).logits.requires_grad
    healthy = torch.tensor([True, False])
    assert loaded.route("ein wort im satz", action_mask=healthy).experts.tolist() == [[0]]
    program = (
        "import sys, json\n"
        "for name in ('sklearn', 'numpy.random', 'pyarrow', 'experts', 'safetensors', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from router_rl.routing import load\n"
        "found = load(sys.argv[1]).route(['sum of prime numbers', 'ein wort im satz'])\n"
        "print(json.dumps(found.experts[:, 0].tolist()))\n"
    )
    program = program.replace("'numpy.random', ", "")
    words = [sys.executable, "-c", program, str(tmp_path / "router")]
    found = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(found.stdout) == [0, 1]


def test_by_default_the_group_is_no_input(prompts: OutcomeTable, tmp_path: Path) -> None:
    problem = RoutingProblem(prompts, Objective(compute_weight=0.01), features=FeatureConfig(dimensions=4))
    router = fit("ridge", problem)
    assert problem.inputs == router.inputs == ("prompt",)
    export(router, tmp_path / "router", rows=problem)
    assert json.loads((tmp_path / "router" / "router.json").read_text())["inputs"] == ["prompt"]
    loaded = load(tmp_path / "router")
    assert loaded.inputs == ("prompt",)
    some = "haus baum prime"
    assert loaded.route(some, "maths").logits.equal(loaded.route(some).logits)


def test_an_explicit_group_is_required_and_named(prompts: OutcomeTable, tmp_path: Path) -> None:
    config = FeatureConfig(dimensions=0, group=True)
    problem = RoutingProblem(prompts, Objective(compute_weight=0.01), features=config)
    router = fit("ridge", problem)
    assert problem.inputs == router.inputs == ("prompt", "group")
    export(router, tmp_path / "router")  # made prompts get made groups
    assert json.loads((tmp_path / "router" / "router.json").read_text())["inputs"] == ["prompt", "group"]
    neither = "nothing of the two"
    for each in (router, load(tmp_path / "router")):
        assert each.route([neither] * 2, groups=["german", "maths"]).experts.tolist() == [[1], [0]]
        assert each.route(neither, groups="german").experts.tolist() == [[1]]
        with pytest.raises(RouterError, match="group is an input of this router"):
            each.route(neither)
        assert each.text is not None
        with pytest.raises(RouterError, match="group is an input of this router"):
            each.text([neither])
        # A group without training rows is the average query.
        average = each.text([neither], ["new"])[0, -4:-2]
        assert average.tolist() == pytest.approx([0.5, 0.5])
    with pytest.raises(InputError, match="group=None: the router needs groups and the table has none"):
        featurised(replace(prompts, group=None), problem.text)  # type: ignore[arg-type]


def test_inputs_that_the_file_names_are_checked(prompts: OutcomeTable, tmp_path: Path) -> None:
    problem = RoutingProblem(prompts, Objective(), features=FeatureConfig(dimensions=2))
    export(fit("ridge", problem), tmp_path / "router")
    path = tmp_path / "router" / "router.json"
    described = json.loads(path.read_text()) | {"inputs": ["prompt", "group"]}
    weights = path.with_suffix(".safetensors").read_bytes()
    path.write_text(json.dumps(described | {"digest": digest_of(described, weights)}))
    with pytest.raises(RouterError, match=r"says that the inputs are \['prompt', 'group'\]"):
        load(tmp_path / "router")


def test_a_router_can_infer_the_group(prompts: OutcomeTable, tmp_path: Path) -> None:
    config = FeatureConfig(dimensions=4, infer_group=True)
    problem = RoutingProblem(prompts, Objective(compute_weight=0.01), features=config)
    assert problem.text is not None
    assert problem.text.out_of_fold == ((4, 5), (9, 10))
    router = fit("ridge", problem)
    assert router.inputs == ("prompt",)
    export(router, tmp_path / "router", rows=problem)
    loaded = load(tmp_path / "router")
    assert loaded.text is not None
    some = ["sum of prime numbers", "ein wort im satz", "", "1 2 3"]
    torch.testing.assert_close(loaded.text(some), problem.text(some), atol=1e-6, rtol=0)
    probability = loaded.text(some)[:, 7:9]  # of german and maths
    assert probability[0, 1] > 0.8
    assert probability[1, 0] > 0.8
    torch.testing.assert_close(probability.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(loaded.route(some).logits, router.route(some).logits, atol=1e-5, rtol=1e-4)


def test_exports_that_do_not_fit_are_refused(prompts: OutcomeTable, tmp_path: Path) -> None:
    router = fit("ridge", RoutingProblem(prompts, Objective(), features=FeatureConfig(dimensions=2)))
    export(router, tmp_path / "router")
    path = tmp_path / "router" / "text.json"
    path.write_text(path.read_text().replace("prime", "primes"))
    with pytest.raises(RouterError, match="not from one export"):
        load(tmp_path / "router")
    path.unlink()
    with pytest.raises(RouterError, match=r"text.json cannot be read"):
        load(tmp_path / "router")
    plain = fit(
        "ridge", RoutingProblem(replace(prompts, features=np.eye(120, 3, dtype=np.float32)), Objective())
    )
    with pytest.raises(RouterError, match="cannot read prompts"):
        plain.route("x")


@pytest.mark.slow
def test_the_command_line_trains_evaluates_and_exports_on_prompts(
    prompts: OutcomeTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = str(tmp_path / "t.parquet"), str(tmp_path / "run")
    prompts.write(table)
    words = [
        "--table",
        table,
        "--method",
        "ridge",
        "--out",
        run,
        "--problem.features.dimensions",
        "4",
        "--json",
    ]
    assert main(["train", *words]) == 0, capsys.readouterr().err
    trained = json.loads(capsys.readouterr().out)
    assert "features: computed from the prompts, 7 columns (tfidf)" in trained["notes"]
    assert trained["inputs"] == ["prompt"]
    assert main(["evaluate", run, "--table", table, "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["test"]["utility"] == pytest.approx(trained["test"]["utility"])
    out = tmp_path / "router"
    assert main(["export", run, "--out", str(out), "--table", table]) == 0, capsys.readouterr().err
    loaded = load(out)
    assert loaded.route("haus baum").experts.tolist() == [[1]]
    assert loaded.route([]).experts.shape == (0, 1)
    assert 'router.route("a prompt")  # or router(features)' in (out / "README.md").read_text()
