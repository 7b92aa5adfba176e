"""The token-level problem on a user's prompts: its score, its digest, padding, and methods on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture_folders import write_mixture

from experts import InputError
from experts.moe.answer_folders import write_answer_folders
from experts.moe.decoding import greedy
from router_rl import TokenMoEProblem
from router_rl.methods.fit import fit
from router_rl.methods.registry import find_method
from router_rl.methods.token_moe.answer_bounds import constant
from router_rl.methods.token_moe.answer_rollouts import roll_out, routed
from router_rl.methods.token_moe.grpo import replay_loss
from router_rl.methods.token_moe.own_gates import own_gates
from router_rl.methods.token_moe.right_answers import right_answers
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.problem import LayerPolicy
from router_rl.problems.token_moe.token_answers import answer, prompts_of
from router_rl.routing import Hard

TASKS = ("reverse", "sort", "sums")
SCORER = """def score(prompt, reference, answer):
    return {}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folders of the packaged models; every second prompt is shorter, without its note."""
    home = tmp_path_factory.mktemp("prompts") / "models"
    write_answer_folders(home, train=8, validation=8, test=8)
    path = home / "prompts.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows[::2]:
        row["prompt"] = row["prompt"][-20:]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return home


def problem_of(home: Path, **options: Any) -> TokenMoEProblem:
    given = {
        "base": str(home / "base"),
        "experts": tuple(str(home / name) for name in TASKS),
        "prompts": str(home / "prompts.jsonl"),
        "length": 40,
        "train": 12,
        "validation": 12,
        "test": 18,
        "epochs": 1,
    }
    return TokenMoEProblem(**{**given, **options})


@pytest.fixture(scope="module")
def problem(home: Path) -> TokenMoEProblem:
    return problem_of(home)


def random_routers(problem: TokenMoEProblem) -> LayerRouters:
    tail = problem.pool.tail
    made = LayerRouters(tail.depth, tail.hidden, Hard(), tail.names)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    return made


def test_padded_prompts_are_answered_as_each_is_alone(problem: TokenMoEProblem) -> None:
    part, routers = problem.pool.parts["test"], random_routers(problem)
    prompts = prompts_of(problem.pool, part, torch.arange(len(part)))
    assert prompts.start is not None
    assert sorted(set(prompts.start.tolist())) == [0, 12]
    together, alone = (answer(problem.pool, part, routers.choose, batch=size) for size in (128, 1))
    assert torch.equal(together.tokens, alone.tokens)
    np.testing.assert_array_equal(together.counts, alone.counts)
    np.testing.assert_array_equal(together.passes, (part.prompt + 3) * 3)
    assert together.compute.tolist() == [1.0] * len(part)


def test_utility_is_the_score_by_group(problem: TokenMoEProblem) -> None:
    assert problem.texts == problem.pool.domains == TASKS
    assert problem.included == ("best_single", "random", "label")
    found = problem.evaluate(LayerPolicy(choose=constant(1)), "test")
    assert found.facts["right/sort"] > 0.8
    assert found.facts["right/sums"] < 0.5
    assert problem.describe().utility == "right answers"
    bound: Any = find_method("token_moe", "label")
    assert bound.measure(problem, problem.case, "test").utility.mean() > 0.8


def test_an_expert_may_have_no_prompts(home: Path, tmp_path: Path) -> None:
    """As a general expert has none: it is an expert like the others, and figures leave it out."""
    rows = [json.loads(line) for line in (home / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    some = tmp_path / "some.jsonl"
    some.write_text(
        "".join(json.dumps(row) + "\n" for row in rows if row["group"] != "sums"), encoding="utf-8"
    )
    found = problem_of(home, prompts=str(some), test=12)
    routers = random_routers(found)
    (figure,) = found.figures(LayerPolicy(choose=routers.choose, routers=routers), found.case)
    assert figure.data["texts"] == ["reverse", "sort"]
    np.testing.assert_allclose(np.sum(figure.data["shares"], axis=-1), 1.0)
    assert all(np.isfinite(list(found.evaluate(LayerPolicy(choose=routers.choose), "test").facts.values())))


def test_a_padded_token_has_no_part_in_reward_and_loss(problem: TokenMoEProblem) -> None:
    """What is measured of a batch is the mean of its prompts, each alone, weighted by their tokens."""
    pool, routers = problem.pool, random_routers(problem)
    part, rows = pool.parts["train"], torch.arange(6)
    made = routed(pool, routers, prompts_of(pool, part, rows), greedy, None)
    assert made.real is not None
    old = [
        routers.rule.log_prob(routers.logits(k, x), made.actions[k]).detach() for k, x in enumerate(made.x)
    ]
    advantage = torch.linspace(-1.0, 1.0, 6)
    anchor = random_routers(problem)
    with torch.no_grad():
        for parameter in anchor.parameters():
            parameter.mul_(0.5)
    found = replay_loss(routers, anchor, made, old, advantage, kl=0.3)
    total, count = torch.zeros(()), 0
    for row in rows.tolist():
        single = routed(pool, routers, prompts_of(pool, part, rows[row : row + 1]), greedy, None)
        assert torch.equal(single.experts.squeeze(1), made.experts[:, row][:, made.real[row]])
        own = [o[row : row + 1][:, made.real[row]] for o in old]
        loss = replay_loss(routers, anchor, single, own, advantage[row : row + 1], kl=0.3)
        total, count = total + loss * single.x.shape[2], count + single.x.shape[2]
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=1e-4)
    free, charged = (
        roll_out(pool, routers, rows, greedy, torch.Generator().manual_seed(0), {"compute": weight}).reward
        for weight in (0.0, 0.25)
    )
    torch.testing.assert_close(free - charged, torch.full((6,), 0.25))  # one expert a token and layer


def test_the_load_is_that_of_the_real_tokens(problem: TokenMoEProblem) -> None:
    pool, routers, rows = problem.pool, random_routers(problem), torch.arange(6)
    free, charged = (
        roll_out(pool, routers, rows, greedy, torch.Generator().manual_seed(0), {"load": weight})
        for weight in (0.0, 1.0)
    )
    real = charged.routed.real
    assert real is not None
    loads = [torch.bincount(layer[real].flatten(), minlength=3) for layer in charged.routed.experts]
    wanted = np.mean([3 * float((n / n.sum()).square().sum()) - 1 for n in loads])
    own = real.sum(dim=1) / real.sum()
    assert float(((free.reward - charged.reward) * own).sum()) == pytest.approx(wanted, abs=1e-5)


def test_right_answers_of_prompts_of_several_lengths(problem: TokenMoEProblem) -> None:
    tail = problem.pool.tail
    even = LayerRouters(tail.depth, tail.hidden, Hard(), tail.names)  # each generation runs one expert
    kept = right_answers(problem.pool, even, 8, seed=0)
    assert 0 < len(kept.targets) <= 12
    assert ((kept.targets >= 0).sum(dim=1) == 4).all()
    assert len({int((row >= 0).int().argmax()) for row in kept.targets}) == 2


def test_the_digest_is_of_the_prompts_and_of_the_scorer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few: dict[str, Any] = {"train": 3, "validation": 4, "test": 3}
    first = problem_of(home, **few).digest()
    assert problem_of(home, **few, scorer="numeric").digest() != first
    assert problem_of(home, **few, answer_tokens=4).digest() == first
    Path("mine_one.py").write_text(SCORER.format("0.5"), encoding="utf-8")
    own = problem_of(home, **few, scorer="mine_one:score")
    assert own.evaluate(LayerPolicy(choose=constant(0)), "test").utility.tolist() == [0.5] * 3
    before = own.digest()
    Path("mine_one.py").write_text(SCORER.format("0.25"), encoding="utf-8")
    assert own.digest() != before


@pytest.mark.slow
def test_the_gates_of_an_existing_mixture_learn_from_prompts(tmp_path: Path) -> None:
    model = write_mixture(tmp_path / "model", "mixtral")
    rows = [{"prompt": f"w{row} w{(row * 3) % 23} w{row // 23}", "reference": "w5"} for row in range(60)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    problem = TokenMoEProblem(
        model=str(model), prompts=str(path), length=8, train=12, validation=6, test=6, epochs=1
    )
    assert problem.included == ("own_gates", "random")
    assert "names of experts" in str(find_method("token_moe", "label").refuses(problem))
    before, tail = own_gates(problem).pairs(), problem.pool.tail.fingerprint()
    policy = fit("grpo", problem, hyperparameters={"iterations": 2, "prompts": 4, "group": 4})
    assert policy.routers.rule == problem.selection
    assert problem.pool.tail.fingerprint() == tail
    for (one, _), (two, _) in zip(own_gates(problem).pairs(), before, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"texts": "texts"}, r"problem\.texts='texts'.*beside problem\.prompts"),
        ({"prompts": None, "texts": None}, r"problem\.texts=None is missing|problem\.texts.*is missing"),
        (
            {"prompts": None, "texts": "texts", "scorer": "numeric"},
            r"problem\.scorer=.*without problem\.prompts",
        ),
        ({"scorer": "exact"}, r"scorer='exact'"),
        ({"pool": "answers", "base": None, "experts": ()}, r"problem\.prompts=.*packaged pool"),
        ({"prompts": "none.jsonl"}, r"none\.jsonl"),
    ],
)
def test_mistakes_are_named(home: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        problem_of(home, **options)
