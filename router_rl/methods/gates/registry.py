"""Every learned gate by its name on the command line. A new one is a file and a line here."""

from __future__ import annotations

from ..method import Method
from . import (
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

__all__ = ["GATES"]

GATES: dict[str, Method] = {
    method.name: method
    for method in (
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
    )
}
