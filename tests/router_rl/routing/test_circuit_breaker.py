"""A failing expert is excluded for a while, and the next best is chosen."""

from __future__ import annotations

import threading

import pytest
import torch

from router_rl.routing import CircuitBreaker, RouterError, TopK

NAMES = ("small", "medium", "large", "code")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_backoffs_double_and_end(make_router):
    clock = Clock()
    breaker = CircuitBreaker(make_router(), backoff_s=10, max_backoff_s=35, clock=clock)
    assert breaker.mask().all()
    for backoff in (10, 20, 35, 35):
        breaker.failed("large")
        clock.now += backoff - 0.001
        assert breaker.mask().tolist() == [True, True, False, True]
        clock.now += 0.001
        assert breaker.mask().all()
    breaker.succeeded("large")
    breaker.failed("large")
    clock.now += 10
    assert breaker.mask().all()


def test_requests_that_fail_together_are_one_failure(make_router):
    clock = Clock()
    breaker = CircuitBreaker(make_router(), backoff_s=10, clock=clock)
    for _ in range(6):
        breaker.failed("large")
        clock.now += 1
    clock.now += 4
    assert breaker.mask().all()
    breaker.failed("large")
    clock.now += 19
    assert breaker.excluded() == {"large": "failed recently"}
    clock.now += 1
    assert breaker.mask().all()


def test_a_rate_limit_is_kept_whatever_other_requests_do(make_router):
    clock = Clock()
    breaker = CircuitBreaker(make_router(), backoff_s=10, clock=clock)
    breaker.limited("large", 30)
    breaker.limited("large", 5)
    breaker.succeeded("large")
    breaker.failed("small")
    assert breaker.excluded() == {"large": "rate limited", "small": "failed recently"}
    assert breaker.mask().tolist() == [False, True, False, True]
    # Those that failed may be chosen before those that are limited, and these before all others.
    assert breaker.mask(exclude=["medium", "code"]).tolist() == [True, False, False, False]
    assert breaker.mask(exclude=["medium", "code", "small"]).tolist() == [False, False, True, False]
    clock.now += 29.9
    assert breaker.excluded() == {"large": "rate limited"}
    clock.now += 0.1
    assert breaker.mask().all()


def test_the_next_best_is_chosen(make_router):
    router = make_router(rule=TopK(k=4))
    features = torch.randn(50, 5)
    ranked = router(features).experts
    best = make_router()
    breaker = CircuitBreaker(best)
    for row, order in zip(features, ranked, strict=True):
        for expert in order.tolist():
            chosen = best(row[None], action_mask=breaker.mask()).experts.item()
            assert chosen == expert
            breaker.failed(NAMES[expert])
        # All of them back off: asking one is better than refusing.
        assert best(row[None], action_mask=breaker.mask()).experts.item() == order[0]
        for name in NAMES:
            breaker.succeeded(name)


def test_an_expert_that_is_not_allowed_stays_excluded(make_router):
    router = make_router(allowed=[True, True, False, False])
    breaker = CircuitBreaker(router)
    assert breaker.mask().tolist() == [True, True, False, False]
    breaker.failed("small")
    assert breaker.mask().tolist() == [False, True, False, False]
    # "small" backs off, but is the only one left.
    assert breaker.mask(exclude=["medium"]).tolist() == [True, False, False, False]
    assert breaker.mask(exclude=["medium", "small"]).tolist() == [True, True, False, False]
    features = torch.randn(20, 5)
    assert (router(features, action_mask=breaker.mask()).experts == 1).all()


def test_mistakes_are_named(make_router):
    router = make_router()
    breaker = CircuitBreaker(router)
    limited = lambda name: breaker.limited(name, 1.0)  # noqa: E731
    for call in (breaker.failed, breaker.succeeded, limited, lambda name: breaker.mask([name])):
        with pytest.raises(RouterError, match="expert 'lrge' is unknown; the router's are small, medium"):
            call("lrge")
    for backoff in (0, -1, 301):
        message = f"backoff_s={backoff} must be above 0 and at most max_backoff_s=300"
        with pytest.raises(RouterError, match=message):
            CircuitBreaker(router, backoff_s=backoff)


def test_threads_share_it(make_router):
    breaker = CircuitBreaker(make_router(), backoff_s=1e-6)

    def work() -> None:
        for _ in range(500):
            breaker.failed("small")
            assert breaker.mask().any()
            breaker.succeeded("small")

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
    assert breaker.mask().all()
