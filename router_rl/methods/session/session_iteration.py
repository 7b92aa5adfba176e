"""Policy iteration by rollouts: try every model at a turn, simulate the rest, and learn from the returns.

A conversation can be copied. At turns that the policy visits, the lane is forked once for each expert. Each
fork answers with its expert and then follows the policy; all forks get the same turns (common random
numbers), so their returns differ by the choice only. The next policy is a network on the inputs of the tuned
rules, added to the strongest of them, which is the first policy. On the states of all iterations so far, a
regression fits its scores to these advantages; then gradient ascent on `sum_e pi(e | s) A(s, e)`, the policy
gradient with the sum over experts taken exactly, refines it. The rule is replaced only by a policy that is
better by more than the noise of the validation episodes.

Sources: rollouts, Tesauro and Galperin 1996, https://papers.nips.cc/paper/1302; the gradient over all
actions, Sutton et al. 2000, theorem 1; common random numbers, Ng and Jordan 2000,
https://arxiv.org/abs/1301.3878.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from envs.session import SessionCore, SessionState, SessionTable
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size, Width

from ...problems.measure import Measurement
from ...problems.problem import ActionPolicy
from ...problems.session.problem import SessionProblem
from ...routing.policies.session_policy import INPUTS, SessionPolicy
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from ..training_loop import descend
from .session_rules import exported_session, strongest_rule

__all__ = [
    "METHOD",
    "Forks",
    "SessionIterationHyperparameters",
    "ascend_network",
    "fit_session",
    "fork_turns",
    "regress_network",
]

_SEED, _SPACING = 500_000, 100_000  # of the validation episodes; between the seeds of fits
_CLIP = 2.0  # utility: larger advantages are clipped
_FAR = 10.0  # utility: `stay` of a rule can weigh more


@dataclass(frozen=True, kw_only=True)
class SessionIterationHyperparameters(Hyperparameters):
    """Hyperparameters of policy iteration on conversations.

    Attributes:
        iterations: number of iterations of forking and fitting.
        lanes: number of conversations that run in parallel.
        times: number of turns of each lane at which it is forked, in an iteration.
        horizon: maximum number of turns that each fork simulates; it ends with its conversation.
        exploration: fraction of turns answered by a random expert while states are visited.
        outcome_share: weight of the outcomes in the rewards of the forks; the rest is predicted quality,
            which is less noisy.
        temperature: of the policy in gradient ascent, utility.
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        epochs: epochs over the states in each iteration.
        batch: states per gradient step.
        hidden: width of the network's hidden layer.
        validation_lanes: number of validation episodes.
        guard: number of standard errors by which a policy must be better than the rule to replace it.
    """

    iterations: Count = 3
    lanes: Size = 128
    times: Count = 12
    horizon: Count = 24
    exploration: Fraction = 0.05
    outcome_share: Fraction = 0.5
    temperature: Positive = 0.03
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-2
    epochs: Count = 20
    batch: Count = 128
    hidden: Width = 32
    validation_lanes: Size = 64
    guard: NonNegative = 1.0


class Forks(NamedTuple):
    """M turns, with the returns of N experts at each.

    Attributes:
        inputs: [M, N, 7] float32, see `SessionPolicy.inputs`.
        state: [M, 5 N + 4] float32, the observation without the features.
        returns: [M, N] float32, the utility that each fork earned.
    """

    inputs: Tensor
    state: Tensor
    returns: Tensor


def fit_session(
    problem: SessionProblem, hyperparameters: SessionIterationHyperparameters, run: Run
) -> ActionPolicy:
    """Train a policy from the strongest tuned rule.

    Args:
        problem: with one case.
        hyperparameters: see the class.
        run: seed, callback and checkpoint; an interrupted fit resumes after its last iteration.
    """
    rule = strongest_rule(problem)
    policy = _with_network(problem, rule, hyperparameters.hidden, run.seed)
    of_rule = _validate(problem, policy, hyperparameters)
    best, kept = of_rule, copy.deepcopy(policy.state_dict())
    parts: list[Forks] = []
    saved = run.checkpoint.load()
    if saved is not None:
        policy.load_state_dict(saved["policy"])
        best, kept = saved["best"], saved["kept"]
        parts = [Forks(**saved["forks"][name]) for name in saved["forks"]]
    for iteration in range(len(parts), hyperparameters.iterations):
        seed = _SPACING * (run.seed + 1) + 1_000 * iteration
        parts.append(fork_turns(problem, policy, hyperparameters, seed))
        forks = Forks(*(torch.cat(column) for column in zip(*parts, strict=True)))
        if iteration == 0:
            _standardise(policy, forks)
        for improve in (regress_network, ascend_network):
            improve(policy, forks, hyperparameters, seed)
            utility = _validate(problem, policy, hyperparameters)
            gain = utility - of_rule
            noise = hyperparameters.guard * gain.std() / len(gain) ** 0.5
            if gain.mean() > noise and utility.mean() > best.mean():
                best, kept = utility, copy.deepcopy(policy.state_dict())
        run.checkpoint.save(
            {
                "policy": policy.state_dict(),
                "best": best,
                "kept": kept,
                "forks": {str(at): part._asdict() for at, part in enumerate(parts)},
            }
        )
        message = f"validation utility {best.mean():.4f}, rule {of_rule.mean():.4f}"
        measured = Measurement(utility=best.numpy(), parts={})
        run.report(iteration + 1, hyperparameters.iterations, message, measured)
    policy.load_state_dict(kept)
    return exported_session(policy.requires_grad_(False).eval())


@torch.no_grad()
def fork_turns(
    problem: SessionProblem,
    policy: SessionPolicy,
    hyperparameters: SessionIterationHyperparameters,
    seed: int,
) -> Forks:
    """Visit turns with the policy and fork at some of them.

    Args:
        problem: with one case.
        policy: the current policy.
        hyperparameters: see the class.
        seed: random seed of the conversations and the exploration.
    """
    generator = torch.Generator().manual_seed(seed)
    core = problem.core("train", problem.case, lanes=hyperparameters.lanes, seed=seed)
    core.table = _expected(problem, core, policy, hyperparameters.outcome_share)
    stretch = max(1, problem.options.window // hyperparameters.times)
    parts: list[Forks] = []
    for _ in range(hyperparameters.times):
        # The lanes walk a random number of turns between two forks.
        for _ in range(int(torch.randint(1, 2 * stretch, (), generator=generator))):
            _, _, score = _scored(problem, policy, core)
            explores = torch.rand(core.lanes, generator=generator) < hyperparameters.exploration
            drawn = torch.randint(core.experts, (core.lanes,), generator=generator)
            core.clear(core.step(torch.where(explores, drawn, score.argmax(dim=-1))).terminated)
        inputs, state, _ = _scored(problem, policy, core)
        parts.append(Forks(inputs, state, _returns(problem, policy, core, hyperparameters.horizon)))
    return Forks(*(torch.cat(column) for column in zip(*parts, strict=True)))


def regress_network(
    policy: SessionPolicy, forks: Forks, hyperparameters: SessionIterationHyperparameters, seed: int
) -> None:
    """Fit the network of a policy so that its scores differ between experts as the returns do, in place.

    Args:
        policy: with a network.
        forks: the turns.
        hyperparameters: of the fit.
        seed: random seed of the order of the turns.
    """
    advantage = _centred(forks.returns).clamp(-_CLIP, _CLIP)

    def loss(rows: Tensor) -> Tensor:
        score = policy.scores(forks.inputs[rows], forks.state[rows]).clamp(-_FAR, _FAR)
        return (_centred(score) - advantage[rows]).square().mean()

    _descend(policy, len(advantage), loss, hyperparameters, seed)


def ascend_network(
    policy: SessionPolicy, forks: Forks, hyperparameters: SessionIterationHyperparameters, seed: int
) -> None:
    """Change the network of a policy so that its expected advantage rises, in place.

    Args:
        policy: with a network.
        forks: the turns.
        hyperparameters: of the ascent.
        seed: random seed of the order of the turns.
    """
    advantage = _centred(forks.returns).clamp(-_CLIP, _CLIP)

    def loss(rows: Tensor) -> Tensor:
        score = policy.scores(forks.inputs[rows], forks.state[rows])
        chance = (score / hyperparameters.temperature).softmax(dim=-1)
        return -(chance * advantage[rows]).sum(dim=-1).mean()

    _descend(policy, len(advantage), loss, hyperparameters, seed)


def _descend(
    policy: SessionPolicy,
    turns: int,
    loss: Callable[[Tensor], Tensor],
    hyperparameters: SessionIterationHyperparameters,
    seed: int,
) -> None:
    """Minimise a loss of turns [m] over the weights of a policy's network; the learning rate decays to 0."""
    generator = torch.Generator().manual_seed(seed)
    network = policy.network.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=hyperparameters.learning_rate, weight_decay=hyperparameters.weight_decay
    )
    for epoch in range(hyperparameters.epochs):
        optimizer.param_groups[0]["lr"] = hyperparameters.learning_rate * (
            1.0 - epoch / hyperparameters.epochs
        )
        for rows in torch.randperm(turns, generator=generator).split(hyperparameters.batch):
            descend(optimizer, loss(rows))
    network.requires_grad_(False)


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=1, keepdim=True)


