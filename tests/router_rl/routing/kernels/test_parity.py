"""One gate, several paths, one answer: reference, torch, operator, compiled, exported."""

from __future__ import annotations

import pytest
import torch

from router_rl.routing.kernels import (
    Gate,
    GateRule,
    Routed,
    decompositions,
    gather,
    naive,
    route,
    scatter_back,
    torch_path,
)

from .conftest import HIDDEN, ROWS, RULES, Inputs, inputs_of

# torch.export copies a pytree's leaves in a way that its pytree calls deprecated.
OF_TORCH_ITSELF = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
TOLERANCE = {"atol": 2e-6, "rtol": 2e-6}  # of float32 weights


def same(found: Routed, expected: Routed) -> None:
    assert found.experts.long().equal(expected.experts)
    assert found.fallback.equal(expected.fallback)
    torch.testing.assert_close(found.weights.double(), expected.weights.double(), **TOLERANCE)
    torch.testing.assert_close(found.logits.double(), expected.logits.double(), **TOLERANCE)


@pytest.mark.parametrize("rows", ROWS)
def test_torch_is_the_reference(case, rows):
    inputs = inputs_of(case, rows)
    expected = naive.gate(*inputs, case[0])
    same(torch_path.gate(*inputs, case[0]), expected)
    assert int(expected.fallback.sum()) == (rows > 1) + (rows > 2) + (rows > 40)


