"""Every method by its name on the command line. A new one is a file and a line here."""

from __future__ import annotations

from experts.errors import unknown_name

from .agents import conditioned_pg, exact_pg, priced_pg, reinforce, router_ppo, sb3
from .baselines import centroid, constants, group_label, hashing, knn, linucb, ridge, thompson
from .gates import (
    deepseek_v2_gate,
    deepseek_v3_gate,
    em_gate,
    expert_choice_gate,
    mixtral_gate,
    noisy_topk_gate,
    remoe_gate,
    sinkhorn_gate,
    softmax_gate,
    straight_through_gate,
    switch_gate,
)
from .method import Method

__all__ = ["METHODS", "ORACLE", "find_method"]

# The oracle knows the outcomes, so it is measured, not fitted; it is named with the methods all the same.
ORACLE = "oracle"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="ppo",
            family="rl",
            fit=sb3.fit_ppo,
            settings=sb3.PPOSettings,
            space=sb3.PPO_SPACE,
            about="proximal policy optimisation (Stable-Baselines3)",
        ),
        Method(
            name="a2c",
            family="rl",
            fit=sb3.fit_a2c,
            settings=sb3.A2CSettings,
            space=sb3.A2C_SPACE,
            about="advantage actor-critic (Stable-Baselines3)",
        ),
        Method(
            name="dqn",
            family="rl",
            fit=sb3.fit_dqn,
            settings=sb3.DQNSettings,
            space=sb3.DQN_SPACE,
            about="deep Q-learning (Stable-Baselines3)",
            rules=("hard",),
        ),
        Method(
            name="reinforce",
            family="rl",
            fit=reinforce.fit,
            settings=reinforce.ReinforceSettings,
            space=reinforce.SPACE,
            about="score function with a leave-one-out baseline, on device",
        ),
        Method(
            name="router_ppo",
            family="rl",
            fit=router_ppo.fit,
            settings=router_ppo.RouterPPOSettings,
            space=router_ppo.SPACE,
            about="clipped surrogate with a group baseline, on device",
        ),
        Method(
            name="exact_pg",
            family="rl",
            fit=exact_pg.fit,
            settings=exact_pg.ExactPGSettings,
            space=exact_pg.SPACE,
            about="all-action policy gradient on the expected utility",
            holds_budget=True,
        ),
        Method(
            name="warm_exact_pg",
            family="rl",
            fit=exact_pg.fit_warm,
            settings=exact_pg.WarmExactPGSettings,
            space=exact_pg.WARM_SPACE,
            about="exact_pg from the softmax gate's weights",
            holds_budget=True,
        ),
        Method(
            name="conditioned_pg",
            family="rl",
            fit=conditioned_pg.fit,
            settings=conditioned_pg.ConditionedPGSettings,
            space=conditioned_pg.SPACE,
            about="one policy for every compute weight, which is its input",
            over=conditioned_pg.over,
        ),
        Method(
            name="priced_pg",
            family="rl",
            fit=priced_pg.fit,
            settings=priced_pg.PricedPGSettings,
            space=priced_pg.SPACE,
            about="a few weights over regressions, for every compute weight and price",
            rules=("hard",),
            over=priced_pg.over,
        ),
        Method(
            name="softmax_gate",
            family="gate",
            fit=softmax_gate.fit,
            settings=softmax_gate.SoftmaxGateSettings,
            space=softmax_gate.SPACE,
            about="mixture trained by its task loss (Jacobs et al. 1991)",
        ),
        Method(
            name="noisy_topk_gate",
            family="gate",
            fit=noisy_topk_gate.fit,
            settings=noisy_topk_gate.NoisyTopKGateSettings,
            space=noisy_topk_gate.SPACE,
            about="noise on the logits, k kept (Shazeer et al. 2017)",
            rules=noisy_topk_gate.RULES,
        ),
        Method(
            name="switch_gate",
            family="gate",
            fit=switch_gate.fit,
            settings=switch_gate.SwitchGateSettings,
            space=switch_gate.SPACE,
            about="top-1 scaled by its probability (Fedus et al. 2021)",
        ),
        Method(
            name="mixtral_gate",
            family="gate",
            fit=mixtral_gate.fit,
            settings=mixtral_gate.MixtralGateSettings,
            space=mixtral_gate.SPACE,
            about="softmax over the k chosen (Jiang et al. 2024)",
            rules=mixtral_gate.RULES,
        ),
        Method(
            name="deepseek_v2_gate",
            family="gate",
            fit=deepseek_v2_gate.fit,
            settings=deepseek_v2_gate.DeepSeekV2GateSettings,
            space=deepseek_v2_gate.SPACE,
            about="group-limited top-k of a softmax (DeepSeek-AI 2024)",
            rules=deepseek_v2_gate.RULES,
        ),
        Method(
            name="deepseek_v3_gate",
            family="gate",
            fit=deepseek_v3_gate.fit,
            settings=deepseek_v3_gate.DeepSeekV3GateSettings,
            space=deepseek_v3_gate.SPACE,
            about="sigmoid scores balanced by a bias (DeepSeek-AI 2024)",
            rules=deepseek_v3_gate.RULES,
        ),
        Method(
            name="expert_choice_gate",
            family="gate",
            fit=expert_choice_gate.fit,
            settings=expert_choice_gate.ExpertChoiceGateSettings,
            space=expert_choice_gate.SPACE,
            about="experts pick queries while training (Zhou et al. 2022)",
            rules=expert_choice_gate.RULES,
        ),
        Method(
            name="sinkhorn_gate",
            family="gate",
            fit=sinkhorn_gate.fit,
            settings=sinkhorn_gate.SinkhornGateSettings,
            space=sinkhorn_gate.SPACE,
            about="balanced transport plan (Lewis et al. 2021; Clark et al. 2022)",
            rules=sinkhorn_gate.RULES,
        ),
        Method(
            name="straight_through_gate",
            family="gate",
            fit=straight_through_gate.fit,
            settings=straight_through_gate.StraightThroughGateSettings,
            space=straight_through_gate.SPACE,
            about="sparse choice, gradient of the dense mixture (Yao et al. 2025)",
            rules=straight_through_gate.RULES,
        ),
        Method(
            name="remoe_gate",
            family="gate",
            fit=remoe_gate.fit,
            settings=remoe_gate.ReMoEGateSettings,
            space=remoe_gate.SPACE,
            about="ReLU weights under an adaptive L1 (Wang et al. 2025)",
            rules=remoe_gate.RULES,
        ),
        Method(
            name="em_gate",
            family="gate",
            fit=em_gate.fit,
            settings=em_gate.EMGateSettings,
            space=em_gate.SPACE,
            about="responsibilities and maximum likelihood (Jordan & Jacobs 1994)",
        ),
        Method(
            name="ridge",
            family="baseline",
            fit=ridge.fit,
            settings=ridge.RidgeSettings,
            space=ridge.SPACE,
            about="ridge regression of each expert's utility",
        ),
        Method(
            name="centroid",
            family="baseline",
            fit=centroid.fit,
            settings=centroid.CentroidSettings,
            space=centroid.SPACE,
            about="nearest mean of the queries each expert is best on",
        ),
        Method(
            name="knn",
            family="baseline",
            fit=knn.fit,
            settings=knn.KNNSettings,
            space=knn.SPACE,
            about="mean utility on the nearest training queries",
        ),
        Method(
            name="group_label",
            family="baseline",
            fit=group_label.fit,
            settings=group_label.GroupLabelSettings,
            space=group_label.SPACE,
            about="the best expert of the query's group",
            needs=("group",),
        ),
        Method(
            name="linucb",
            family="baseline",
            fit=linucb.fit,
            settings=linucb.LinUCBSettings,
            space=linucb.SPACE,
            about="bandit with confidence bounds (Li et al. 2010)",
        ),
        Method(
            name="thompson",
            family="baseline",
            fit=thompson.fit,
            settings=thompson.ThompsonSettings,
            space=thompson.SPACE,
            about="bandit with posterior draws (Agrawal & Goyal 2013)",
        ),
        Method(
            name="hash",
            family="baseline",
            fit=hashing.fit,
            settings=constants.NoSettings,
            about="a fixed pseudo-random expert a query (Roller et al. 2021)",
            holds_budget=True,
        ),
        Method(
            name="random",
            family="baseline",
            fit=constants.fit_random,
            settings=constants.NoSettings,
            about="every expert with equal probability",
            holds_budget=True,
        ),
        Method(
            name="best_single",
            family="baseline",
            fit=constants.fit_best_single,
            settings=constants.NoSettings,
            about="one expert for every query",
            holds_budget=True,
        ),
        Method(
            name="zero_router",
            family="baseline",
            fit=constants.fit_zero_router,
            settings=constants.NoSettings,
            about="best mixture of two constant routers",
            holds_budget=True,
        ),
    )
}


def find_method(name: str) -> Method:
    """Look a method up.

    Raises:
        InputError: unknown; suggests the nearest name.
    """
    if name not in METHODS:
        raise unknown_name("method", name, [*METHODS, ORACLE])
    return METHODS[name]