def _with_network(problem: SessionProblem, rule: SessionPolicy, hidden: int, seed: int) -> SessionPolicy:
    """Return the rule with a network whose output is 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = problem.policy(problem.case, hidden)
    for name in ("weights", "bias", "threshold"):
        getattr(policy, name).copy_(getattr(rule, name))
    for parameter in policy.network[-1].parameters():
        parameter.zero_()
    return policy


def _standardise(policy: SessionPolicy, forks: Forks) -> None:
    x = policy.network_inputs(forks.inputs, forks.state).flatten(0, 1)
    spread = x.std(dim=0)
    policy.shift.copy_(x.mean(dim=0))
    policy.scale.copy_(torch.where(spread > 1e-6, 1.0 / spread.clamp(min=1e-6), 0.0))


def _expected(
    problem: SessionProblem, core: SessionCore, policy: SessionPolicy, share: float
) -> SessionTable:
    """The training rows, whose quality is a mixture of the outcomes and of the rule's predictions."""
    outcomes, later = core.table.outcomes, float(policy.weights[INPUTS.index("later")])
    predicted = torch.lerp(problem.chance["train"], problem.later["train"], min(max(later, 0.0), 1.0))
    return replace(
        core.table, outcomes=replace(outcomes, quality=torch.lerp(predicted, outcomes.quality, share))
    )


