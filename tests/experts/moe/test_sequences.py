"""What the frozen parts make of text is kept whole, memory-mapped, and split by documents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts import InputError
from experts.moe.branch import BranchRecipe, average, branch
from experts.moe.sequences import Sequences, measure_sequences
from experts.moe.texts import PARTS, mixed_sequences, pack, split_documents
from experts.moe.token_pool import read_ffns, write_ffns


@pytest.fixture(scope="module")
def measured(base, ffns):
    tokens = np.random.default_rng(0).integers(0, 23, (5, 9))
    domain = np.repeat(np.array([0, 1, 2, 0, 1])[:, None], 9, axis=1)
    domain[4, 5:] = 2
    return measure_sequences(base, base.tail(ffns), tokens, domain, batch=2, doing=None)


def test_losses_are_those_of_the_model(base, measured):
    tokens = torch.from_numpy(measured.tokens)
    logits = base.model(input_ids=tokens[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), tokens[:, 1:], reduction="none")
    np.testing.assert_allclose(measured.dense_loss, expected, atol=1e-5)
    assert measured.path_loss.shape == (5, 3, 8)
    assert measured.mixed.tolist() == [False] * 4 + [True]


def test_they_come_back_from_disk_as_a_map(measured, tmp_path):
    measured.save(tmp_path / "train")
    found = Sequences.load(tmp_path / "train")
    assert isinstance(found.hidden, np.memmap)
    rows = torch.tensor([3, 1])
    np.testing.assert_array_equal(found.states(rows), measured.hidden[[3, 1]])
    np.testing.assert_array_equal(found.path_loss, measured.path_loss)
    assert len(found.take(np.array([0, 2]))) == 2
    (tmp_path / "train" / "tokens.npy").unlink()
    with pytest.raises(InputError, match=r"tokens\.npy.*cannot be read .*; measure them again"):
        Sequences.load(tmp_path / "train")


def test_damaged_files_are_refused_without_their_memory(measured, tmp_path):
    measured.save(tmp_path)

    def refused(problem):
        with pytest.raises(InputError, match=problem) as caught:
            Sequences.load(tmp_path)
        assert "\n" not in str(caught.value)

    for content in ("{", "[]", '{"schema_version": 1}', '{"schema_version": 2, "shapes": {}}'):
        (tmp_path / "sequences.json").write_text(content)
        refused("sequences.json': cannot be used")
    measured.save(tmp_path)
    path = tmp_path / "dense_loss.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    refused(r"dense_loss\.npy': cannot be read")
    shape = str(measured.dense_loss.shape)
    large = f"({10**9}, {10**3})"  # 4 TB that the file does not have
    path.write_bytes(whole.replace(shape.encode() + b", }", large.encode() + b", }", 1)[: len(whole)])
    refused(r"dense_loss\.npy': (cannot be read|is not of the shape)")
    np.save(path, np.full_like(measured.dense_loss, np.nan))
    refused("holds losses that are not finite")
    np.save(path, measured.dense_loss.astype(np.int64))
    refused("is of int64")
    np.save(path, measured.dense_loss.ravel())
    refused("is not of the shape that sequences.json says")
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    refused(r"dense_loss\.npy': cannot be read .*[Oo]bject")


def test_a_save_that_is_cut_short_is_not_taken_for_whole(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "experts.moe.sequences.write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        measured.save(tmp_path / "part")
    with pytest.raises(InputError, match="measure them again"):
        Sequences.load(tmp_path / "part")


def test_shapes_must_fit(measured):
    fields = {name: getattr(measured, name) for name in Sequences.__slots__}
    with pytest.raises(InputError, match="tokens"):
        Sequences(**{**fields, "tokens": measured.tokens[:, 1:]})


def test_documents_are_split_whole_and_copies_stay_together():
    documents = [f"document {i}" for i in range(300)] + ["document 7"]
    split = split_documents(documents)
    assert set(split) == set(PARTS)
    assert sorted(d for part in split.values() for d in part) == sorted(set(documents))
    assert split == split_documents(list(reversed(documents))) or {
        part: set(d) for part, d in split.items()
    } == {part: set(d) for part, d in split_documents(list(reversed(documents))).items()}
    assert 120 < len(split["expert"]) < 210


def test_pack_cuts_sequences_within_documents():
    documents = ["abcdefghij" * 3, "k" * 5, "l" * 40]
    rows = pack(documents, lambda text: [ord(c) for c in text], 9, 3, each=2)
    assert rows.shape == (3, 10)
    texts = ["".join(map(chr, row)) for row in rows]
    assert all(any(text in document for document in documents) for text in texts)
    with pytest.raises(InputError, match="use a smaller count or length"):
        pack(documents, lambda text: [ord(c) for c in text], 9, 50)


def test_mixed_sequences_change_their_domain():
    pools = {d: np.full((4, 13), d) for d in range(3)}
    tokens, domain = mixed_sequences(pools, 6, 3, seed=0)
    np.testing.assert_array_equal(tokens, domain)
    assert all(len(set(row)) == 3 for row in domain.tolist())
    assert all((np.diff(row) != 0).sum() == 2 for row in domain)


def test_a_branch_learns_its_text_and_leaves_the_base_alone(base):
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    tokens = torch.arange(60).reshape(6, 10) % 5
    hidden, targets = base.trunk(tokens[:, :-1]), tokens[:, 1:]
    losses: list[float] = []
    ffns = branch(base, hidden, targets, BranchRecipe(learning_rate=1e-2, epochs=10), on_step=losses.append)
    assert len(losses) == 30
    tail = base.tail({"new": ffns, "old": base.dense()})
    new, old = (tail.loss(tail.along(hidden, e), targets).mean() for e in (0, 1))
    assert new < old - 0.5
    assert all(torch.equal(p, before[name]) for name, p in base.model.named_parameters())


def test_a_branch_learns_from_counted_targets_alone(base):
    """The loss is a mean over them, and training with all targets gives another expert."""
    tokens = torch.arange(40).reshape(4, 10) % 5
    hidden, targets = base.trunk(tokens[:, :-1]), tokens[:, 1:].clone()
    targets[:, :6] = -100
    losses: list[float] = []
    masked = branch(base, hidden, targets, BranchRecipe(batch=4), on_step=losses.append)
    tail = base.tail({"dense": base.dense(), "same": base.dense()})
    loss = tail.loss(tail.along(hidden, 0), tokens[:, 1:])
    assert losses[0] == pytest.approx(float(loss[:, 6:].mean()), abs=1e-5)
    whole = branch(base, hidden, tokens[:, 1:], BranchRecipe(batch=4))
    assert not torch.equal(masked[0]["up_proj"], whole[0]["up_proj"])


def test_ffns_come_back_and_average(ffns, tmp_path):
    write_ffns(tmp_path / "ffns.safetensors", ffns, seconds=1.0)
    found = read_ffns(tmp_path / "ffns.safetensors", ["two", "one"])
    assert list(found) == ["two", "one"]
    torch.testing.assert_close(found["two"][1]["up_proj"], ffns["two"][1]["up_proj"])
    with pytest.raises(InputError, match="train them first"):
        read_ffns(tmp_path / "ffns.safetensors", ["four"])
    with pytest.raises(InputError, match="train the experts first"):
        read_ffns(tmp_path / "nothing.safetensors")
    mean = average([ffns["one"], ffns["three"]])
    torch.testing.assert_close(
        mean[0]["down_proj"], (ffns["one"][0]["down_proj"] + ffns["three"][0]["down_proj"]) / 2
    )


def test_damaged_ffns_are_refused(tmp_path):
    path = tmp_path / "ffns.safetensors"
    layer = {f"{part}_proj": torch.ones(2, 2) for part in ("gate", "up", "down")}
    write_ffns(path, {"gpt-4.1": [layer], "two": [layer]})
    assert sorted(read_ffns(path)) == ["gpt-4.1", "two"]  # a name may hold dots
    write_ffns(path, {"one": [{**layer, "up_proj": torch.full((2, 2), float("nan"))}]})
    with pytest.raises(InputError, match=r"experts='one': .*weights that are not finite"):
        read_ffns(path)
    write_ffns(
        path, {"one": [layer, {"gate_proj": torch.ones(2, 2)}, {"gate_proj": torch.ones(2, 2)}, layer]}
    )
    with pytest.raises(InputError, match=r"lacks one\.1\.up_proj"):
        read_ffns(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="cannot be read"):
        read_ffns(path)
