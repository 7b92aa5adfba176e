"""The controller by hand, and on a constraint whose multiplier is known."""

from __future__ import annotations

import torch

from router_rl.methods.agents.pid import PID


def test_by_hand() -> None:
    """Costs .5, .7, .1 against .4 with gains 2, .5 and 3, from a multiplier of 0."""
    pid = PID(0.4, 0.0, proportional=2.0, integral=0.5, derivative=3.0)
    found = [pid.update(torch.tensor(cost)) for cost in (0.5, 0.7, 0.1)]
    # delta .1, I .1, D 0 (nothing came before):   .2 + .05
    # delta .3, I .4, D .2:                        .6 + .2 + .6
    # delta -.3, I .1, D 0 (it fell):             -.6 + .05, so 0
    torch.testing.assert_close(torch.stack(found), torch.tensor([0.25, 1.4, 0.0]))


def test_the_sum_does_not_run_below_zero() -> None:
    pid = PID(0.4, 0.0, proportional=0.0, integral=1.0, derivative=0.0)
    for _ in range(10):
        assert pid.update(torch.tensor(0.1)) == 0.0
    torch.testing.assert_close(pid.update(torch.tensor(0.5)), torch.tensor(0.1))


def test_it_starts_at_the_multiplier_given() -> None:
    torch.testing.assert_close(PID(0.4, 0.1).update(torch.tensor(0.4)), torch.tensor(0.1))


def test_it_settles_on_the_multiplier_that_meets_the_budget() -> None:
    """Where the cost is 1 - multiplier, a budget of .4 has the multiplier .6."""
    pid, multiplier = PID(0.4, 0.0, proportional=0.1, integral=0.01), torch.tensor(0.0)
    for _ in range(2000):
        multiplier = pid.update(1.0 - multiplier)
    torch.testing.assert_close(multiplier, torch.tensor(0.6), rtol=0, atol=1e-3)


def test_a_checkpoint_holds_it() -> None:
    one, two = PID(0.4, 0.1), PID(0.4, 0.0)
    one.update(torch.tensor(0.9))
    two.load_state_dict(one.state_dict())
    assert one.update(torch.tensor(0.8)) == two.update(torch.tensor(0.8))