def _scored(
    problem: SessionProblem, policy: SessionPolicy, core: SessionCore, split: str = "train"
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs, the state and the scores of the lanes; predictions are those of the rows of the split."""
    row, state = core.state.row, core.observation()[:, policy.features :]
    inputs = policy.inputs(problem.chance[split][row], problem.later[split][row], state)
    return inputs, state, policy.scores(inputs, state)


def _returns(problem: SessionProblem, policy: SessionPolicy, core: SessionCore, horizon: int) -> Tensor:
    """The returns [B, N] of answering with each expert and then following the policy."""
    lanes, experts = core.lanes, core.experts
    fork = SessionCore(core.table, core.config, lanes * experts)
    fork.state = SessionState(*(column.repeat_interleave(experts, dim=0) for column in core.state))
    step = fork.step(torch.arange(experts).repeat(lanes))
    total, goes_on = step.reward.double(), ~step.terminated
    for _ in range(horizon - 1):
        step = fork.step(_scored(problem, policy, fork)[2].argmax(dim=-1))
        total += step.reward * goes_on
        goes_on = goes_on & ~step.terminated
    return total.view(lanes, experts).float()


@torch.no_grad()
def _validate(
    problem: SessionProblem, policy: SessionPolicy, hyperparameters: SessionIterationHyperparameters
) -> Tensor:
    """The utility [B] float64 per turn in each validation episode."""
    core = problem.core("validation", problem.case, lanes=hyperparameters.validation_lanes, seed=_SEED)
    total = torch.zeros(core.lanes, dtype=torch.float64)
    for _ in range(problem.options.window):
        step = core.step(_scored(problem, policy, core, "validation")[2].argmax(dim=-1))
        total += step.reward
        core.clear(step.terminated)
    return total / problem.options.window


METHOD = Method(
    name="rollout_iteration",
    family="rl",
    fit=fit_session,
    hyperparameters=SessionIterationHyperparameters,
    space={
        "outcome_share": (0.0, 0.5, 1.0),
        "temperature": (0.01, 0.03, 0.1),
        "learning_rate": (1e-3, 3e-3, 1e-2),
    },
    about="policy iteration on rollouts from the strongest tuned rule",
)
