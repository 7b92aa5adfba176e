from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from experts import Expert, ExpertPool, InputError


def pool(seed=0, classes=3, names=("a", "b"), width=4):
    generator = torch.Generator().manual_seed(seed)
    experts = []
    for place, name in enumerate(names):
        layers = nn.Sequential(nn.Linear(width, classes), nn.BatchNorm1d(classes), nn.Dropout(0.5))
        with torch.no_grad():
            layers[0].weight.copy_(torch.randn(classes, width, generator=generator))
        experts.append(Expert(name, layers, cost=10.0**place))
    return ExpertPool(experts)


def test_experts_are_frozen_from_the_start():
    made = pool()
    for expert in made.experts:
        assert not expert.module.training
        assert not any(module.training for module in expert.module.modules())
        assert not any(parameter.requires_grad for parameter in expert.module.parameters())


def test_run_agrees_with_each_module_and_any_batch_size():
    made, inputs = pool(), torch.randn(11, 4, generator=torch.Generator().manual_seed(1))
    logits = made.run(inputs)
    assert logits.shape == (11, 2, 3)
    assert logits.dtype == torch.float32
    assert not logits.is_inference()
    for place, expert in enumerate(made.experts):
        torch.testing.assert_close(logits[:, place], expert.module(inputs))
    for size in (1, 2, 11, 100):
        torch.testing.assert_close(made.run(inputs, batch_size=size), logits)


def test_use_changes_no_bit():
    made = pool()
    before = made.fingerprint()
    inputs = torch.randn(8, 4)
    head = nn.Linear(3, 1)
    loss = head(made.run(inputs)).sum()
    loss.backward()
    torch.optim.SGD(head.parameters(), 0.1).step()
    made.profile(inputs)
    assert made.fingerprint() == before


@pytest.mark.parametrize("place", ["0.weight", "1.running_mean", "1.num_batches_tracked"])
def test_the_fingerprint_sees_every_parameter_and_buffer(place):
    made = pool()
    before = made.fingerprint()
    with torch.no_grad():
        made.experts[1].module.state_dict()[place].view(-1)[0] += 1
    assert made.fingerprint() != before


def test_names_and_costs():
    made = pool()
    assert made.names == ("a", "b")
    assert len(made) == 2
    assert made.costs.tolist() == [1.0, 10.0]


def test_measured_experts_cost_their_flops():
    expert = Expert.measured("a", nn.Linear(4, 3), torch.zeros(5, 4))
    assert expert.cost == 2 * 4 * 3
    assert expert.profile.parameters == 15
    assert set(pool().profile(torch.zeros(1, 4))) == {"a", "b"}


def test_weights_survive_a_round_trip(tmp_path):
    made, other = pool(seed=0), pool(seed=1)
    assert made.fingerprint() != other.fingerprint()
    path = tmp_path / "pool.safetensors"
    made.save(path)
    other.load(path)
    assert made.fingerprint() == other.fingerprint()


def test_tied_weights_can_be_saved(tmp_path):
    shared = nn.Linear(3, 3)
    made = ExpertPool([Expert("a", nn.Sequential(shared, shared), 1.0), Expert("b", nn.Linear(3, 3), 1.0)])
    made.save(tmp_path / "pool.safetensors")
    made.load(tmp_path / "pool.safetensors")


def test_weights_of_another_pool_are_refused(tmp_path):
    path = tmp_path / "pool.safetensors"
    with pytest.raises(InputError, match="no such file"):
        pool().load(path)
    pool().save(path)
    with pytest.raises(InputError, match=r"experts=\['a', 'b'\]: .* belongs to another pool.*'c'"):
        pool(names=("a", "c")).load(path)
    with pytest.raises(InputError, match="other shapes"):
        pool(width=5).load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="is not a safetensors file"):
        pool().load(path)


def test_changed_weights_are_refused(tmp_path):
    made, path = pool(), tmp_path / "pool.safetensors"
    settings = {"experts": list(made.names), "fingerprint": made.fingerprint()}
    state = {f"{e.name}/{k}": v + 1 for e in made.experts for k, v in e.module.state_dict().items()}
    save_file(state, path, metadata={"router_rl": json.dumps(settings)})
    with pytest.raises(InputError, match="fingerprint does not match"):
        made.load(path)
    assert made.fingerprint() == settings["fingerprint"]  # a bad file changes nothing
    other = pool()
    for expert in other.experts:
        expert.module.double()
    other.save(path)
    with pytest.raises(InputError, match="other shapes or dtypes"):
        made.load(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpertPool([Expert("a", nn.Identity(), 1.0)]), r"experts=\['a'\]: routing needs a choice"),
        (lambda: pool(names=("a", "a")), "experts='a': occurs twice"),
        (lambda: Expert("", nn.Identity(), 1.0), "name='': an expert needs one"),
        (lambda: Expert("a", nn.Identity(), -1.0), "cost=-1.0: expert 'a' needs a finite cost >= 0"),
        (lambda: Expert("a", nn.Identity(), float("nan")), "cost=nan"),
        (lambda: pool().run(torch.zeros(0, 4)), "inputs=.*is empty"),
        (lambda: pool().run(torch.zeros(1, 4), batch_size=0), "batch_size=0: is below 1"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_experts_must_answer_the_same_question():
    mixed = ExpertPool([Expert("a", nn.Linear(4, 3), 1.0), Expert("b", nn.Linear(4, 2), 1.0)])
    with pytest.raises(InputError, match="outputs differ in shape"):
        mixed.run(torch.zeros(2, 4))


def test_a_module_without_parameters_is_an_expert():
    plain = ExpertPool([Expert("a", nn.Identity(), 0.0), Expert("b", nn.Identity(), 0.0)])
    assert plain.run(torch.ones(2, 3)).shape == (2, 2, 3)
