"""A policy is exported like a router: written, loaded again, compared on random observations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experts import InputError
from router_rl.exports import export, policy_files
from router_rl.exports.policy_files import random_observations, write_policy
from router_rl.routing import RouterError, load
from router_rl.routing.policies.caching_policy import CachingPolicy
from router_rl.routing.policies.cascade_beliefs import Beliefs
from router_rl.routing.policies.cascade_policy import CascadePolicy
from router_rl.routing.policies.network_policy import NetworkPolicy
from router_rl.routing.policies.session_policy import SessionPolicy
from router_rl.routing.text import Length, Terms, TextFeatures

NAMES = ("small", "medium", "large")


def made(kind: str, seed: int = 0) -> Any:
    """A policy of 4 features and 3 experts with random weights."""
    beliefs, later = Beliefs(4, 3, 2, 5), Beliefs(4, 3, 2, 5)
    policy: Any
    if kind == "cascade":
        policy = CascadePolicy(NAMES, 4, 2, [0.1, 0.4, 1.0], beliefs, members=2, hidden=6)
    elif kind == "network":
        policy = NetworkPolicy(NAMES, 4, 9, (3, 3), (6,))
        policy.valid_columns[5:8, :3] = torch.eye(3, dtype=torch.bool)
    elif kind == "session":
        policy = SessionPolicy(NAMES, 4, beliefs, later, hidden=6)
    else:
        policy = CachingPolicy(NAMES, 4, [0.01, 0.02, 0.1], [[1.0, 2.0, 4.0]] * 2, beliefs, later)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(generator=generator)
    return policy


@pytest.mark.parametrize("kind", ["cascade", "caching", "network", "session"])
def test_a_policy_acts_as_before_after_its_export(kind: str, tmp_path: Path) -> None:
    policy = made(kind)
    parity = export(policy, tmp_path / "out")
    assert parity.passed
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert written == {
        "format": "safetensors",
        "rows_from": "random",
        "rows": 1000,
        "action_agreement": 1.0,
        "passed": True,
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".router_rl.json",
        "README.md",
        "parity.json",
        "policy.json",
        "policy.safetensors",
    ]
    loaded: Any = load(tmp_path / "out")
    observations = random_observations(policy)
    actions = policy.act(observations)
    assert len(actions.unique(dim=0)) >= 3  # the comparison sees several actions
    assert loaded.act(observations).equal(actions)
    assert loaded.start(None) is None


@pytest.mark.parametrize("kind", ["cascade", "caching", "network", "session"])
def test_the_readme_acts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = made(kind)
    export(policy, tmp_path / "out")
    block = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {"observation": random_observations(policy, 8)}
    exec(compile(block, "README.md", "exec"), names)
    assert names["actions"].equal(policy.act(names["observation"]))


def reading_prompts(kind: str, offset: float = 0.0) -> Any:
    """A policy whose 4 features are made of prompts: three columns of hashed words, and the length."""
    projection = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    words = Terms(analyser="word", ngram_range=(1, 1), projection=projection, offset=torch.full((3,), offset))
    policy = made(kind)
    policy.text = TextFeatures([words, Length()])
    return policy


@pytest.mark.parametrize("kind", ["cascade", "caching", "network", "session"])
def test_a_policy_keeps_its_text_pipeline(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = reading_prompts(kind, offset=0.5)
    export(policy, tmp_path / "out")
    loaded: Any = load(tmp_path / "out")
    prompts = ["a word and another", ""]
    assert loaded.text(prompts).equal(policy.text(prompts))
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["text"] == {
        "prompts_from": "synthetic",
        "max_difference": 0.0,
    }
    block = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {"observation": random_observations(policy, 8)}
    exec(compile(block, "README.md", "exec"), names)
    assert names["features"].equal(policy.text(["a prompt"]))

    other = tmp_path / "other"
    export(reading_prompts(kind), other)
    (tmp_path / "out" / "text.safetensors").write_bytes((other / "text.safetensors").read_bytes())
    with pytest.raises(RouterError, match=r"policy\.json says .* export the policy again"):
        load(tmp_path / "out")


@pytest.mark.parametrize("lost", [True, False])
def test_a_policy_that_makes_other_features_is_refused(
    lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from router_rl.exports import export_folder

    def writes_another(policy: Any, folder: Path) -> None:
        write_policy(made("cascade") if lost else reading_prompts("cascade", offset=1e-3), folder)

    monkeypatch.setattr(export_folder, "write_policy", writes_another)
    with pytest.raises(RouterError, match="no text pipeline" if lost else "features of prompts differ"):
        export(reading_prompts("cascade"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_is_written_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from router_rl.exports import export_folder

    def writes_another(policy: Any, folder: Path) -> None:
        write_policy(made("cascade", seed=1), folder)

    monkeypatch.setattr(export_folder, "write_policy", writes_another)
    with pytest.raises(RouterError, match="the exported policy does not agree"):
        export(made("cascade"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"format='onnx': does not support a cascade policy"):
        export(made("cascade"), tmp_path / "out", format="onnx")
    with pytest.raises(
        RouterError, match="object cannot be exported; use a Router, caching, cascade, network, session"
    ):
        export(object(), tmp_path / "out")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_observations_hold_zeros_and_rows_that_are_not_finite() -> None:
    observations = policy_files.random_observations(made("caching"), 50)
    assert observations.shape == (50, 19)
    assert 0.3 < float((observations[:-2] == 0).float().mean()) < 0.7
    assert not observations[-2:].isfinite().all(dim=1).any()
