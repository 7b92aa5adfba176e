"""Who failed is left alone for a while, and the next best is chosen."""

from __future__ import annotations

import threading

import pytest
import torch

from router_rl.routing import Health, RouterError, TopK

NAMES = ("small", "medium", "large", "code")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rests_double_and_end(make_router):
    clock = Clock()
    health = Health(make_router(), rest=10, longest=35, clock=clock)
    assert health.mask().all()
    for rest in (10, 20, 35, 35):
        health.failed("large")
        clock.now += rest - 0.001
        assert health.mask().tolist() == [True, True, False, True]
        clock.now += 0.001
        assert health.mask().all()
    health.answered("large")
    health.failed("large")
    clock.now += 10
    assert health.mask().all()


def test_the_next_best_is_chosen(make_router):
    router = make_router(rule=TopK(k=4))
    features = torch.randn(50, 5)
    ranked = router(features).experts
    best = make_router()
    health = Health(best)
    for row, order in zip(features, ranked, strict=True):
        for expert in order.tolist():
            chosen = best(row[None], action_mask=health.mask()).experts.item()
            assert chosen == expert
            health.failed(NAMES[expert])
        # All of them rest: asking one is better than refusing.
        assert best(row[None], action_mask=health.mask()).experts.item() == order[0]
        for name in NAMES:
            health.answered(name)


def test_a_barred_expert_stays_barred(make_router):
    router = make_router(allowed=[True, True, False, False])
    health = Health(router)
    assert health.mask().tolist() == [True, True, False, False]
    health.failed("small")
    assert health.mask().tolist() == [False, True, False, False]
    assert health.mask(without=["medium"]).tolist() == [
        True,
        False,
        False,
        False,
    ]  # rests, but is all there is
    assert health.mask(without=["medium", "small"]).tolist() == [True, True, False, False]
    features = torch.randn(20, 5)
    assert (router(features, action_mask=health.mask()).experts == 1).all()


def test_mistakes_are_named(make_router):
    router = make_router()
    health = Health(router)
    for call in (health.failed, health.answered, lambda name: health.mask([name])):
        with pytest.raises(RouterError, match="expert 'lrge' is unknown; the router's are small, medium"):
            call("lrge")
    for rest in (0, -1, 301):
        with pytest.raises(RouterError, match=f"rest={rest} must be above 0 and at most longest=300"):
            Health(router, rest=rest)


def test_threads_share_it(make_router):
    health = Health(make_router(), rest=1e-6)

    def work() -> None:
        for _ in range(500):
            health.failed("small")
            assert health.mask().any()
            health.answered("small")

    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert health.mask().all()
