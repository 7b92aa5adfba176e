"""Registry of the methods of each problem. A new method is one file and one line here.

A method's module is imported when the method is used, so that names can be listed without importing torch.
Installed packages add methods through the entry point group `router_rl.methods`: the entry's name is
`problem.method`, its value the module and attribute of a `Method` or `Bound`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from experts.io.errors import InputError, unknown_name
from experts.io.plugins import PluginRegistry

if TYPE_CHECKING:
    from ..problems.problem import Problem
    from .method import Bound, Method

__all__ = ["METHODS", "find_method", "method_names", "methods_of", "offers"]

METHODS = PluginRegistry(
    "method",
    "router_rl.methods",
    {
        "routing.ppo": "router_rl.methods.agents.sb3:METHODS",
        "routing.a2c": "router_rl.methods.agents.sb3:METHODS",
        "routing.dqn": "router_rl.methods.agents.sb3:METHODS",
        "routing.reinforce": "router_rl.methods.agents.reinforce:METHOD",
        "routing.router_ppo": "router_rl.methods.agents.router_ppo:METHOD",
        "routing.exact_pg": "router_rl.methods.agents.exact_pg:METHOD",
        "routing.warm_exact_pg": "router_rl.methods.agents.warm_start:METHOD",
        "routing.conditioned_pg": "router_rl.methods.agents.conditioned_pg:METHOD",
        "routing.priced_pg": "router_rl.methods.agents.priced_pg:METHOD",
        "routing.softmax_gate": "router_rl.methods.gates.softmax_gate:METHOD",
        "routing.noisy_topk_gate": "router_rl.methods.gates.noisy_topk_gate:METHOD",
        "routing.switch_gate": "router_rl.methods.gates.switch_gate:METHOD",
        "routing.mixtral_gate": "router_rl.methods.gates.mixtral_gate:METHOD",
        "routing.deepseek_v2_gate": "router_rl.methods.gates.deepseek_v2_gate:METHOD",
        "routing.deepseek_v3_gate": "router_rl.methods.gates.deepseek_v3_gate:METHOD",
        "routing.expert_choice_gate": "router_rl.methods.gates.expert_choice_gate:METHOD",
        "routing.sinkhorn_gate": "router_rl.methods.gates.sinkhorn_gate:METHOD",
        "routing.straight_through_gate": "router_rl.methods.gates.straight_through_gate:METHOD",
        "routing.remoe_gate": "router_rl.methods.gates.remoe_gate:METHOD",
        "routing.em_gate": "router_rl.methods.gates.em_gate:METHOD",
        "routing.ridge": "router_rl.methods.baselines.ridge:METHOD",
        "routing.centroid": "router_rl.methods.baselines.centroid:METHOD",
        "routing.knn": "router_rl.methods.baselines.knn:METHOD",
        "routing.guarded_knn": "router_rl.methods.baselines.guarded_knn:METHOD",
        "routing.kernel": "router_rl.methods.baselines.kernel:METHOD",
        "routing.cluster": "router_rl.methods.baselines.cluster:METHOD",
        "routing.boosted_trees": "router_rl.methods.baselines.boosted_trees:METHOD",
        "routing.group_label": "router_rl.methods.baselines.group_label:METHOD",
        "routing.inferred_group": "router_rl.methods.baselines.inferred_group:METHOD",
        "routing.linucb": "router_rl.methods.baselines.linucb:METHOD",
        "routing.thompson": "router_rl.methods.baselines.thompson:METHOD",
        "routing.hash": "router_rl.methods.baselines.hashing:METHOD",
        "routing.random": "router_rl.methods.baselines.constants:METHODS",
        "routing.best_single": "router_rl.methods.baselines.constants:METHODS",
        "routing.zero_router": "router_rl.methods.baselines.constants:METHODS",
        "routing.oracle": "router_rl.methods.baselines.oracle:ORACLE",
        "cascade.exact_pg": "router_rl.methods.cascade.cascade_training:METHODS",
        "cascade.guarded_pg": "router_rl.methods.cascade.guarded_pg:METHOD",
        "cascade.fitted_q": "router_rl.methods.cascade.cascade_training:METHODS",
        "cascade.thresholds": "router_rl.methods.cascade.thresholds:METHOD",
        "cascade.automix": "router_rl.methods.cascade.automix:METHOD",
        "cascade.lookahead": "router_rl.methods.cascade.lookahead:METHOD",
        "cascade.cascade_routing": "router_rl.methods.cascade.cascade_routing:METHOD",
        "cascade.adaptive_consistency": "router_rl.methods.cascade.adaptive_consistency:METHOD",
        "cascade.softmax_gate": "router_rl.methods.cascade.query_routers:METHODS",
        "cascade.warm_exact_pg": "router_rl.methods.cascade.query_routers:METHODS",
        "cascade.knn": "router_rl.methods.cascade.query_routers:METHODS",
        "cascade.ridge": "router_rl.methods.cascade.query_routers:METHODS",
        "cascade.kernel": "router_rl.methods.cascade.query_routers:METHODS",
        "cascade.beliefs": "router_rl.methods.cascade.one_shot_beliefs:METHOD",
        "cascade.best_single": "router_rl.methods.cascade.query_routers:METHODS",
        "cascade.random": "router_rl.methods.cascade.query_routers:METHODS",
        "cascade.ppo": "router_rl.methods.sb3_any_env:AMORTIZED",
        "cascade.router_ppo": "router_rl.methods.agents.env_ppo:AMORTIZED",
        "cascade.reinforce": "router_rl.methods.agents.env_reinforce:AMORTIZED",
        "cascade.oracle": "router_rl.methods.cascade.cascade_oracle:ORACLE",
        "queueing.rollout_iteration": "router_rl.methods.queueing.rollout_iteration:METHOD",
        "queueing.index_rule_late": "router_rl.methods.queueing.index_rule:METHODS",
        "queueing.index_rule_paced": "router_rl.methods.queueing.index_rule:METHODS",
        "queueing.index_rule": "router_rl.methods.queueing.index_rule:METHODS",
        "queueing.least_wait": "router_rl.methods.queueing.queue_rules:METHODS",
        "queueing.shortest_queue": "router_rl.methods.queueing.queue_rules:METHODS",
        "queueing.power_of_two": "router_rl.methods.queueing.queue_rules:METHODS",
        "queueing.round_robin": "router_rl.methods.queueing.queue_rules:METHODS",
        "queueing.random": "router_rl.methods.queueing.queue_rules:METHODS",
        "queueing.best_single": "router_rl.methods.queueing.queue_rules:METHODS",
        "queueing.static_gate": "router_rl.methods.queueing.queue_rules:METHODS",
        "queueing.softmax_gate": "router_rl.methods.queueing.queue_rules:METHODS",
        "queueing.cross_entropy": "router_rl.methods.queueing.price_search:METHOD",
        "queueing.least_finish": "router_rl.methods.queueing.server_rules:METHODS",
        "queueing.vllm_balancer": "router_rl.methods.queueing.server_rules:METHODS",
        "queueing.llmd": "router_rl.methods.queueing.server_rules:METHODS",
        "queueing.least_busy": "router_rl.methods.queueing.server_rules:METHODS",
        "queueing.usage_based": "router_rl.methods.queueing.server_rules:METHODS",
        "queueing.latency_based": "router_rl.methods.queueing.server_rules:METHODS",
        "queueing.cost_based": "router_rl.methods.queueing.server_rules:METHODS",
        "queueing.latency_aware": "router_rl.methods.queueing.server_rules:METHODS",
        "queueing.index_rule_learned": "router_rl.methods.queueing.index_rule:METHODS",
        "queueing.llmd_tuned": "router_rl.methods.queueing.server_search:METHODS",
        "queueing.litellm_tuned": "router_rl.methods.queueing.server_search:METHODS",
        "queueing.predicted_latency": "router_rl.methods.queueing.server_search:METHODS",
        "queueing.latency_tuned": "router_rl.methods.queueing.server_search:METHODS",
        "queueing.budget_relaxation": "router_rl.methods.queueing.budget_bounds:BOUNDS",
        "queueing.budget_mixture": "router_rl.methods.queueing.budget_bounds:BOUNDS",
        "queueing.ppo": "router_rl.methods.sb3_any_env:METHOD",
        "queueing.router_ppo": "router_rl.methods.agents.env_ppo:METHOD",
        "queueing.residual_ppo": "router_rl.methods.queueing.residual_queues:METHOD",
        "queueing.reinforce": "router_rl.methods.agents.env_reinforce:METHOD",
        "caching.cross_entropy": "router_rl.methods.caching.cache_search:METHOD",
        "caching.lru": "router_rl.methods.caching.cache_rules:METHODS",
        "caching.lfu": "router_rl.methods.caching.cache_rules:METHODS",
        "caching.pinned": "router_rl.methods.caching.cache_rules:METHODS",
        "caching.bonus": "router_rl.methods.caching.cache_rules:METHODS",
        "caching.index": "router_rl.methods.caching.cache_rules:METHODS",
        "caching.foresight": "router_rl.methods.caching.cache_rules:METHODS",
        "caching.belady": "router_rl.methods.caching.belady:BELADY",
        "caching.ppo": "router_rl.methods.sb3_any_env:METHOD",
        "caching.router_ppo": "router_rl.methods.agents.env_ppo:METHOD",
        "caching.residual_ppo": "router_rl.methods.caching.residual_caches:METHOD",
        "caching.reinforce": "router_rl.methods.agents.env_reinforce:METHOD",
        "session.rollout_iteration": "router_rl.methods.session.session_iteration:METHOD",
        "session.best_single": "router_rl.methods.session.session_rules:METHODS",
        "session.sticky": "router_rl.methods.session.session_rules:METHODS",
        "session.myopic": "router_rl.methods.session.session_rules:METHODS",
        "session.switching_bonus": "router_rl.methods.session.session_rules:METHODS",
        "session.context_threshold": "router_rl.methods.session.session_rules:METHODS",
        "session.refill_index": "router_rl.methods.session.session_rules:METHODS",
        "session.session_aware": "router_rl.methods.session.session_rules:METHODS",
        "session.dynamic_programming": "router_rl.methods.session.session_planner:BOUNDS",
        "session.planner": "router_rl.methods.session.session_planner:BOUNDS",
        "session.ppo": "router_rl.methods.sb3_any_env:METHOD",
        "session.dqn": "router_rl.methods.sb3_dqn:METHOD",
        "session.router_ppo": "router_rl.methods.agents.env_ppo:METHOD",
        "session.residual_ppo": "router_rl.methods.session.residual_sessions:METHOD",
        "session.reinforce": "router_rl.methods.agents.env_reinforce:METHOD",
        "token_moe.joint": "router_rl.methods.token_moe.token_learners:METHODS",
        "token_moe.outcome_table": "router_rl.methods.token_moe.token_learners:METHODS",
        "token_moe.reinforce": "router_rl.methods.token_moe.token_learners:METHODS",
        "token_moe.router_ppo": "router_rl.methods.token_moe.token_learners:METHODS",
        "token_moe.ppo": "router_rl.methods.token_moe.token_sb3:METHOD",
        "token_moe.grpo": "router_rl.methods.token_moe.answer_learners:METHODS",
        "token_moe.warm_grpo": "router_rl.methods.token_moe.warm_grpo:METHOD",
        "token_moe.right_answers": "router_rl.methods.token_moe.answer_learners:METHODS",
        "token_moe.softmax_gate": "router_rl.methods.token_moe.token_gates:METHODS",
        "token_moe.straight_through": "router_rl.methods.token_moe.token_gates:METHODS",
        "token_moe.switch_gate": "router_rl.methods.token_moe.token_gates:METHODS",
        "token_moe.deepseek_v3_gate": "router_rl.methods.token_moe.token_gates:METHODS",
        "token_moe.threshold_gate": "router_rl.methods.token_moe.threshold_gate:METHOD",
        "token_moe.remoe_gate": "router_rl.methods.token_moe.token_remoe:METHOD",
        "token_moe.arrow": "router_rl.methods.token_moe.arrow:METHOD",
        "token_moe.phatgoose": "router_rl.methods.token_moe.phatgoose:METHOD",
        "token_moe.own_gates": "router_rl.methods.token_moe.own_gates:METHOD",
        "token_moe.ridge": "router_rl.methods.token_moe.token_bounds:METHODS",
        "token_moe.uniform": "router_rl.methods.token_moe.token_bounds:METHODS",
        "token_moe.average": "router_rl.methods.token_moe.token_bounds:METHODS",
        "token_moe.layer_oracle": "router_rl.methods.token_moe.layer_hindsight:METHOD",
        "token_moe.dense": "router_rl.methods.token_moe.token_bounds:METHODS",
        "token_moe.best_single": "router_rl.methods.token_moe.token_bounds:METHODS",
        "token_moe.random": "router_rl.methods.token_moe.token_bounds:METHODS",
        "token_moe.label": "router_rl.methods.token_moe.token_bounds:METHODS",
        "token_moe.oracle": "router_rl.methods.token_moe.token_bounds:METHODS",
    },
)
"""`problem.method` to `module:ATTRIBUTE`; a tuple is searched for the name."""


def method_names(problem: str) -> list[str]:
    """Return the names of a problem's methods, those of installed packages last, without importing them.

    Args:
        problem: name of the problem.
    """
    prefix = f"{problem}."
    return [name.removeprefix(prefix) for name in METHODS if name.startswith(prefix)]


def find_method(problem: str, name: str) -> Method | Bound:
    """Import a method.

    Args:
        problem: name of the problem.
        name: name of the method.

    Raises:
        InputError: the name is unknown; the error suggests the nearest one.
    """
    entry = f"{problem}.{name}"
    if entry not in METHODS:
        raise unknown_name("method", name, method_names(problem))
    value: Method | Bound | tuple[Method | Bound, ...] = METHODS.load(entry)
    for method in value if isinstance(value, tuple) else (value,):
        if method.name == name:
            return method
    raise InputError("method", name, f"{METHODS[entry]} has no method of this name", "correct its name there")


def offers(problem: Problem, name: str) -> bool:
    """Return whether a problem has a method of a name, which does not refuse it.

    Args:
        problem: the problem.
        name: name of the method.
    """
    return name in method_names(problem.name) and find_method(problem.name, name).refusal(problem) is None


def methods_of(problem: Problem, names: Iterable[str] | None) -> list[Method | Bound]:
    """Return methods by name, plus those that every comparison of the problem includes.

    Args:
        problem: the problem.
        names: names of methods; all that do not refuse the problem if None.

    Raises:
        InputError: a name is unknown, or its method refuses the problem.
    """
    selected = [*(method_names(problem.name) if names is None else names), *problem.included]
    methods = [find_method(problem.name, name) for name in dict.fromkeys(selected)]
    refused = {each.name: reason for each in methods if (reason := each.refusal(problem)) is not None}
    for name in names or ():
        if name in refused:
            raise InputError("methods", name, refused[name], "leave it out, see `list`")
    return [each for each in methods if each.name not in refused]
