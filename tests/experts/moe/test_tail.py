"""The tail is the model's own last layers, and mixes what is chosen and nothing else."""

from __future__ import annotations

import pytest
import torch

from experts import InputError
from experts.moe.frozen_base import Base
from experts.moe.tail import Tail, ffn_weights

TOKENS = torch.arange(14).reshape(2, 7) % 23


def always(*experts, weights=None):
    def choose(layer, x):
        ids = torch.tensor(experts).expand(*x.shape[:-1], -1)
        parts = torch.tensor(weights or [1.0 / len(experts)] * len(experts)).expand(ids.shape)
        return ids, parts

    return choose


def test_equal_experts_are_the_dense_model(base):
    tail = base.tail({"a": base.dense(), "b": base.dense()})
    hidden = base.trunk(TOKENS)
    logits = base.model(input_ids=TOKENS).logits
    for walk in (tail(hidden, always(1)), tail(hidden, always(0, 1)), tail.along(hidden, 0)):
        ours = torch.nn.functional.linear(tail.norm(walk), tail.head)
        torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-5)
    targets = TOKENS.roll(-1, 1)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(tail.loss(walk, targets).flatten(), expected, atol=1e-5, rtol=1e-5)


def test_mix_is_the_weighted_sum_of_the_outputs(base, ffns):
    tail = base.tail(ffns)
    x = torch.randn(2, 5, tail.hidden)
    experts = torch.randint(0, 4, (2, 5, 2))  # 3 is nobody
    weights = torch.rand(2, 5, 2)
    every = torch.cat([tail.outputs(1, x), torch.zeros(2, 5, 1, tail.hidden)], dim=2)
    slow = torch.zeros_like(x)
    for s in range(2):
        for t in range(5):
            for j in range(2):
                slow[s, t] += weights[s, t, j] * every[s, t, experts[s, t, j]]
    torch.testing.assert_close(tail.mix(1, x, experts, weights), slow, atol=1e-5, rtol=1e-5)


def test_the_gradient_reaches_weights_and_inputs(base, ffns):
    tail = base.tail(ffns)
    x = torch.randn(4, tail.hidden, requires_grad=True)
    weights = torch.rand(4, 2, requires_grad=True)
    experts = torch.tensor([[0, 1], [2, 3], [1, 0], [2, 2]])
    tail.mix(0, x, experts, weights).square().sum().backward()
    again_x, again_w = x.detach().requires_grad_(), weights.detach().requires_grad_()
    every = torch.cat([tail.outputs(0, again_x), torch.zeros(4, 1, tail.hidden)], dim=1)
    chosen = every.gather(1, experts.unsqueeze(-1).expand(-1, -1, tail.hidden))
    (chosen * again_w.unsqueeze(-1)).sum(1).square().sum().backward()
    torch.testing.assert_close(x.grad, again_x.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weights.grad, again_w.grad, atol=1e-4, rtol=1e-4)
    assert all(not p.requires_grad for p in tail.parameters())


def test_nobody_everywhere_skips_the_ffn(base, ffns):
    tail = base.tail(ffns)
    x = torch.randn(3, tail.hidden)
    nobody = torch.full((3, 1), tail.experts)
    assert tail.mix(0, x, nobody, torch.ones(3, 1)).eq(0).all()


def test_later_tokens_do_not_reach_back(base, ffns):
    tail = base.tail(ffns)
    changed = TOKENS.clone()
    changed[:, -1] = 1
    one, two = (tail(base.trunk(t), always(0)) for t in (TOKENS, changed))
    torch.testing.assert_close(one[:, :-1], two[:, :-1])
    assert not torch.allclose(one[:, -1], two[:, -1])


def test_bfloat16_is_close(base, ffns):
    hidden = base.trunk(TOKENS)
    full, half = (base.tail(ffns, dtype)(hidden, always(2)) for dtype in (torch.float32, torch.bfloat16))
    assert full.dtype == half.dtype == torch.float32
    assert (full - half).norm() / full.norm() < 0.03


def test_the_fingerprint_sees_any_change(base, ffns):
    tail = base.tail(ffns)
    before = tail.fingerprint()
    assert base.tail(ffns).fingerprint() == before
    tail.ffn(0, 0).gate_proj[0, 0] += 1e-3
    assert tail.fingerprint() != before


def test_mistakes_are_told(base, ffns):
    with pytest.raises(InputError, match="give 2 or more experts"):
        base.tail({"one": ffns["one"]})
    with pytest.raises(InputError, match="give each expert one FFN per layer"):
        base.tail({"one": ffns["one"], "two": ffns["two"][:1]})
    with pytest.raises(InputError, match="use a Llama, Mistral or Qwen model"):
        ffn_weights(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="layers=9: random has 3"):
        Base(base.model, 9, "random")
    with pytest.raises(InputError, match="use a Llama, Mistral or Qwen model"):
        Base(torch.nn.Linear(2, 2), 1, "linear")
    assert isinstance(base.tail(ffns), Tail)


def test_experts_on_disk_give_the_same_outputs_gradients_and_fingerprint(base, ffns, tmp_path):
    here, there = base.tail(ffns), base.tail(ffns, offload=tmp_path)
    assert all(buffer.is_meta for buffer in there.ffns.buffers())
    assert len(list(tmp_path.rglob("*.safetensors"))) == here.depth * here.experts
    assert there.fingerprint() == here.fingerprint()
    hidden = base.trunk(TOKENS)
    for choose in (always(2), always(0, 1)):
        results = []
        for tail in (here, there):
            states = hidden.clone().requires_grad_()
            loss = tail.loss(tail(states, choose), TOKENS.roll(-1, 1)).mean()
            loss.backward()
            results.append((loss.detach(), states.grad))
        for ours, theirs in zip(*results, strict=True):
            assert ours.equal(theirs)
    assert all(buffer.is_meta for buffer in there.ffns.buffers())  # nothing stays in memory


def test_new_experts_are_written_over_old_ones(base, ffns, tmp_path):
    base.tail({"a": ffns["one"], "b": ffns["two"]}, offload=tmp_path)
    again = base.tail({"a": ffns["two"], "b": ffns["three"]}, offload=tmp_path)
    assert again.fingerprint() == base.tail({"a": ffns["two"], "b": ffns["three"]}).fingerprint()


def test_bfloat16_experts_stay_bfloat16_on_disk(base, ffns, tmp_path):
    hidden = base.trunk(TOKENS)
    here, there = (base.tail(ffns, torch.bfloat16, offload) for offload in (None, tmp_path))
    assert here(hidden, always(2)).equal(there(hidden, always(2)))
    assert there.ffn(0, 0).weights()["gate_proj"].dtype == torch.bfloat16
