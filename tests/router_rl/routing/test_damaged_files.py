"""Edited and damaged files of routers and policies: one line each, without the memory they ask for."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from json_edits import places, replaced
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from router_rl.exports.policy_files import write_policy
from router_rl.exports.safetensors import write
from router_rl.routing import Router, RouterError, load
from router_rl.routing.digests import digest_of, text_digest
from router_rl.routing.policies.network_policy import NetworkPolicy
from router_rl.routing.safetensors_file import read_safetensors
from router_rl.routing.scorers.tree_scorer import TreeScorer
from router_rl.routing.selection import Hard
from router_rl.routing.text import Group, Length, TextFeatures

FIXTURES = Path(__file__).parents[2] / "fixtures" / "version1"
# Of version 1, whose digest does not cover the description: every edit reaches the checks of the fields.
EDITED = [
    *(f"routers/{name}/router/router.json" for name in ("scorer_conditioned", "scorer_queue", "scorer_knn")),
    *(
        f"routers/{name}/router/router.json"
        for name in ("rule_hierarchical", "rule_scored_relu", "input_group")
    ),
    *(f"policies/{name}/policy/policy.json" for name in ("cascade", "caching")),
]
VALUES: list[Any] = [None, -1, 0, 3, 10**11, 1e300, 2.5, "x", "", [], {}, True, [10**11], [["a"]], ...]


def loads_or_is_refused(folder: Path) -> bool:
    """Whether a folder loads, and then routes; a RouterError has one short line."""
    problem, loaded = "", None
    try:
        loaded = load(folder)
    except RouterError as error:
        problem = str(error)
    assert "\n" not in problem
    assert len(problem) < 700
    if loaded is None:
        return False
    if isinstance(loaded, Router):
        loaded(torch.randn(2, loaded.features), torch.rand(2, loaded.state_size) if loaded.state else None)
        assert json.dumps(loaded.spec(), allow_nan=False)
    else:
        loaded.act(torch.rand(2, loaded.observation_size))
    return True


@pytest.mark.parametrize("name", EDITED)
def test_an_edited_field_is_refused_or_routes(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree((FIXTURES / name).parent, tmp_path / "saved")
    path = folder / Path(name).name
    description = json.loads(path.read_text(encoding="utf-8"))
    edits = [(at, value) for at in places(description) for value in VALUES]
    refused = 0
    for at, value in random.Random(0).sample(edits, 150):
        path.write_text(json.dumps(replaced(description, at, value)))
        refused += not loads_or_is_refused(folder)
    assert refused > 100


@pytest.mark.parametrize("kind", ["router", "policy"])
def test_every_edit_of_a_description_is_noticed(kind: str, make_router, tmp_path: Path) -> None:
    if kind == "router":
        write(make_router("mlp", stateful=True), tmp_path)
    else:
        write_policy(NetworkPolicy(("a", "b"), 2, 3, [2], [4]), tmp_path)
    path = tmp_path / f"{kind}.json"
    description = json.loads(path.read_text())
    load(tmp_path)
    path.write_text(json.dumps(description, sort_keys=True, indent=7))
    load(tmp_path)  # the layout of the text is no edit
    for at in places(description):
        for value in ("another", ...):
            path.write_text(json.dumps(replaced(description, at, value)))
            with pytest.raises(
                RouterError, match=r"schema_version|digest|lacks a usable field|distinct names"
            ):
                load(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100_000, "nests deeper than 64 levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nests deeper than 64 levels"),
        (b'{"a": 1, "a": 2}', "key 'a' twice"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"a": 1e999}', "'1e999', which is not finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "beyond 64 bits"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"a": "\xff"}', "can't decode byte"),
        (b"{'a': 1}", "Expecting property name"),
    ],
)
def test_text_that_is_no_strict_json_is_refused(content: bytes, problem: str, make_router, tmp_path) -> None:
    write(make_router(), tmp_path)
    (tmp_path / "router.json").write_bytes(content)
    with pytest.raises(RouterError, match=problem) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
@pytest.mark.parametrize("name", ["router.json", "router.safetensors"])
def test_a_pipe_is_refused_and_not_read(name: str, make_router, tmp_path: Path) -> None:
    write(make_router(), tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(RouterError, match=rf"{name} cannot be read \(it is not a file\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": [10**11]},
        {"hidden": [10**9, 3]},
        {"experts": 10**9},
        {"inputs": 10**12},
        {"hidden": [2**40] * 2},
        {"hidden": [1] * 100_000},
        {"kind": "trees", "trees": 10**9, "depth": 30},
        {"kind": "knn", "rows": 10**12, "neighbours": 1},
    ],
    ids=str,
)
def test_sizes_beyond_the_file_take_no_memory(change: dict[str, Any], make_router, tmp_path: Path) -> None:
    write(make_router("mlp"), tmp_path)
    path = tmp_path / "router.json"
    description = json.loads(path.read_text())
    description["scorer"] = {**description["scorer"], **change}
    if "kind" in change:
        del description["scorer"]["hidden"]
    description["digest"] = digest_of(description, (tmp_path / "router.safetensors").read_bytes())
    path.write_text(json.dumps(description))
    with pytest.raises(
        RouterError, match=r"router\.safetensors does not fit router\.json: |overflow"
    ) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_depth_that_would_take_forever_is_refused() -> None:
    with pytest.raises(RouterError, match=r"depth=1000000000000 is too deep; use 1 to 30"):
        TreeScorer(2, 2, 1, 10**12)


def test_tensors_that_overlap_are_refused() -> None:
    body = bytes(64)
    entries = {f"{n}": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]} for n in range(3)}
    header = json.dumps(entries).encode()
    with pytest.raises(RouterError, match=r"offsets 0\.\.64 do not follow 64"):
        read_safetensors(len(header).to_bytes(8, "little") + header + body)


def test_a_header_longer_than_the_file_is_refused() -> None:
    with pytest.raises(RouterError, match="header should have 9223372036854775807 bytes, more than the file"):
        read_safetensors((2**63 - 1).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(number: float, make_router, tmp_path: Path) -> None:
    router = make_router("mlp")
    with torch.no_grad():
        router.scorer.layers[1].weight[0, 0] = number
    write(router, tmp_path)
    with pytest.raises(
        RouterError, match=r"layers\.1\.weight holds numbers that are not finite; export again"
    ):
        load(tmp_path)


def test_thresholds_of_trees_may_be_infinite_but_not_nan(tmp_path: Path) -> None:
    scorer = TreeScorer(2, 2, 1, 2)
    write(Router(scorer, Hard(), ("a", "b")), tmp_path)
    load(tmp_path)
    with torch.no_grad():
        scorer.threshold[0, 0] = float("nan")
    write(Router(scorer, Hard(), ("a", "b")), tmp_path)
    with pytest.raises(RouterError, match="threshold holds numbers that are not finite"):
        load(tmp_path)


def test_a_tensor_of_another_dtype_is_refused(make_router, tmp_path: Path) -> None:
    write(make_router(), tmp_path)
    stored = tmp_path / "router.safetensors"
    stored.write_bytes(save({k: v.double() for k, v in load_tensors(stored.read_bytes()).items()}))
    description = json.loads((tmp_path / "router.json").read_text())
    description["digest"] = digest_of(description, stored.read_bytes())
    (tmp_path / "router.json").write_text(json.dumps(description))
    with pytest.raises(RouterError, match=r"is torch\.float64, not torch\.float32"):
        load(tmp_path)


TEXT = ["text_terms", "text_hashed", "text_embedding"]


@pytest.mark.parametrize("name", TEXT)
def test_an_edited_text_pipeline_is_refused_or_routes(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "routers" / name / "router", tmp_path / "saved")
    spec = json.loads((folder / "text.json").read_text(encoding="utf-8"))
    description = json.loads((folder / "router.json").read_text(encoding="utf-8"))
    tensors = (folder / "text.safetensors").read_bytes()
    for at in places(spec):
        for value in (None, -1, 10**11, 1e300, "../model", "/etc", [], {}, [[]], ...):
            edited = json.dumps(replaced(spec, at, value)).encode()
            (folder / "text.json").write_bytes(edited)
            description["text"] = text_digest(edited, tensors)
            (folder / "router.json").write_text(json.dumps(description))
            loads_or_is_refused(folder)


@pytest.mark.parametrize("path", ["/etc/model", "../model", "a/../../model"])
def test_an_embedding_model_outside_the_export_is_refused(path: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "routers" / "text_embedding" / "router", tmp_path / "saved")
    spec = json.loads((folder / "text.json").read_text(encoding="utf-8"))
    next(part for part in spec if part["kind"] == "embedding")["path"] = path
    edited = json.dumps(spec).encode()
    (folder / "text.json").write_bytes(edited)
    description = json.loads((folder / "router.json").read_text(encoding="utf-8"))
    description["text"] = text_digest(edited, (folder / "text.safetensors").read_bytes())
    (folder / "router.json").write_text(json.dumps(description))
    with pytest.raises(RouterError, match=r"text\.json: the embedding model .* is outside .*; export again"):
        load(folder)


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("group", {"values": torch.zeros(2), "shares": torch.zeros(1)}),
        ("group", {"values": torch.zeros(2, 1), "shares": torch.zeros(1, 1)}),
        ("group", {"values": torch.full((2, 1), float("nan")), "shares": torch.zeros(1)}),
        ("group", {"values": torch.zeros(2, 1)}),
        ("terms", {"projection": torch.zeros(2), "offset": torch.zeros(2)}),
        ("terms", {"projection": torch.zeros(2, 3), "offset": torch.zeros(2)}),
        ("terms", {"projection": torch.zeros(0, 3), "offset": torch.zeros(3)}),
        (
            "inferred_group",
            {"values": torch.zeros(1), "projection": torch.zeros(2, 1), "offset": torch.zeros(1)},
        ),
    ],
    ids=str,
)
def test_tensors_of_the_wrong_shape_are_refused(kind: str, tensors: dict[str, torch.Tensor]) -> None:
    terms = {"analyser": "word", "ngram_range": [1, 1]}
    of_kind = {
        "group": {"labels": ["a"]},
        "terms": terms,
        "inferred_group": {"labels": ["a"], "temperature": 1.0, "terms": terms},
    }
    with pytest.raises(RouterError):
        TextFeatures.of([{"kind": kind, **of_kind[kind]}], {f"0.{n}": value for n, value in tensors.items()})


def test_many_groups_take_memory_in_proportion() -> None:
    count = 200_000  # the square of it, as floats, is 149 GiB
    group = Group(
        labels=[str(n) for n in range(count)], values=torch.zeros(count + 1, 0), shares=torch.zeros(count)
    )
    features = TextFeatures([Length(), group])(["a", "b"], ["7", "unknown"])
    assert features.shape == (2, count + 1)
    assert features[0, 1:].nonzero().tolist() == [[7]]
    assert not features[1, 1:].any()
