"""What a class must define to be a selection rule."""

from __future__ import annotations

import pytest
import torch

from router_rl.routing import SELECTIONS, Selection

REQUIRED = ("check", "spec", "select", "sample", "weigh", "log_prob", "entropy")


def _rule(*names: str) -> type[Selection]:
    """Return a class that defines functions of these names."""
    return type("Rule", (Selection,), {name: lambda self, *_: None for name in names})


def test_a_rule_needs_no_more_than_the_abstract_functions() -> None:
    rule = _rule(*REQUIRED)()
    rule.k = 3
    assert list(rule.sizes(8)) == [3]
    assert rule.outputs(8) == 8


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_rule_without_one_of_them_cannot_be_made(missing: str) -> None:
    with pytest.raises(TypeError, match=missing):
        _rule(*(name for name in REQUIRED if name != missing))()


def test_only_expert_choice_reads_the_whole_batch() -> None:
    assert _rule(*REQUIRED).causal
    assert [name for name, rule in SELECTIONS.items() if not rule.causal] == ["expert_choice"]
    assert _rule(*REQUIRED).normalised
    assert [name for name, rule in SELECTIONS.items() if not rule.normalised] == ["unnormalised_topk"]


def test_the_first_draw_is_of_the_softmax_of_each_row() -> None:
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    found = _rule(*REQUIRED)().probabilities(logits)
    torch.testing.assert_close(found, logits.exp() / logits.exp().sum(dim=-1, keepdim=True))
