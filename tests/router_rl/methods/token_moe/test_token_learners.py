"""From folders of models and texts to routers inside a mixture, by the command line's own path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from experts import InputError
from experts.moe import assemble
from experts.moe.donor_folders import write_donors
from experts.moe.donor_pool import donor_pool
from experts.moe.text_parts import TextSizes, read_documents
from experts.moe.token_pool import TokenPool
from router_rl import Objective, TokenMoEProblem, compare, fit
from router_rl.cli.handover_command import handover
from router_rl.cli.patch_command import patch
from router_rl.methods.token_moe.token_gates import gate_of
from router_rl.routing.selection.topk import scattered
from router_rl.studies.runs import train_run

STEPS = {"one": 1, "three": 3, "five": 5}  # names of the wide pool's experts, and how their text counts
SCORES = ("softmax", "sigmoid")
SIZES: dict[str, Any] = {"length": 10, "train": 12, "validation": 6, "test": 6, "mixed": 0.5}


@pytest.fixture(scope="session")
def folders(wide_pool: TokenPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wide pool's base, its experts, and a text for each in `texts`."""
    import transformers

    home = tmp_path_factory.mktemp("donors")
    words: Any = Tokenizer(models.WordLevel({f"w{i}": i for i in range(23)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tail = wide_pool.tail
    experts = {
        name: [tail.ffn(layer, expert).weights() for layer in range(tail.depth)]
        for expert, name in enumerate(STEPS)
    }
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    write_donors(wide_pool.base, experts, home, tokenizer)
    (home / "texts").mkdir()
    for name, step in STEPS.items():
        documents = [" ".join(f"w{(s + step * i) % 23}" for i in range(24)) + f" w{s}" for s in range(23)]
        documents += [f"{document} w{i}" for i in range(4) for document in documents]
        lines = [json.dumps({"text": text} if name == "one" else text) for text in documents]
        (home / "texts" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return home


def options(home: Path, **more: Any) -> dict[str, Any]:
    experts = [str(home / name) for name in STEPS]
    return {"base": str(home / "base"), "experts": experts, "texts": str(home / "texts"), **SIZES, **more}


@pytest.mark.parametrize(
    ("method", "count", "form"),
    [("joint", 1, "mixtral"), ("joint", 2, "mixtral"), ("joint", 1, "deepseek")]
    + [(method, 2, "deepseek") for method in ("joint", "softmax_gate", "reinforce", "outcome_table")],
)
def test_trained_routers_do_in_transformers_what_they_did_here(
    folders: Path, tmp_path: Path, method: str, count: int, form: Any
) -> None:
    """A router of two experts is trained with the score of the form that it is handed over to."""
    import transformers

    score = "sigmoid" if (form, count) == ("deepseek", 2) else "softmax"
    given = options(folders, experts_per_token=count, score=score, keep=str(tmp_path / "keep"))
    run = train_run(TokenMoEProblem(**given), method, tmp_path / "run")
    donors = [folders / name for name in STEPS]
    assemble(
        folders / "base", donors, tmp_path / "mixture", form=form, experts_per_token=count, progress=False
    )
    trained = tmp_path / "run" / "router" / "routers.safetensors"
    assert run.facts["router"] == "router"
    handover(routers=trained, model=tmp_path / "mixture", out=tmp_path / "patch")
    patch(patch=tmp_path / "patch", model=tmp_path / "mixture")

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mixture").eval()
    tokens = torch.from_numpy(np.load(tmp_path / "keep" / "test" / "tokens.npy"))
    with torch.inference_mode():
        logits = model(tokens[:, :-1]).logits
    loss = float(torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:]))
    assert run.facts["test"]["utility"] == pytest.approx(-loss, abs=1e-4)


@pytest.mark.parametrize("score", SCORES)
def test_a_gate_of_two_experts_mixes_as_the_rule_that_is_handed_over(folders: Path, score: str) -> None:
    problem = TokenMoEProblem(**options(folders, experts_per_token=2, score=score))
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    mixed = gate_of(problem).mixes(logits, torch.zeros(3))
    torch.testing.assert_close(mixed, scattered(3, problem.selection.select(logits)))


def test_what_was_measured_is_kept(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    donors, sizes = [folders / name for name in STEPS], TextSizes(**SIZES)
    first, names = donor_pool(folders / "base", donors, folders / "texts", sizes, keep=tmp_path)
    assert names == first.domains == tuple(STEPS)

    def measured(*given: Any, **more: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("experts.moe.donor_pool.measure_sequences", measured)
    again, _ = donor_pool(folders / "base", donors, folders / "texts", sizes, keep=tmp_path)
    for name, part in first.parts.items():
        np.testing.assert_array_equal(again.parts[name].path_loss, part.path_loss)
        assert part.mixed.sum() == round(0.5 * getattr(sizes, name))
    with pytest.raises(InputError, match="other experts or texts"):
        donor_pool(folders / "base", donors[:2], folders / "texts", sizes, keep=tmp_path)


def test_every_expert_is_best_on_its_text(folders: Path) -> None:
    donors = [folders / name for name in STEPS]
    pool, _ = donor_pool(folders / "base", donors, folders / "texts", TextSizes(**{**SIZES, "mixed": 0.0}))
    part = pool.parts["train"]
    for domain in range(3):
        assert part.path_loss[part.domain[:, 0] == domain].mean(axis=(0, 2)).argmin() == domain


def test_texts_of_other_names_have_no_expert(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text((folders / "texts" / "three.jsonl").read_text())
    donors = [folders / name for name in STEPS]
    pool, names = donor_pool(folders / "base", donors, tmp_path, TextSizes(**SIZES))
    assert (names, pool.domains) == (("corpus",), ())
    assert not pool.parts["train"].mixed.any()


def test_an_expert_without_a_text_comes_after_the_domains(folders: Path, tmp_path: Path) -> None:
    """The domains are the experts up to the first without a text; other texts have no expert."""
    for name in ("one", "five"):
        (tmp_path / f"{name}.jsonl").write_text((folders / "texts" / f"{name}.jsonl").read_text())
    donors = [folders / name for name in STEPS]
    pool, names = donor_pool(folders / "base", donors, tmp_path, TextSizes(**SIZES))
    assert (names, pool.domains) == (("one", "five"), ("one",))
    part = pool.parts["train"]
    own = part.path_loss[(part.domain[:, 0] == 0) & ~part.mixed]
    assert own.mean(axis=(0, 2)).argmin() == 0


def test_weights_can_be_multiplied_in_bfloat16(folders: Path) -> None:
    """Losses differ by the rounding alone, and so does the digest."""
    full, half = (TokenMoEProblem(**options(folders, dtype=name)) for name in ("float32", "bfloat16"))
    assert [problem.pool.tail.dtype for problem in (full, half)] == [torch.float32, torch.bfloat16]
    exact, rounded = (problem.pool.parts["test"].path_loss for problem in (full, half))
    np.testing.assert_allclose(rounded, exact, atol=0.1)
    assert not np.array_equal(rounded, exact)
    assert full.digest() != half.digest()


@pytest.mark.slow
def test_a_comparison_is_whole(folders: Path, tmp_path: Path) -> None:
    names = ["joint", "outcome_table", "reinforce", "softmax_gate", "straight_through", "ridge", "uniform"]
    given = options(folders, experts_per_token=[1, 2])
    problem = TokenMoEProblem(**given)
    found = compare(problem, names, seeds=2, n_trials=1, out=tmp_path).results
    assert [case["label"] for case in found["cases"]] == ["one expert per token", "two experts per token"]
    mean = {row["method"]: row["utility_mean"] for row in found["summary"] if row["experts_per_token"] == 1}
    assert mean["oracle"] >= max(mean.values())
    assert mean["joint"] > mean["random"]
    runs = {row["experts_run_mean"] for row in found["summary"] if row["method"] == "joint"}
    assert runs == {1.0, 2.0}
    again = compare(problem, names, seeds=2, n_trials=1, out=tmp_path)
    assert again.results["summary"] == found["summary"]
    assert again.reused == 2 * 2 * (len(names) + 4)
    kept = [path for path in tmp_path.rglob("routers.safetensors") if "joint" in str(path)]
    assert set(load_file(kept[0])) == {"layers.0.weight", "layers.1.weight"}
    report = (tmp_path / "report.html").read_text()
    assert "joint" in report
    assert "three" in report


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"texts": None}, r"problem\.texts"),
        ({"expert": []}, "did you mean 'experts'"),
        ({"experts_per_token": 3}, "experts_per_token"),
        ({"score": "sigmoid"}, r"problem\.score.*no effect with one expert per token"),
        ({"score": "relu", "experts_per_token": 2}, r"problem\.score.*known: sigmoid, softmax"),
        ({"mixed": 1.0}, "mixed"),
        ({"train": 0}, "train"),
        ({"base": None, "experts": (), "texts": None, "dtype": "bfloat16"}, r"problem\.dtype.*float32"),
        ({"base": None, "experts": (), "texts": None, "offload": True}, r"problem\.offload.*in memory"),
        ({"offload": True}, r"problem\.offload.*needs a folder.*problem\.keep"),
        ({"experts": ["one"]}, "experts"),
    ],
)
def test_mistakes_are_named(folders: Path, given: dict[str, Any], match: str) -> None:
    if given.get("experts"):
        given = {"experts": [str(folders / name) for name in given["experts"]]}
    with pytest.raises(InputError, match=match):
        TokenMoEProblem(**{**options(folders), **given})


def test_experts_on_disk_train_the_same_router(folders: Path, tmp_path: Path) -> None:
    plain = TokenMoEProblem(**options(folders))
    offloaded = TokenMoEProblem(**options(folders), keep=str(tmp_path), offload=True)
    assert offloaded.digest() == plain.digest()
    assert sum(buffer.numel() for buffer in offloaded.pool.tail.ffns.buffers() if not buffer.is_meta) == 0
    policies = [fit("softmax_gate", problem, seed=0) for problem in (plain, offloaded)]
    ours, theirs = (problem.evaluate(policies[0], "test") for problem in (plain, offloaded))
    assert np.array_equal(ours.utility, theirs.utility)
    for one, other in zip(*(policy.module.parameters() for policy in policies), strict=True):
        assert one.equal(other)


def test_a_table_and_an_objective_are_refused() -> None:
    with pytest.raises(InputError, match="routes text"):
        TokenMoEProblem("digits")
    with pytest.raises(InputError, match="no weights"):
        TokenMoEProblem(objective=Objective())


def test_other_text_is_another_digest(folders: Path) -> None:
    problems = [TokenMoEProblem(**options(folders)), TokenMoEProblem(**options(folders, train=9))]
    assert problems[0].digest() == TokenMoEProblem(**options(folders)).digest()
    assert problems[0].digest() != problems[1].digest()
    assert problems[0].digest() != TokenMoEProblem(**options(folders, epochs=3)).digest()
    two = [TokenMoEProblem(**options(folders, experts_per_token=2, score=each)) for each in SCORES]
    assert two[0].digest() != two[1].digest()


def test_donors_that_do_not_fit(folders: Path) -> None:
    same = [folders / "one", folders / "one"]
    with pytest.raises(InputError, match="all the same"):
        donor_pool(folders / "base", same, folders / "texts", TextSizes(**SIZES))


@pytest.mark.parametrize(("text", "match"), [("{}", "line 1"), ("[1", "line 1"), ('"a"\n3', "line 2")])
def test_lines_that_are_no_documents(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match="holds no"):
        read_documents(tmp_path)
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(InputError, match=match):
        read_documents(tmp_path)
