from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as library_load
from safetensors.torch import save

from router_rl.exports.safetensors import write
from router_rl.routing import Hard, RouterError, TopK, load
from router_rl.routing.digests import digest_of
from router_rl.routing.safetensors_file import read_safetensors
from router_rl.routing.storage import router_from_spec

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SHAPES = [(3, 5), (7,), (1, 1, 1), (), (0,), (2, 0, 3)]


@pytest.fixture
def folder(make_router, tmp_path):
    """Return the folder of an exported router with a state."""
    write(make_router("mlp", TopK(k=2), stateful=True, fallback=2), tmp_path / "router")
    return tmp_path / "router"


def edit(folder, **changes):
    """Change fields of router.json; a field set to `...` is removed."""
    path = folder / "router.json"
    description = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in description.items() if value is not ...}))


def describe(folder, **changes):
    """Change fields of router.json, and make the digest theirs."""
    edit(folder, **changes)
    description = json.loads((folder / "router.json").read_text())
    edit(
        folder, **{"digest": digest_of(description, (folder / "router.safetensors").read_bytes()), **changes}
    )


def rewrite(folder, weights):
    """Replace the weights, and make the digest theirs."""
    (folder / "router.safetensors").write_bytes(weights)
    describe(folder)


def header_of(**entries):
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("rule", [Hard(), TopK(k=2), TopK(k=4)], ids=lambda rule: f"{rule.name}{rule.k}")
@pytest.mark.parametrize("kind", ["linear", "mlp", "constant"])
def test_a_router_read_back_is_the_router_written(make_router, tmp_path, kind, rule, stateful):
    router = make_router(kind, rule, stateful=stateful, fallback=2)
    write(router, tmp_path)
    again = load(tmp_path)
    assert again.spec() == router.spec()
    assert again.state == router.state
    assert not again.training
    inputs = [torch.randn(40, 5)] + ([torch.rand(40, 4)] if stateful else [])
    inputs[0][3, 1] = float("nan")
    with torch.inference_mode():
        expected, found, unfolded = router.folded()(*inputs), again(*inputs), router(*inputs)
    for wanted, got in zip(expected, found, strict=True):
        assert got.equal(wanted)
    torch.testing.assert_close(found.logits, unfolded.logits, atol=1e-5, rtol=1e-5)


def test_a_stochastic_router_draws_alike(make_router, tmp_path):
    router = make_router("constant", stochastic=True)
    write(router, tmp_path)
    again = load(str(tmp_path))
    features = torch.zeros(100, 5)
    torch.manual_seed(5)
    expected = router(features).experts
    torch.manual_seed(5)
    assert again(features).experts.equal(expected)


def test_loading_twice_shares_nothing(folder):
    first, second = load(folder), load(folder)
    with torch.no_grad():
        first.scorer.layers[0].weight.add_(1.0)
    assert not first.scorer.layers[0].weight.equal(second.scorer.layers[0].weight)
    assert load(folder).scorer.layers[0].weight.equal(second.scorer.layers[0].weight)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_the_reader_agrees_with_the_library(name):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"tensor {shape}": (100 * torch.randn(shape, generator=generator)).abs().to(DTYPES[name])
        for shape in SHAPES
    }
    if DTYPES[name].is_floating_point:
        tensors["odd"] = torch.tensor([float("inf"), -float("inf"), -0.0, 1e-7]).to(DTYPES[name])
    content = save(tensors, metadata={"format": "pt"})
    found, expected = read_safetensors(content), library_load(content)
    assert found.keys() == expected.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found[key].dtype == expected[key].dtype == DTYPES[name]
        assert found[key].shape == tensor.shape
        assert found[key].equal(expected[key])
        assert found[key].equal(tensor)


def test_the_reader_takes_a_file_without_tensors():
    assert read_safetensors(save({})) == {}


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=60), length=st.integers(0, 80))
def test_arbitrary_bytes_are_refused(content, length):
    for candidate in (content, length.to_bytes(8, "little") + content):
        try:
            read_safetensors(candidate)
        except RouterError:
            continue
        assert candidate[8:].strip().startswith(b"{")


def test_a_file_truncated_anywhere_is_refused():
    content = save({"weight": torch.randn(2, 3), "bias": torch.randn(2)})
    for length in range(len(content)):
        with pytest.raises(RouterError, match="not a readable safetensors file"):
            read_safetensors(content[:length])