@pytest.mark.parametrize("alive", ["some", "one", "none"])
def test_dead_experts(case, alive):
    rule = case[0]
    inputs = inputs_of(case, 65, alive=alive)
    assert inputs.alive is not None
    expected = naive.gate(*inputs, rule)
    found = torch_path.gate(*inputs, rule)
    same(found, expected)
    works = inputs.alive[found.experts]
    assert found.weights[~works].eq(0).all()
    assert works.sum(dim=1).eq(min(rule.k, int(inputs.alive.sum()))).all()  # the living come first
    assert all(len(set(row)) == rule.k for row in found.experts.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(case, dtype):
    hidden, weight, bias, correction, _ = inputs_of(case, 64)
    expected = naive.gate(hidden, weight, bias, correction, None, case[0])
    found = torch_path.gate(hidden.to(dtype), weight.to(dtype), bias, correction, None, case[0])
    same(found, expected)
    assert found.weights.dtype == found.logits.dtype == torch.float32


def test_logits_are_not_rounded_to_the_input():
    hidden, weight = torch.randn(5, 300).bfloat16(), torch.randn(8, 300).bfloat16()
    found = torch_path.logits_of(hidden, weight, None)
    torch.testing.assert_close(found.double(), hidden.double() @ weight.double().t(), atol=1e-4, rtol=1e-5)


def strided(value: torch.Tensor) -> list[torch.Tensor]:
    """The same [T, H] with other strides: transposed storage, every other column, an offset."""
    wide = torch.full((value.shape[0], 2 * value.shape[1]), 9.0)
    wide[:, ::2] = value
    shifted = torch.full((value.shape[0] + 3, value.shape[1]), 9.0)
    shifted[3:] = value
    return [value.t().contiguous().t(), wide[:, ::2], shifted[3:]]


@pytest.mark.parametrize("rows", [2, 65])
def test_strides(case, rows):
    inputs = inputs_of(case, rows)
    expected = naive.gate(*inputs, case[0])
    for hidden in strided(inputs.hidden):
        for weight in strided(inputs.weight):
            same(torch_path.gate(hidden, weight, *inputs[2:], case[0]), expected)


def gate_of(case: tuple[GateRule, int, bool], inputs: Inputs, **settings: object) -> Gate:
    gate = Gate(HIDDEN, case[1], case[0], bias=True, correction=case[2], **settings)
    with torch.no_grad():
        gate.weight.copy_(inputs.weight)
        gate.bias.copy_(inputs.bias)
        if case[2]:
            gate.correction.copy_(inputs.correction)
    return gate.eval()


@pytest.mark.parametrize("ids", [torch.int64, torch.int32])
@pytest.mark.parametrize("rows", ROWS[:5])
def test_the_operator(case, rows, ids):
    rule, experts, _ = case
    inputs = inputs_of(case, rows, alive="some")
    weight = inputs.weight.clone().requires_grad_()  # gradients asked for: not in place
    found = route(inputs.hidden, weight, *inputs[2:], rule=rule, ids=ids, dispatch=True)
    assert found.weights.grad_fn is not None or rows == 0
    same(found, naive.gate(*inputs, rule))
    for got, expected in zip(found.dispatch, naive.dispatch(found.experts, experts), strict=True):
        assert got.equal(expected)
        assert got.dtype == ids


# opcheck itself reads the gradient of its copies, which are no leaves.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_the_operator_is_well_formed(case):
    rule, _, _ = case
    inputs = inputs_of(case, 6)
    hidden, weight, bias = inputs[0].nan_to_num(1.0, 1.0, 1.0), inputs[1].clone(), inputs[2].clone()
    for value in (hidden, weight, bias):
        value.requires_grad_()
    settings = (rule.k, rule.score, rule.groups, rule.kept, rule.judged_by, rule.renormalise, rule.scale)
    torch.library.opcheck(
        torch.ops.router_rl.route.default,
        (hidden, weight, bias, *inputs[3:], *settings, rule.fallback, True, True, True, "torch"),
    )


@pytest.mark.slow
def test_gradients_by_differences(case):
    rule, experts, corrected = case
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(experts, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    bias = torch.randn(experts, dtype=torch.float64, generator=generator, requires_grad=True)
    correction = torch.rand(experts, dtype=torch.float64, generator=generator) if corrected else None
    for alive in (None, torch.arange(experts) % 3 > 0):

        def of(hidden, weight, bias, alive=alive):
            routed = route(hidden, weight, bias, correction, alive, rule=rule)
            return routed.weights, routed.logits

        # Of many experts a random projection of the gradient is compared, not each of its elements.
        assert torch.autograd.gradcheck(of, (hidden, weight, bias), fast_mode=experts > 100)


def test_a_row_that_is_not_finite_teaches_nothing(case):
    inputs = inputs_of(case, 65)
    weight = inputs.weight.clone().requires_grad_()
    routed = route(inputs.hidden, weight, *inputs[2:], rule=case[0])
    (routed.weights.sum() + routed.logits.sum()).backward()
    fine = ~routed.fallback
    again = inputs.weight.clone().requires_grad_()
    routed = route(inputs.hidden[fine], again, *inputs[2:], rule=case[0])
    (routed.weights.sum() + routed.logits.sum()).backward()
    torch.testing.assert_close(weight.grad, again.grad, atol=1e-5, rtol=1e-5)


@OF_TORCH_ITSELF
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v2", "deepseek_v3"])
def test_exports_as_plain_torch(name):
    case = RULES[name]
    inputs = inputs_of(case, 65, alive="some")
    gate = gate_of(case, inputs, dispatch=True)
    program = exported(gate, inputs)
    assert "router_rl" not in program.graph_module.code
    module = program.module()
    for rows in (1, 2, 64, 1000):
        hidden = inputs_of(case, rows).hidden
        found = module(hidden, inputs.alive)
        same(Routed(*found[:4]), naive.gate(hidden, *inputs[1:], case[0]))
        for got, expected in zip(found[4:], naive.dispatch(found[1], case[1]), strict=True):
            assert got.equal(expected)


@OF_TORCH_ITSELF
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_exports_as_one_node_that_opens(name):
    case = RULES[name]
    inputs = inputs_of(case, 65)
    program = exported(gate_of(case, inputs, dispatch=True, path="triton"), inputs)
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls.count(torch.ops.router_rl.route.default) == 1
    opened = program.run_decompositions(decompositions())
    assert "router_rl" not in opened.graph_module.code
    same(Routed(*opened.module()(inputs.hidden, None)[:4]), naive.gate(*inputs, case[0]))


class Flat(torch.nn.Module):
    """A plain tuple of tensors, as an exported program returns it."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, hidden, alive):
        *routed, dispatch = self.gate(hidden, alive)
        return (*routed, *dispatch)


def exported(gate: Gate, inputs: Inputs) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    shapes = ({0: rows}, None)
    return torch.export.export(Flat(gate), (inputs.hidden[:3], inputs.alive), dynamic_shapes=shapes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), [("qwen3", "auto"), ("deepseek_v3", "torch")])
def test_compiles_in_one_graph(name, path):
    case = RULES[name]
    inputs = inputs_of(case, 65, alive="some")
    gate = gate_of(case, inputs, path=path)
    compiled = torch.compile(gate, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        same(compiled(inputs.hidden, inputs.alive), naive.gate(*inputs, case[0]))
    learning = compiled(inputs.hidden, inputs.alive)  # with gradients it is the operator
    same(learning, naive.gate(*inputs, case[0]))
    learning.weights.square().sum().backward()
    expected = gate_of(case, inputs)
    expected(inputs.hidden, inputs.alive).weights.square().sum().backward()
    torch.testing.assert_close(gate.weight.grad, expected.weight.grad)


class Layer(torch.nn.Module):
    """A mixture-of-experts layer around a gate: slots sorted, each expert a matrix."""

    def __init__(self, case: tuple[GateRule, int, bool], inputs: Inputs, path: str) -> None:
        super().__init__()
        self.gate = gate_of(case, inputs, dispatch=True, path=path)
        generator = torch.Generator().manual_seed(7)
        self.experts = torch.nn.Parameter(torch.randn(case[1], HIDDEN, HIDDEN, generator=generator) / 4)

    def forward(self, hidden):
        routed = self.gate(hidden.nan_to_num(0.0, 1.0, -1.0))
        rows = gather(hidden.nan_to_num(0.0, 1.0, -1.0), routed.dispatch)
        owner = routed.experts.flatten()[routed.dispatch.order]
        made = torch.bmm(rows.unsqueeze(1), self.experts[owner]).squeeze(1)
        return hidden.nan_to_num(0.0, 1.0, -1.0) + scatter_back(made, routed.weights, routed.dispatch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), [("mixtral", "auto"), ("deepseek_v3", "triton")])
def test_a_layer_around_it_compiles_and_learns_in_one_graph(name, path):
    if path == "triton":
        pytest.importorskip("triton", reason="triton is not installed")
    case = RULES[name]
    inputs = inputs_of(case, 20)
    layer, again = Layer(case, inputs, "torch"), Layer(case, inputs, path)
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (20, 5):
        for model in (layer, again):
            model.zero_grad()
        expected, found = layer(inputs.hidden[:rows]), compiled(inputs.hidden[:rows])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        expected.square().sum().backward()
        found.square().sum().backward()
        for one, other in zip(layer.parameters(), again.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, atol=1e-3, rtol=1e-4)


@OF_TORCH_ITSELF
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_layer_around_it_exports(name, strict):
    case = RULES[name]
    inputs = inputs_of(case, 65)
    layer = Layer(case, inputs, "auto").eval()
    shapes = ({0: torch.export.Dim("rows")},)
    program = torch.export.export(layer, (inputs.hidden[:3],), dynamic_shapes=shapes, strict=strict)
    for rows in (0, 1, 2, 65):
        with torch.no_grad():
            expected = layer(inputs.hidden[:rows])
        torch.testing.assert_close(program.module()(inputs.hidden[:rows]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_onnx_runtime_is_the_reference(tmp_path):
    from router_rl.bench.gates.gate_forms import onnx

    case = RULES["deepseek_v3"]
    inputs = inputs_of(case, 65)
    with torch.no_grad():
        run = onnx(gate_of(case, inputs), tmp_path)
    expected = naive.gate(*inputs, case[0])
    for rows in (1, 65):
        weights, experts, fallback = (torch.from_numpy(value) for value in run(inputs.hidden[:rows]))
        assert experts.equal(expected.experts[:rows])
        assert fallback.equal(expected.fallback[:rows])
        torch.testing.assert_close(weights.double(), expected.weights[:rows], **TOLERANCE)


def test_a_group_is_as_good_as_its_two_best_though_they_are_equal():
    rule = GateRule(k=1, score="sigmoid", groups=2, kept=1)
    logits = torch.tensor([[1.0, 1.0, -5.0, 2.0, 0.0, -5.0], [2.0, 0.0, -5.0, 1.0, 1.0, -5.0]])
    found = torch_path.select(logits, None, None, rule)
    same(found, naive.select(logits, None, None, rule))
    assert found.experts.tolist() == [[0], [3]]
