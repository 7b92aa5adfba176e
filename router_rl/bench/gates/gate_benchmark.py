"""Time the gate against a bare linear layer with top-k, and against transformers' routers, in one run."""

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
from ..machine import machine, threads_kept
from .dispatch import by_mask, by_sorting
from .gate_clock import compare
from .gate_forms import FORMS, missing
from .shapes import SHAPES, Shape, bare_of, gate_of, theirs_of, weights_of

__all__ = ["FULL", "QUICK", "GatePlan", "bench_gates"]

SCHEMA_VERSION = 1
LIMIT = 1.05  # of the bare gate's time
_AGREE = 0.999  # of rows; another order of sums can turn two experts that score alike
_WEIGHTS = 1e-4


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """How much is measured.

    Attributes:
        shapes: names in `SHAPES`.
        rows: T of a call, each in turn.
        dispatch_rows: the same for the dispatch.
        threads: of torch, each in turn.
        rounds: in each of which every form has a turn.
        forms: beside the module itself, names in `FORMS`.
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
    shapes=("Mixtral-8x7B", "DeepSeek-V3"), rows=(1, 16), dispatch_rows=(16,), rounds=3, forms=("pt2",)
)

Progress = Callable[[int, int, str], None]


def bench_gates(plan: GatePlan, progress: Progress = lambda done, total, what: None) -> dict[str, Any]:
    """Time every form of every shape at every number of rows.

    Args:
        plan: how much is measured.
        progress: is told of every finished part: done, total, what.

    Raises:
        RuntimeError: two forms do not route alike; then nothing is timed.
    """
    parts = len(plan.threads) * len(plan.shapes) * (len(plan.rows) + len(plan.dispatch_rows))
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        done += 1
        progress(done, parts, what)

    cells: list[dict[str, Any]] = []
    moves: list[dict[str, Any]] = []
    absent = {form: lacks for form in plan.forms if (lacks := missing(form))}
    with threads_kept(), torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for threads in plan.threads:
            torch.set_num_threads(threads)
            for name in plan.shapes:
                shape = SHAPES[name]
                label = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
                weights = weights_of(shape, torch.Generator().manual_seed(0))
                gate = gate_of(shape, weights)
                place = Path(folder) / f"{name}-{threads}"
                place.mkdir()
                forms = _forms(shape, gate, weights, [f for f in plan.forms if f not in absent], place)
                for rows in plan.rows:
                    cells.append(
                        {"model": name, "threads": threads, **_cell(shape, forms, rows, plan.rounds)}
                    )
                    tell(f"{label}: {rows} rows")
                for rows in plan.dispatch_rows:
                    moves.append(
                        {"model": name, "threads": threads, **_moves(shape, weights, rows, plan.rounds)}
                    )
                    tell(f"{label}: dispatch of {rows} rows")
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": machine(),
        "plan": asdict(plan),
        "absent": absent,
        "gates": cells,
        "dispatch": moves,
        "goals": _goals(cells),
    }


def _forms(
    shape: Shape, gate: Gate, weights: dict[str, Tensor], names: list[str], folder: Path
) -> dict[str, Callable[[Tensor], Any]]:
    forms: dict[str, Callable[[Tensor], Any]] = {
        "bare": bare_of(shape, weights),
        "module": gate,
        "transformers": theirs_of(shape, weights),
    }
    # An exporter does not take inference tensors, and torch warns of its own pytree.
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return forms | {name: FORMS[name](gate_of(shape, weights), folder) for name in names}


def _cell(shape: Shape, forms: dict[str, Callable[[Tensor], Any]], rows: int, rounds: int) -> dict[str, Any]:
    hidden = torch.randn(rows, shape.hidden, generator=torch.Generator().manual_seed(rows))
    _check_alike(shape, forms, hidden)
    found = compare({name: (lambda form=form: form(hidden)) for name, form in forms.items()}, rounds)
    return {
        "rows": rows,
        "hidden": shape.hidden,
        "experts": shape.experts,
        "k": shape.rule.k,
        "forms": {name: timing.to_json() for name, timing in found.items()},
    }


def _check_alike(shape: Shape, forms: dict[str, Callable[[Tensor], Any]], hidden: Tensor) -> None:
    """Every form chooses and weighs as the module does, or there is nothing to time."""
    routed = forms["module"](hidden)
    wanted, order = routed.experts.sort(dim=1)
    expected = routed.weights.gather(1, order)
    for name, form in forms.items():
        if name in ("bare", "module"):
            continue
        out = [torch.as_tensor(value) for value in form(hidden)]
        weights, experts = (out[1], out[2]) if name == "transformers" else (out[0], out[1])
        experts, order = experts.sort(dim=1)
        same = (experts == wanted).all(dim=1)
        error = float((weights.float().gather(1, order) - expected)[same].abs().max()) if same.any() else 0.0
        if float(same.float().mean()) < _AGREE or error > _WEIGHTS:
            raise RuntimeError(
                f"{shape.name}: {name} routes {float(same.float().mean()):.4f} of the rows as the module "
                f"does, with an error of {error:.2g} in the weights"
            )


def _moves(shape: Shape, weights: dict[str, Tensor], rows: int, rounds: int) -> dict[str, Any]:
    hidden = torch.randn(rows, shape.hidden, generator=torch.Generator().manual_seed(rows))
    gate = gate_of(shape, weights)
    factors = torch.linspace(0.5, 1.5, shape.experts)
    routed = gate(hidden)
    whole = gate_of(shape, weights, dispatch=True)(hidden)
    torch.testing.assert_close(by_sorting(hidden, whole, factors), by_mask(hidden, whole, factors))
    from ...routing.kernels.torch_path import dispatch

    def sorted_slots() -> Tensor:
        slots = dispatch(routed.experts, shape.experts)
        return by_sorting(hidden, routed._replace(dispatch=slots), factors)

    found = compare(
        {"mask": lambda: by_mask(hidden, routed, factors), "sorted": sorted_slots}, max(3, rounds // 3)
    )
    return {"rows": rows, **{name: timing.to_json() for name, timing in found.items()}}


def _goals(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two goals for what is exported, and how many cells meet them; the worst cell by name."""
    found: list[dict[str, Any]] = []
    for form in (form for form in ("module", "aoti") if form in cells[0]["forms"]):
        for rival, limit in (("bare", LIMIT), ("transformers", 1.0)):
            values = [cell["forms"][form]["ratio"] / cell["forms"][rival]["ratio"] for cell in cells]
            worst = max(range(len(values)), key=values.__getitem__)
            found.append(
                {
                    "goal": f"{form} over {'bare linear + topk' if rival == 'bare' else rival}",
                    "limit": limit,
                    "worst": values[worst],
                    "at": f"{cells[worst]['model']}, {cells[worst]['rows']} rows",
                    "met_at": sum(value <= limit for value in values),
                    "cells": len(values),
                }
            )
    return found
