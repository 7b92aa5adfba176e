"""Registry of the methods of each problem. A new method is one file and one line here.

A method's module is imported when the method is used, so that names can be listed without importing torch.
Installed packages add methods through the entry point group `router_rl.methods`: the entry's name is
`problem.method`, its value the module and attribute of a `Method` or `Bound`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from experts.io.errors import InputError, unknown_name

if TYPE_CHECKING:
    from ..problems.problem import Problem
    from .method import Bound, Method

__all__ = ["METHODS", "find_method", "method_names", "methods_of"]

_ENTRY_POINTS = "router_rl.methods"

METHODS: dict[str, dict[str, str]] = {
    "routing": {
        "ppo": "router_rl.methods.agents.sb3:METHODS",
        "a2c": "router_rl.methods.agents.sb3:METHODS",
        "dqn": "router_rl.methods.agents.sb3:METHODS",
        "reinforce": "router_rl.methods.agents.reinforce:METHOD",
        "router_ppo": "router_rl.methods.agents.router_ppo:METHOD",
        "exact_pg": "router_rl.methods.agents.exact_pg:METHOD",
        "warm_exact_pg": "router_rl.methods.agents.warm_start:METHOD",
        "conditioned_pg": "router_rl.methods.agents.conditioned_pg:METHOD",
        "priced_pg": "router_rl.methods.agents.priced_pg:METHOD",
        "softmax_gate": "router_rl.methods.gates.softmax_gate:METHOD",
        "noisy_topk_gate": "router_rl.methods.gates.noisy_topk_gate:METHOD",
        "switch_gate": "router_rl.methods.gates.switch_gate:METHOD",
        "mixtral_gate": "router_rl.methods.gates.mixtral_gate:METHOD",
        "deepseek_v2_gate": "router_rl.methods.gates.deepseek_v2_gate:METHOD",
        "deepseek_v3_gate": "router_rl.methods.gates.deepseek_v3_gate:METHOD",
        "expert_choice_gate": "router_rl.methods.gates.expert_choice_gate:METHOD",
        "sinkhorn_gate": "router_rl.methods.gates.sinkhorn_gate:METHOD",
        "straight_through_gate": "router_rl.methods.gates.straight_through_gate:METHOD",
        "remoe_gate": "router_rl.methods.gates.remoe_gate:METHOD",
        "em_gate": "router_rl.methods.gates.em_gate:METHOD",
        "ridge": "router_rl.methods.baselines.ridge:METHOD",
        "centroid": "router_rl.methods.baselines.centroid:METHOD",
        "knn": "router_rl.methods.baselines.knn:METHOD",
        "group_label": "router_rl.methods.baselines.group_label:METHOD",
        "linucb": "router_rl.methods.baselines.linucb:METHOD",
        "thompson": "router_rl.methods.baselines.thompson:METHOD",
        "hash": "router_rl.methods.baselines.hashing:METHOD",
        "random": "router_rl.methods.baselines.constants:METHODS",
        "best_single": "router_rl.methods.baselines.constants:METHODS",
        "zero_router": "router_rl.methods.baselines.constants:METHODS",
        "oracle": "router_rl.methods.baselines.oracle:ORACLE",
    },
    "cascade": {
        "exact_pg": "router_rl.methods.cascade.cascade_training:METHODS",
        "fitted_q": "router_rl.methods.cascade.cascade_training:METHODS",
        "thresholds": "router_rl.methods.cascade.thresholds:METHOD",
        "automix": "router_rl.methods.cascade.automix:METHOD",
        "lookahead": "router_rl.methods.cascade.lookahead:METHOD",
        "softmax_gate": "router_rl.methods.cascade.query_routers:METHODS",
        "warm_exact_pg": "router_rl.methods.cascade.query_routers:METHODS",
        "best_single": "router_rl.methods.cascade.query_routers:METHODS",
        "random": "router_rl.methods.cascade.query_routers:METHODS",
        "ppo": "router_rl.methods.sb3_any_env:AMORTIZED",
        "oracle": "router_rl.methods.cascade.cascade_oracle:ORACLE",
    },
    "queueing": {
        "rollout_iteration": "router_rl.methods.queueing.rollout_iteration:METHOD",
        "index_rule_late": "router_rl.methods.queueing.index_rule:METHODS",
        "index_rule_paced": "router_rl.methods.queueing.index_rule:METHODS",
        "index_rule": "router_rl.methods.queueing.index_rule:METHODS",
        "least_wait": "router_rl.methods.queueing.queue_rules:METHODS",
        "shortest_queue": "router_rl.methods.queueing.queue_rules:METHODS",
        "power_of_two": "router_rl.methods.queueing.queue_rules:METHODS",
        "round_robin": "router_rl.methods.queueing.queue_rules:METHODS",
        "random": "router_rl.methods.queueing.queue_rules:METHODS",
        "best_single": "router_rl.methods.queueing.queue_rules:METHODS",
        "static_gate": "router_rl.methods.queueing.queue_rules:METHODS",
        "softmax_gate": "router_rl.methods.queueing.queue_rules:METHODS",
        "ppo": "router_rl.methods.sb3_any_env:METHOD",
    },
    "caching": {
        "cross_entropy": "router_rl.methods.caching.cache_search:METHOD",
        "lru": "router_rl.methods.caching.cache_rules:METHODS",
        "lfu": "router_rl.methods.caching.cache_rules:METHODS",
        "pinned": "router_rl.methods.caching.cache_rules:METHODS",
        "bonus": "router_rl.methods.caching.cache_rules:METHODS",
        "index": "router_rl.methods.caching.cache_rules:METHODS",
        "foresight": "router_rl.methods.caching.cache_rules:METHODS",
        "belady": "router_rl.methods.caching.belady:BELADY",
        "ppo": "router_rl.methods.sb3_any_env:METHOD",
    },
    "token_moe": {
        "joint": "router_rl.methods.token_moe.token_learners:METHODS",
        "outcome_table": "router_rl.methods.token_moe.token_learners:METHODS",
        "reinforce": "router_rl.methods.token_moe.token_learners:METHODS",
        "softmax_gate": "router_rl.methods.token_moe.token_learners:METHODS",
        "straight_through": "router_rl.methods.token_moe.token_learners:METHODS",
        "ridge": "router_rl.methods.token_moe.token_bounds:METHODS",
        "uniform": "router_rl.methods.token_moe.token_bounds:METHODS",
        "average": "router_rl.methods.token_moe.token_bounds:METHODS",
        "dense": "router_rl.methods.token_moe.token_bounds:METHODS",
        "best_single": "router_rl.methods.token_moe.token_bounds:METHODS",
        "random": "router_rl.methods.token_moe.token_bounds:METHODS",
        "oracle": "router_rl.methods.token_moe.token_bounds:METHODS",
    },
}
"""Problem and method name to `module:ATTRIBUTE`; if the attribute is a tuple, it is searched for the name."""


def method_names(problem: str) -> list[str]:
    """Return the names of a problem's methods, those of installed packages last, without importing them.

    Args:
        problem: name of the problem.
    """
    return list(_locations(problem))


def find_method(problem: str, name: str) -> Method | Bound:
    """Import a method.

    Args:
        problem: name of the problem.
        name: name of the method.

    Raises:
        InputError: the name is unknown; the error suggests the nearest one.
    """
    locations = _locations(problem)
    if name not in locations:
        raise unknown_name("method", name, locations)
    return _import(locations[name], name)


def methods_of(problem: Problem, names: Iterable[str] | None) -> list[Method | Bound]:
    """Return methods by name, plus those that every comparison of the problem includes.

    Args:
        problem: the problem.
        names: names of methods; all if None.

    Raises:
        InputError: a name is unknown.
    """
    selected = [*(method_names(problem.name) if names is None else names), *problem.always]
    return [find_method(problem.name, name) for name in dict.fromkeys(selected)]


@cache
def _locations(problem: str) -> dict[str, str]:
    locations = dict(METHODS.get(problem, {}))
    for entry in entry_points(group=_ENTRY_POINTS):
        owner, _, name = entry.name.partition(".")
        if owner == problem:
            locations.setdefault(name, entry.value)
    return locations


@cache
def _import(location: str, name: str) -> Method | Bound:
    module, _, attribute = location.partition(":")
    value = getattr(import_module(module), attribute)
    methods = value if isinstance(value, tuple) else (value,)
    for method in methods:
        if method.name == name:
            return method
    raise InputError("method", name, f"{location} has no method of this name", "correct the registry line")
