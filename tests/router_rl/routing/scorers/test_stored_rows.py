"""Scorers that store rows: each against a slow twin in NumPy, and the leave-one-out form against refits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from router_rl.routing import GuardedKNNScorer, KernelScorer, KNNScorer, RouterError, StoredRowsScorer

D, N = 4, 3


def _knn(rows: int) -> KNNScorer:
    return KNNScorer(D, N, rows, min(5, rows))


def _cosine(rows: int) -> KNNScorer:
    return KNNScorer(D, N, rows, min(5, rows), "cosine")


def _guarded(rows: int) -> GuardedKNNScorer:
    return GuardedKNNScorer(D, N, rows, min(6, rows), default=1, critical=1.3)


def _kernel(rows: int) -> KernelScorer:
    scorer = KernelScorer(D, N, rows, 2, min(3, rows), 0.5)
    with torch.no_grad():
        scorer.projection.copy_(torch.linalg.qr(torch.randn(D, 2)).Q.T)
    return scorer


MAKERS: dict[str, Callable[[int], StoredRowsScorer]] = {
    "knn": _knn,
    "cosine": _cosine,
    "guarded": _guarded,
    "kernel": _kernel,
}


def stored(name: str, features: np.ndarray, values: np.ndarray) -> StoredRowsScorer:
    """A scorer that standardises and holds these rows."""
    torch.manual_seed(3)
    scorer = MAKERS[name](len(features))
    scorer.standardise(torch.full((D,), 0.3), torch.tensor([1.0, 0.5, 2.0, 0.0]))
    scorer.store(torch.from_numpy(features).float(), torch.from_numpy(values).float())
    return scorer


def twin(scorer: StoredRowsScorer, x: np.ndarray, keep: list[int]) -> np.ndarray:
    """Logits of one query [D] from the stored rows to keep, by loops in float64."""
    shift, scale = scorer.shift.double().numpy(), scorer.scale.double().numpy()
    point = (x - shift) * scale
    if isinstance(scorer, KernelScorer):
        point = scorer.projection.double().numpy() @ point
    if isinstance(scorer, KNNScorer) and scorer.metric == "cosine":
        point = point / max(np.sqrt((point**2).sum()), 1e-12)
    queries, values = scorer.queries.double().numpy()[keep], scorer.values.double().numpy()[keep]
    square = np.array([((point - query) ** 2).sum() for query in queries])
    order = np.argsort(square, kind="stable")
    if isinstance(scorer, KernelScorer):
        bandwidth = square[order[min(scorer.neighbours, len(keep)) - 1]]
        bandwidth = max(bandwidth, 1e-5 * (1.0 + (point**2).sum()))
        weight = np.exp(-0.5 * (square - square.min()) / (scorer.factor**2 * bandwidth))
        return (weight[:, None] * values).sum(axis=0) / weight.sum()
    assert isinstance(scorer, KNNScorer)
    near = values[order[: scorer.neighbours]]
    if not isinstance(scorer, GuardedKNNScorer):
        return near.mean(axis=0)
    logits = np.zeros(N)
    for expert in range(N):
        if expert == scorer.default:
            continue
        gain, count = near[:, expert], len(near)
        squares = sum((one - gain.mean()) ** 2 for one in gain) + float(scorer.variance[expert])
        bound = gain.mean() - scorer.critical * np.sqrt(squares / count) / np.sqrt(count)
        logits[expert] = bound if bound > 0 else bound - 1e-6
    return logits


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("rows", [1, 2, 7, 40])
def test_equals_the_slow_twin(name: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    scorer = stored(name, rng.normal(size=(rows, D)), rng.integers(0, 2, (rows, N)).astype(float))
    queries = rng.normal(size=(9, D))
    expected = np.stack([twin(scorer, query, list(range(rows))) for query in queries])
    found = scorer(torch.from_numpy(queries)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("rows", [2, 5, 41])
def test_leave_one_out_is_the_scorer_without_the_row(name: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    features = rng.normal(size=(rows, D)).astype(np.float32)
    scorer = stored(name, features, rng.random((rows, N)))
    expected = [
        twin(scorer, features[row].astype(float), [each for each in range(rows) if each != row])
        for row in range(rows)
    ]
    np.testing.assert_allclose(scorer.leave_one_out().numpy(), np.stack(expected), atol=2e-5)


@pytest.mark.parametrize("name", ["knn", "cosine", "kernel"])
def test_a_rows_own_outcome_never_reaches_its_leave_one_out_logits(name: str) -> None:
    rng = np.random.default_rng(0)
    features, values = rng.normal(size=(30, D)), rng.integers(0, 2, (30, N)).astype(float)
    before = stored(name, features, values).leave_one_out()
    for row in (0, 13, 29):
        flipped = values.copy()
        flipped[row] = 1.0 - flipped[row]
        after = stored(name, features, flipped).leave_one_out()
        assert torch.equal(after[row], before[row])
        assert not torch.equal(after, before)  # other rows do see it


def test_the_guard_uses_a_rows_own_outcome_only_in_the_overall_variance() -> None:
    rng = np.random.default_rng(0)
    features, values = rng.normal(size=(30, D)), rng.integers(0, 2, (30, N)).astype(float)
    scorer = stored("guarded", features, values)
    assert isinstance(scorer, GuardedKNNScorer)
    flipped = values.copy()
    flipped[5] = 1.0 - flipped[5]
    again = stored("guarded", features, flipped)
    assert isinstance(again, GuardedKNNScorer)
    again.variance.copy_(scorer.variance)
    assert torch.equal(again.leave_one_out()[5], scorer.leave_one_out()[5])


def test_leave_one_out_of_more_rows_than_one_chunk() -> None:
    rng = np.random.default_rng(0)
    features, values = rng.normal(size=(1030, D)), rng.random((1030, N))
    scorer = stored("knn", features, values)
    for row in (3, 1023, 1024, 1029):
        expected = twin(scorer, features[row], [each for each in range(1030) if each != row])
        np.testing.assert_allclose(scorer.leave_one_out()[row].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_one_stored_row_leaves_nothing(name: str) -> None:
    scorer = stored(name, np.ones((1, D)), np.ones((1, N)))
    assert scorer.leave_one_out().tolist() == [[0.0] * N]


def test_equal_rows_get_equal_weight_in_the_kernel() -> None:
    features = np.zeros((12, D))
    values = np.zeros((12, N))
    values[:3] = 1.0
    scorer = stored("kernel", features, values)
    np.testing.assert_allclose(scorer(torch.zeros(1, D)).numpy(), 0.25, atol=1e-6)


def test_a_far_query_takes_the_nearest_row_in_the_kernel() -> None:
    scorer = KernelScorer(1, 1, rows=2, components=1, neighbours=1, factor=0.01)
    scorer.store(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [5.0]]))
    assert scorer(torch.tensor([[9.0], [-9.0]])).flatten().tolist() == pytest.approx([5.0, 2.0], abs=1e-3)


def test_the_kernel_by_hand() -> None:
    """Rows at 0 and 2, a query at 0.5: distances 0.5 and 1.5; the bandwidth is the second one."""
    scorer = KernelScorer(1, 1, rows=2, components=1, neighbours=2, factor=1.0)
    scorer.store(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [0.0]]))
    near, far = np.exp(-0.5 * (0.5 / 1.5) ** 2), np.exp(-0.5)
    assert float(scorer(torch.tensor([[0.5]]))) == pytest.approx(near / (near + far), abs=1e-6)


def test_the_guard_by_hand() -> None:
    """Four neighbours; expert 0 gains 1, 1, 1, 0 over the default: mean .75, squares .75, variance .1875."""
    scorer = GuardedKNNScorer(1, 2, rows=4, neighbours=4, default=1, critical=1.0)
    scorer.store(torch.zeros(4, 1), torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    error = ((0.75 + 0.1875) / 4 / 4) ** 0.5
    assert scorer(torch.zeros(1, 1))[0].tolist() == pytest.approx([0.75 - error, 0.0])
    unsure = GuardedKNNScorer(1, 2, rows=4, neighbours=4, default=1, critical=4.0)
    unsure.store(torch.zeros(4, 1), torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    assert int(unsure(torch.zeros(1, 1)).argmax()) == 1


def test_a_gain_of_zero_keeps_the_default() -> None:
    """All experts are equal on every row: the default answers, though its id is not the lowest."""
    scorer = GuardedKNNScorer(1, 3, rows=5, neighbours=3, default=2, critical=0.0)
    scorer.store(torch.zeros(5, 1), torch.ones(5, 3))
    assert scorer(torch.zeros(2, 1)).argmax(dim=1).tolist() == [2, 2]


def test_numbers_outside_their_range_are_refused() -> None:
    with pytest.raises(RouterError, match=r"KNNScorer.rows=0 stores nothing; use 1 or more"):
        KNNScorer(2, 2, rows=0, neighbours=1)
    with pytest.raises(RouterError, match=r"KernelScorer.components=5 does not fit; use 1 to 4"):
        KernelScorer(4, 2, rows=3, components=5, neighbours=1, factor=1.0)
    with pytest.raises(RouterError, match=r"KernelScorer.neighbours=4 does not fit 3 rows; use 1 to 3"):
        KernelScorer(4, 2, rows=3, components=1, neighbours=4, factor=1.0)
    with pytest.raises(RouterError, match=r"KernelScorer.factor=0 is no bandwidth; use a number above 0"):
        KernelScorer(4, 2, rows=3, components=1, neighbours=1, factor=0)
    with pytest.raises(RouterError, match=r"GuardedKNNScorer.neighbours=4 does not fit 3 rows"):
        GuardedKNNScorer(4, 2, rows=3, neighbours=4)
    with pytest.raises(RouterError, match=r"GuardedKNNScorer.default=2 is not an expert; use 0 to 1"):
        GuardedKNNScorer(4, 2, rows=3, neighbours=1, default=2)
    with pytest.raises(RouterError, match=r"GuardedKNNScorer.critical=-1 is below 0; use 0 or more"):
        GuardedKNNScorer(4, 2, rows=3, neighbours=1, critical=-1)