@pytest.mark.parametrize(
    "entry",
    [
        {},
        None,
        [],
        "F32",
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [1], "data_offsets": None},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [0, -1], "data_offsets": [0, 0]},
        {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_is_refused(entry):
    with pytest.raises(RouterError, match="not a readable safetensors file"):
        read_safetensors(header_of(weight=entry) + bytes(8))


@pytest.mark.parametrize("header", [b"[]", b"{", b"3", b"null", b"\xff\xfe"])
def test_a_corrupt_header_is_refused(header):
    with pytest.raises(RouterError, match="not a readable safetensors file"):
        read_safetensors(len(header).to_bytes(8, "little") + header + bytes(8))


@pytest.mark.parametrize("name", ["router.json", "router.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(RouterError, match=rf"{name} cannot be read \(No such file.*\); .*export"):
        load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(
        RouterError, match=r"nowhere.router\.json cannot be read .*; give the folder of an export"
    ):
        load(tmp_path / "nowhere")


def test_changed_weights_are_noticed(folder):
    path = folder / "router.safetensors"
    content = path.read_bytes()
    for changed in (content[:-5], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(changed)
        with pytest.raises(
            RouterError, match=r"has digest sha256:\w+ but .* sha256:\w+; .*export the router again"
        ):
            load(folder)


def test_changed_expert_names_are_noticed(folder):
    edit(folder, experts=["medium", "small", "large", "code"])
    with pytest.raises(RouterError, match="not from one export: export the router again"):
        load(folder)


def test_a_truncated_file_with_a_fitting_digest_is_refused(folder):
    rewrite(folder, (folder / "router.safetensors").read_bytes()[:-5])
    with pytest.raises(
        RouterError, match=r"router\.safetensors.* not a readable safetensors file .*export .*again"
    ):
        load(folder)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"weight": torch.zeros(4, 9), "bias": torch.zeros(4)},
        {"shift": torch.zeros(9), "scale": torch.ones(9), "layers.0.weight": torch.zeros(2, 2)},
    ],
    ids=["empty", "linear", "wrong-shape"],
)
def test_weights_of_another_scorer_are_refused(folder, tensors):
    rewrite(folder, save(tensors))
    with pytest.raises(RouterError, match=r"router\.safetensors does not fit router\.json"):
        load(folder)


@pytest.mark.parametrize("version", [0, 3, "1", 1.0, True, None, ...])
def test_another_schema_version_is_refused(folder, version):
    describe(folder, schema_version=version)
    shown = repr(None if version is ... else version)
    with pytest.raises(
        RouterError, match=rf"schema_version {shown}; this release reads 1 and 2: export again, or"
    ):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b'"router"'])
def test_a_description_that_is_no_object_is_refused(folder, content):
    (folder / "router.json").write_bytes(content)
    with pytest.raises(RouterError, match=r"router\.json is not .*; export the router again"):
        load(folder)


@pytest.mark.parametrize("value", [..., None, -1, 2.5, "tree", [1], {"a": 1}], ids=str)
@pytest.mark.parametrize("field", ["experts", "scorer", "select", "state", "fallback", "digest"])
def test_a_broken_field_is_a_router_error(folder, field, value):
    describe(folder, **{field: value})
    with pytest.raises(RouterError):
        load(folder)


def test_a_missing_choice_between_drawing_and_choosing_is_refused(folder):
    describe(folder, stochastic=...)
    with pytest.raises(
        RouterError, match=r"router\.json lacks a usable field \(stochastic is missing\); export again"
    ):
        load(folder)


@pytest.mark.parametrize(
    "scorer",
    [
        {"kind": "mlp", "inputs": -1, "experts": 4},
        {"kind": "mlp", "inputs": "9", "experts": 4},
        {"kind": "mlp", "inputs": 9, "experts": 4, "hidden": 7},
        {"kind": "mlp", "inputs": 9, "experts": 4, "hidden": ["a"]},
        {"kind": ["mlp"], "inputs": 9, "experts": 4},
        {"kind": "mlp", "inputs": 9, "experts": 4, "depth": 2},
    ],
    ids=str,
)
def test_a_broken_scorer_is_a_router_error(folder, scorer):
    describe(folder, scorer=scorer)
    with pytest.raises(RouterError):
        load(folder)


def test_spec_round_trip_without_files(make_router):
    router = make_router("mlp", TopK(k=3), stateful=True, fallback=1, stochastic=True)
    again = router_from_spec(json.loads(json.dumps(router.spec())))
    assert again.spec() == router.spec()
    again.load_state_dict(router.state_dict())
    features, state = torch.randn(6, 5), torch.rand(6, 4)
    assert again.logits(features, state)[0].equal(router.logits(features, state)[0])


def test_a_loaded_router_has_nothing_left_to_standardise(make_router, tmp_path):
    for kind in ("linear", "mlp"):
        router = make_router(kind)
        assert not router.scorer.plain
        write(router, tmp_path / kind)
        loaded = load(tmp_path / kind)
        assert loaded.scorer.plain
        features = torch.randn(9, 5)
        torch.testing.assert_close(loaded(features).logits, router(features).logits, atol=1e-4, rtol=1e-4)
        # Written again, and folded again, it is the same to the bit.
        write(loaded, tmp_path / "again")
        assert (tmp_path / "again" / "router.safetensors").read_bytes() == (
            tmp_path / kind / "router.safetensors"
        ).read_bytes()
