"""The Triton kernels: on CPU tensors by the interpreter, and compiled for three GPUs that are not there."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from router_rl.routing import RouterError
from router_rl.routing.kernels import Dispatch, Gate, GateRule, Routed, naive, route

from .conftest import RULES, inputs_of
from .test_parity import same, strided

pytest.importorskip("triton", reason="triton is not installed")
triton_path = importlib.import_module("router_rl.routing.kernels.triton_path")
# numpy says of the interpreter what a GPU does not say of the kernels: NaN in a product, exp beyond float32.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # without one, Triton interprets


def by_triton(inputs, rule, **settings):
    """Route on the GPU if there is one; what comes of it on the CPU."""
    there = [None if value is None else value.to(DEVICE) for value in inputs]
    found = route(*there, rule=rule, path="triton", **settings)
    slots = found.dispatch and Dispatch(*(value.cpu() for value in found.dispatch))
    return Routed(*(value.cpu() for value in found[:4]), slots)


def slots_are_the_reference(found, experts):
    for got, expected in zip(found.dispatch, naive.dispatch(found.experts, experts), strict=True):
        assert got.equal(expected)


SIZES = [(name, rows) for name in ("mixtral", "odd_groups") for rows in (0, 1, 2, 63, 64, 65)]
SIZES += [(name, rows) for name in sorted({*RULES} - {"mixtral", "odd_groups"}) for rows in (3, 66)]


@pytest.mark.parametrize(("name", "rows"), [*SIZES, ("qwen3", 130)])
def test_it_is_the_reference(name, rows):
    rule, experts, _ = case = RULES[name]
    inputs = inputs_of(case, rows)
    ids = torch.int32 if rows % 2 else torch.int64
    found = by_triton(inputs, rule, dispatch=True, ids=ids)
    same(found, naive.gate(*inputs, rule))
    slots_are_the_reference(found, experts)
    assert found.experts.dtype == found.dispatch.order.dtype == ids


@pytest.mark.parametrize("scanned", [False, True])
def test_rows_too_many_to_split_the_product(case, scanned, monkeypatch):
    """Blocks of 16 rows, and a histogram that is scanned first or not, as of thousands of rows."""
    monkeypatch.setattr(triton_path, "_SPLIT", 64)
    monkeypatch.setattr(triton_path, "_SCANNED", 0 if scanned else 1000)
    monkeypatch.setattr(triton_path, "_wide_rows", lambda padded: 16)
    inputs = inputs_of(case, 65)
    found = by_triton(inputs, case[0], dispatch=True)
    same(found, naive.gate(*inputs, case[0]))
    slots_are_the_reference(found, case[1])


@pytest.mark.parametrize("rows", [2048, 2049, 4200])
def test_where_the_launches_change(rows):
    """The last rows of a split product, the first of a whole one, and blocks too many to read them all."""
    rule, experts, _ = case = RULES["mixtral"]
    inputs = inputs_of(case, rows)
    found = by_triton(inputs, rule, dispatch=True)
    same(found, naive.gate(*inputs, rule))
    slots_are_the_reference(found, experts)


def test_a_scan_goes_on_after_its_first_blocks():
    """More blocks than a program reads at a time."""
    histogram = torch.randint(0, 5, (600, 37), dtype=torch.int32, device=DEVICE)
    counts = torch.empty(37, dtype=torch.int64, device=DEVICE)
    before = histogram.cumsum(0) - histogram
    total = histogram.sum(0)
    triton_path.placing.scan_kernel[(3,)](histogram, counts, 600, E=37, BE=16, BB=256)
    assert histogram.long().equal(before)
    assert counts.equal(total)


@pytest.mark.parametrize("alive", ["some", "one", "none"])
def test_dead_experts(case, alive):
    inputs = inputs_of(case, 5, alive=alive)
    same(by_triton(inputs, case[0]), naive.gate(*inputs, case[0]))


HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
# The interpreter cannot multiply two matrices of bfloat16; on a GPU they are tried too.
PAIRS = [(HALF, HALF), (HALF, SINGLE), (BRAIN, SINGLE), *([(BRAIN, BRAIN)] if DEVICE == "cuda" else [])]


@pytest.mark.parametrize("rows", [5, 70])
@pytest.mark.parametrize(("of_hidden", "of_weight"), PAIRS)
def test_dtypes(of_hidden, of_weight, rows):
    rule, _, _ = case = RULES["mixtral"]
    hidden, weight, *rest = inputs_of(case, rows)
    expected = naive.gate(hidden, weight, *rest, rule)
    same(by_triton((hidden.to(of_hidden), weight.to(of_weight), *rest), rule), expected)


@pytest.mark.parametrize("rows", [5, 70])
def test_strides(rows):
    rule, _, _ = case = RULES["mixtral"]
    inputs = inputs_of(case, rows)
    expected = naive.gate(*inputs, rule)
    for hidden, weight in zip(strided(inputs.hidden), strided(inputs.weight), strict=True):
        same(by_triton((hidden, weight, *inputs[2:]), rule), expected)


@pytest.mark.parametrize("rows", [1, 20, 64, 65, 150])
def test_hidden_units_split_over_programs_and_what_is_not_asked_for(rows):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randint(-1, 2, (rows, 1000), generator=generator).float()
    weight = torch.randint(-1, 2, (8, 1000), generator=generator).float()
    rule = GateRule(k=2)
    expected = naive.gate(hidden, weight, None, None, None, rule)
    found = by_triton((hidden, weight), rule, logits=False)
    assert found.experts.equal(expected.experts)
    assert found.logits.shape == (0, 8)
    assert found.dispatch is None


LARGEST = GateRule(k=16, groups=8, kept=4)  # as far as sizes go


@pytest.mark.parametrize(
    ("rule", "rows", "experts", "hidden"),
    [(LARGEST, 1, 64, 16_384), (GateRule(k=16, score="sigmoid"), 2, 512, 1000), (LARGEST, 66, 512, 40)],
)
def test_512_experts_16_chosen_and_16384_hidden_units(rule, rows, experts, hidden):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randint(-1, 2, (rows, hidden), generator=generator).float()
    weight = torch.randint(-1, 2, (experts, hidden), generator=generator) / 1024
    correction = torch.rand(experts, generator=generator) / 4
    expected = naive.select(x.double() @ weight.double().t(), correction, None, rule)
    found = by_triton((x, weight, None, correction, None), rule, dispatch=True)
    same(found, expected)
    slots_are_the_reference(found, experts)


GRADIENTS = [("mixtral", rows, False) for rows in (0, 1, 2, 63, 64, 65)]
GRADIENTS += [(name, 13, laid) for name in sorted(RULES) for laid in (False, True)]


@pytest.mark.parametrize(
    ("name", "rows", "laid_otherwise", "alive"),
    [("mixtral", 200, False, "all"), *((*shape, alive) for shape in GRADIENTS for alive in ("all", "some"))],
)
def test_gradients(name, rows, laid_otherwise, alive):
    rule, experts, _ = case = RULES[name]
    hidden, weight, bias, correction, lives = inputs_of(case, rows, alive=alive)
    generator = torch.Generator().manual_seed(1)
    by_weights = torch.randn(rows, rule.k, generator=generator)
    by_logits = torch.randn(rows, experts, generator=generator)
    found = {}
    for path, device in (("torch", "cpu"), ("triton", DEVICE)):
        leaves = [value.to(device, copy=True).requires_grad_() for value in (hidden, weight, bias)]
        rest = [None if value is None else value.to(device) for value in (correction, lives)]
        inputs = [strided(leaves[0])[1], strided(leaves[1])[0], leaves[2]] if laid_otherwise else leaves
        routed = route(*inputs, *rest, rule=rule, path=path)
        loss = (routed.weights * by_weights.to(device)).sum() + (routed.logits * by_logits.to(device)).sum()
        loss.backward()
        found[path] = [leaf.grad.cpu() for leaf in leaves]
    for got, expected in zip(found["triton"], found["torch"], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_equal_calls_give_equal_bits():
    gate = Gate(300, 64, GateRule(k=4, score="sigmoid"), dispatch=True, path="triton").to(DEVICE)
    torch.nn.init.normal_(gate.weight)
    for rows in (33, 80):
        hidden = torch.randn(rows, 300, device=DEVICE)
        with torch.inference_mode():
            first, again = gate(hidden), gate(hidden)
        pairs = zip([*first[:4], *first.dispatch], [*again[:4], *again.dispatch], strict=True)
        assert all(a.equal(b) for a, b in pairs)


def test_what_the_kernels_are_not_made_for():
    for hidden, weight, k, message in [
        (torch.zeros(1, 4), torch.zeros(513, 4), 2, "experts=513 is more than the kernels' 512"),
        (torch.zeros(1, 4), torch.zeros(32, 4), 17, "k=17 is more than the kernels' 16"),
        (torch.zeros(1, 16_385), torch.zeros(2, 16_385), 1, "hidden=16385 is more"),
        (torch.zeros(1, 4).double(), torch.zeros(2, 4), 1, "hidden is torch.float64"),
    ]:
        with pytest.raises(RouterError, match=message):
            route(hidden, weight, rule=GateRule(k=k), path="triton")


def test_kernels_compile_without_spills():
    """Compute capability 9.0 and one gate; `cubins.py` alone compiles every gate for three GPUs."""
    program = Path(__file__).parents[4] / "benchmarks" / "cubins.py"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(program), "--gates", "[qwen3]", "--capabilities", "[90]"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=environment | {"PYTHONPATH": str(program.parents[1])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    print(done.stdout)
    products = ["split_kernel 1", "split_kernel 64", "split_kernel 1024", "gate_kernel 16384"]
    kernels = [*products, "scan_kernel", "place_kernel", "backward_kernel"]
    assert [row["kernel"].split(maxsplit=1)[1] for row in found] == kernels
    assert {row["capability"] for row in found} == {90}
    for row in found:
        assert row["spilled"] == 0, row
        assert 0 < row["registers"] <= 255
        assert row["shared"] <= 163 * 1024  # what a program may have at compute capability 8.0
        if "split_kernel 1024" in row["kernel"] or "gate_kernel" in row["kernel"]:
            assert row["wgmma"] > 0, row  # a Hopper's product of a warp group
