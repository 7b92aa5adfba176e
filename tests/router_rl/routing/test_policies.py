"""Routers and policies share one protocol, and `load` reads both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from router_rl.exports.policy_files import write_policy
from router_rl.exports.safetensors import write
from router_rl.routing import (
    POLICIES,
    AdaptiveK,
    Hard,
    Router,
    RouterError,
    Selection,
    TopK,
    load,
    load_router,
)
from router_rl.routing.digests import digest_of, digest_of_schema_1
from router_rl.routing.policies.cascade_beliefs import Beliefs
from router_rl.routing.policies.cascade_policy import CascadePolicy
from router_rl.routing.safetensors_file import read_safetensors


def cascade() -> CascadePolicy:
    policy = CascadePolicy(("a", "b"), 2, 2, [0.1, 1.0], Beliefs(2, 2, 1, 3), hidden=4)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    return policy


@pytest.mark.parametrize(("rule", "shape"), [(Hard(), (6,)), (TopK(k=1), (6,)), (TopK(k=2), (6, 2))])
def test_a_router_acts(make_router, rule: Selection, shape: tuple[int, ...]) -> None:
    router = make_router(rule=rule, stateful=True)
    features, state = torch.randn(6, 5), torch.rand(6, 4)
    router.start(None)
    actions = router.act(torch.cat([features, state], dim=1))
    assert (actions.dtype, tuple(actions.shape)) == (torch.int64, shape)
    assert actions.reshape(6, -1).equal(router(features, state).experts)


def test_a_router_of_features_ignores_the_state(make_router) -> None:
    router = make_router()
    features = torch.randn(6, 5)
    assert router.act(torch.cat([features, torch.rand(6, 4)], dim=1)).equal(router.act(features))
    with pytest.raises(RouterError, match=r"features must be \[T, 5\], not \[6, 3\]"):
        router.act(features[:, :3])
    with pytest.raises(RouterError, match=r"state must be \[6, 4\]"):
        make_router(stateful=True).act(features)


def test_an_adaptive_router_acts_with_all_its_slots() -> None:
    from router_rl.routing import LinearScorer

    scorer = LinearScorer(2, 4)
    with torch.no_grad():
        scorer.weight.normal_()
    router = Router(scorer, AdaptiveK(k=2), ("a", "b", "c"))
    assert router.act(torch.randn(5, 2)).shape == (5, 2)


def test_load_reads_routers_and_policies(make_router, tmp_path: Path) -> None:
    write(make_router(), tmp_path / "router")
    write_policy(cascade(), tmp_path / "policy")
    assert isinstance(load(tmp_path / "router"), Router)
    assert isinstance(load(tmp_path / "policy"), CascadePolicy)
    assert isinstance(load_router(tmp_path / "router"), Router)
    with pytest.raises(
        RouterError, match=r"policy holds a cascade policy, not a router; load it with .*load$"
    ):
        load_router(tmp_path / "policy")


def test_a_loaded_policy_has_no_gradients(tmp_path: Path) -> None:
    policy = cascade()
    write_policy(policy, tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, CascadePolicy)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    observations = torch.rand(9, policy.observation_size).round()
    assert loaded.act(observations).equal(policy.act(observations))


def test_a_policy_of_version_1_loads(tmp_path: Path) -> None:
    policy = cascade()
    write_policy(policy, tmp_path)
    path = tmp_path / "policy.safetensors"
    tensors = read_safetensors(path.read_bytes())
    tensors["beliefs.told"] = tensors.pop("beliefs.influence")  # its name there
    path.write_bytes(save(tensors))
    spec = json.loads((tmp_path / "policy.json").read_text())
    spec["schema_version"] = 1
    spec["digest"] = digest_of_schema_1(path.read_bytes(), spec["experts"])
    (tmp_path / "policy.json").write_text(json.dumps(spec))
    loaded = load(tmp_path)
    assert isinstance(loaded, CascadePolicy)
    assert loaded.beliefs.influence.equal(policy.beliefs.influence)


def test_broken_policies_are_refused(tmp_path: Path) -> None:
    write_policy(cascade(), tmp_path)
    description = json.loads((tmp_path / "policy.json").read_text())
    for changes, message in (
        (
            {"kind": "tree", "digest": ...},
            "has kind 'tree'; this release reads caching, cascade, network, session",
        ),
        ({"schema_version": 9}, "has schema_version 9; this release reads 1 and 2"),
        ({"experts": ["b", "a"]}, "not from one export: export the policy again"),
        ({"members": 0, "digest": ...}, r"limit=2, members=0 and hidden=4 must each be 1 or more; export"),
        ({"hidden": 99, "digest": ...}, "does not fit policy.json: size mismatch"),
        ({"hidden": "9", "digest": ...}, r"lacks a usable field \(hidden is '9', not a whole number\)"),
    ):
        changed = {**description, **changes}
        if changed["digest"] is ...:
            changed["digest"] = digest_of(changed, (tmp_path / "policy.safetensors").read_bytes())
        (tmp_path / "policy.json").write_text(json.dumps(changed))
        with pytest.raises(RouterError, match=message):
            load(tmp_path)
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(RouterError, match="is not JSON"):
        load(tmp_path)


def test_every_policy_names_its_kind_and_its_observation() -> None:
    for name, policy in POLICIES.items():
        assert policy.kind == name
        assert isinstance(policy.observation_size, property)
