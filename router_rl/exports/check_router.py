"""Check that a router keeps the contract of routers, as scikit-learn's `check_estimator` does."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..routing import Router, RouterError, Routing
from .export_folder import export

__all__ = ["check_router"]


def check_router(router: Router, features: Tensor) -> None:
    """Check shapes, dtypes, masks, non-finite rows, empty batches and the round trip of an export.

    Args:
        router: any router, trained or not.
        features: [T, D] float32, some real rows, at least 2.

    Raises:
        RouterError: a check failed; the message says which.
    """
    rows, state = features[:64], _some_state(router, min(len(features), 64))
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        routing = router(rows, state)
        _check_form(router, routing, len(rows))
        if not router.stochastic and router.rule.causal:
            one = router(rows[:1], None if state is None else state[:1])
            _require(
                bool((one.experts == routing.experts[:1]).all()),
                "a row routes the same in any batch",
            )
        _check_form(router, router(rows[:0], None if state is None else state[:0]), 0)
        _check_non_finite_rows(router, rows, state)
        _check_masks(router, rows, state)
    if not router.rule.causal:
        return
    with TemporaryDirectory() as folder:
        export(router, f"{folder}/router")


def _check_form(router: Router, routing: Routing, rows: int) -> None:
    count, k = len(router.experts), router.rule.k
    _require(routing.experts.shape == (rows, k), f"experts are [T, k], got {list(routing.experts.shape)}")
    _require(routing.experts.dtype == torch.int64, "experts are int64")
    _require(routing.weights.shape == (rows, k), "weights are [T, k]")
    _require(routing.weights.dtype == torch.float32, "weights are float32")
    _require(routing.logits.shape == (rows, router.rule.outputs(count)), "logits are [T, outputs]")
    _require(routing.fallback.shape == (rows,), "fallback is [T]")
    if rows:
        valid = (routing.experts >= 0) & (routing.experts <= count)
        _require(bool(valid.all()), "experts are ids of the pool, or N for no expert")
        no_expert = routing.experts == count
        _require(bool((routing.weights[no_expert] == 0).all()), "no expert has weight 0")
        _require(not bool(no_expert[:, 0].any()), "every row has an expert")
        ordered = routing.experts.sort(dim=1).values
        distinct = (ordered[:, 1:] != ordered[:, :-1]) | (ordered[:, 1:] == count)
        _require(bool(distinct.all()), "experts of a row are distinct")
        _require(bool(routing.weights.isfinite().all()), "weights are finite")
        _require(bool(((routing.weights.sum(dim=1) - 1).abs() < 1e-5).all()), "weights of a row sum to 1")


def _check_non_finite_rows(router: Router, rows: Tensor, state: Tensor | None) -> None:
    non_finite = rows[:2].clone()
    non_finite[0, 0], non_finite[1, -1] = float("nan"), float("inf")
    routing = router(non_finite, None if state is None else state[:2])
    _check_form(router, routing, 2)
    _require(bool(routing.fallback.all()), "a non-finite row goes to the fallback")
    first = routing.experts[:, 0]
    _require(bool((first == router.fallback).all()), "the fallback expert is the declared one")


def _check_masks(router: Router, rows: Tensor, state: Tensor | None) -> None:
    count = len(router.experts)
    if count < 2 or (router.allowed is not None and int(router.allowed.sum()) < 2):
        return
    mask = torch.ones(count, dtype=torch.bool)
    mask[int(router(rows, state).experts[0, 0])] = False
    routing = router(rows, state, mask)
    # A rule that runs all experts returns a masked one too, with weight 0.
    weighted = routing.experts[routing.weights > 0]
    _require(bool(mask[weighted].all()), "a masked expert has weight 0")


def _some_state(router: Router, rows: int) -> Tensor | None:
    if not router.state:
        return None
    return torch.full((rows, router.state_size), 0.5 / router.state_size)


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise RouterError(f"check_router failed: {rule}")
