"""Time of a gate over a bare linear layer with top-k and over transformers' routers, in one run."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts import InputError

from ...routing.kernels import Gate
from ..machine import machine, threads_restored
from .dispatch import by_mask, by_sorting
from .gate_clock import compare
from .gate_forms import FORMS, missing
from .shapes import SHAPES, Shape, bare_of, gate_of, transformers_router_of, weights_of

__all__ = ["FULL", "QUICK", "GatePlan", "bench_gates"]

SCHEMA_VERSION = 1
LIMIT = 1.05  # times the bare gate's time
_AGREE = 0.999  # of rows; another summation order can swap two experts with nearly equal scores
_WEIGHTS = 1e-4


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """What is measured, and how often.

    Attributes:
        shapes: names in `SHAPES`.
        rows: numbers of rows T in a call to the gate.
        dispatch_rows: numbers of rows T in a dispatch.
        threads: numbers of torch threads; everything is measured with each.
        rounds: in every round each form has one turn.
        forms: names in `FORMS`; the eager module is always timed.
    """

    shapes: tuple[str, ...] = tuple(SHAPES)
    rows: tuple[int, ...] = (1, 16, 256, 4096)
    dispatch_rows: tuple[int, ...] = (16, 256, 4096)
    threads: tuple[int, ...] = (1,)
    rounds: int = 31
    forms: tuple[str, ...] = tuple(FORMS)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError("repeats", self.rounds, "not positive", "use 1 or more")
        if not self.threads or min(self.threads) < 1:
            raise InputError("threads", list(self.threads), "a number is not positive", "use 1 or more")


FULL = GatePlan()
QUICK = GatePlan(
    shapes=("Mixtral-8x7B", "DeepSeek-V3"),
    rows=(1, 16),
    dispatch_rows=(16,),
    rounds=3,
    forms=("layer", "pt2"),
)

Progress = Callable[[int, int, str], None]


def bench_gates(plan: GatePlan, progress: Progress = lambda done, total, what: None) -> dict[str, Any]:
    """Time every form of every shape at every number of rows.

    Args:
        plan: what is measured.
        progress: is called after every part with the parts done, the number of parts, and the part's name.

    Returns:
        the measurements, as they are written to JSON.

    Raises:
        RuntimeError: two forms route differently, so their times cannot be compared.
    """
    parts = len(plan.threads) * len(plan.shapes) * (len(plan.rows) + len(plan.dispatch_rows))
    done = 0

    def report(what: str) -> None:
        nonlocal done
        done += 1
        progress(done, parts, what)

    gates: list[dict[str, Any]] = []
    dispatches: list[dict[str, Any]] = []
    absent = {form: needed for form in plan.forms if (needed := missing(form))}
    with threads_restored(), torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for threads in plan.threads:
            torch.set_num_threads(threads)
            for name in plan.shapes:
                shape = SHAPES[name]
                label = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
                weights = weights_of(shape, torch.Generator().manual_seed(0))
                gate = gate_of(shape, weights)
                exported = Path(folder) / f"{name}-{threads}"
                exported.mkdir()
                forms = _forms(shape, gate, weights, [f for f in plan.forms if f not in absent], exported)
                for rows in plan.rows:
                    gates.append(
                        {"model": name, "threads": threads, **_gate(shape, forms, rows, plan.rounds)}
                    )
                    report(f"{label}: {rows} rows")
                for rows in plan.dispatch_rows:
                    dispatches.append(
                        {"model": name, "threads": threads, **_dispatch(shape, weights, rows, plan.rounds)}
                    )
                    report(f"{label}: dispatch of {rows} rows")
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": machine(),
        "plan": asdict(plan),
        "absent": absent,
        "gates": gates,
        "dispatch": dispatches,
        "goals": _goals(gates),
    }


def _forms(
    shape: Shape, gate: Gate, weights: dict[str, Tensor], names: list[str], folder: Path
) -> dict[str, Callable[[Tensor], Any]]:
    forms: dict[str, Callable[[Tensor], Any]] = {
        "bare": bare_of(shape, weights),
        "module": gate,
        "transformers": transformers_router_of(shape, weights),
    }
    # Exporters reject inference tensors, and torch raises a FutureWarning about its own pytree module.
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return forms | {name: FORMS[name](gate_of(shape, weights), folder) for name in names}


def _gate(shape: Shape, forms: dict[str, Callable[[Tensor], Any]], rows: int, rounds: int) -> dict[str, Any]:
    hidden = torch.randn(rows, shape.hidden, generator=torch.Generator().manual_seed(rows))
    _check_equal(shape, forms, hidden)
    timings = compare({name: (lambda form=form: form(hidden)) for name, form in forms.items()}, rounds)
    return {
        "rows": rows,
        "hidden": shape.hidden,
        "experts": shape.experts,
        "k": shape.rule.k,
        "forms": {name: timing.to_json() for name, timing in timings.items()},
    }


def _check_equal(shape: Shape, forms: dict[str, Callable[[Tensor], Any]], hidden: Tensor) -> None:
    """Raise RuntimeError unless every form returns the experts and weights of the module."""
    routed = forms["module"](hidden)
    expected_experts, order = routed.experts.sort(dim=1)
    expected_weights = routed.weights.gather(1, order)
    for name, form in forms.items():
        if name in ("bare", "module"):
            continue
        out = [torch.as_tensor(value) for value in form(hidden)]
        weights, experts = (out[1], out[2]) if name == "transformers" else (out[0], out[1])
        experts, order = experts.sort(dim=1)
        same = (experts == expected_experts).all(dim=1)
        share = float(same.float().mean())
        errors = (weights.float().gather(1, order) - expected_weights)[same].abs()
        error = float(errors.max()) if same.any() else 0.0
        if share < _AGREE or error > _WEIGHTS:
            raise RuntimeError(
                f"{shape.name}: {name} routes {share:.4f} of the rows as the module does; largest error in "
                f"the weights is {error:.2g}"
            )


def _dispatch(shape: Shape, weights: dict[str, Tensor], rows: int, rounds: int) -> dict[str, Any]:
    hidden = torch.randn(rows, shape.hidden, generator=torch.Generator().manual_seed(rows))
    gate = gate_of(shape, weights)
    factors = torch.linspace(0.5, 1.5, shape.experts)
    routed = gate(hidden)
    torch.testing.assert_close(by_sorting(hidden, routed, factors), by_mask(hidden, routed, factors))
    ways = {
        "mask": lambda: by_mask(hidden, routed, factors),
        "sorted": lambda: by_sorting(hidden, routed, factors),
    }
    timings = compare(ways, max(3, rounds // 3))
    return {"rows": rows, **{name: timing.to_json() for name, timing in timings.items()}}


def _goals(gates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The targets of each form of the gate: how many measurements meet each, and the worst one."""
    goals: list[dict[str, Any]] = []
    for form in (form for form in ("module", "layer", "aoti") if form in gates[0]["forms"]):
        for baseline, limit in (("bare", LIMIT), ("transformers", 1.0)):
            values = [gate["forms"][form]["ratio"] / gate["forms"][baseline]["ratio"] for gate in gates]
            worst = max(range(len(values)), key=values.__getitem__)
            goals.append(
                {
                    "goal": f"{form} / {'bare linear + topk' if baseline == 'bare' else baseline}",
                    "limit": limit,
                    "worst": values[worst],
                    "at": f"{gates[worst]['model']}, {gates[worst]['rows']} rows",
                    "met_at": sum(value <= limit for value in values),
                    "measurements": len(values),
                }
            )
    return goals
