"""Metrics of rankings between two experts, where CPT(50%) and CPT(80%) differ."""

from __future__ import annotations

import numpy as np
import pytest

from router_rl.studies.frontier import Ranking, cpt, ranking_facts


def test_kills_cpt80_that_is_cpt50() -> None:
    """Of ten rows in the router's order, the strong expert gains on rows 0, 1, 4, 6 and 9."""
    strong = np.isin(np.arange(10), [0, 1, 4, 6, 9]).astype(float)
    ranking = Ranking(weak=np.zeros(10), strong=strong, score=-np.arange(10.0))
    assert cpt(ranking.weak, ranking.strong, ranking.score, 0.5) == pytest.approx(0.5)
    assert cpt(ranking.weak, ranking.strong, ranking.score, 0.8) == pytest.approx(0.7)
    facts = ranking_facts({"router": [ranking]}, resamples=50)["router"]
    assert facts["cpt50"]["value"] == pytest.approx(0.5)
    assert facts["cpt80"]["value"] == pytest.approx(0.7)


def test_kills_rankings_of_one_seed_only() -> None:
    """One seed ranks all gains first, the other last: their mean is reported."""
    strong = np.repeat([1.0, 0.0], 5)
    first, last = (
        Ranking(weak=np.zeros(10), strong=strong, score=sign * np.arange(10.0)) for sign in (-1.0, 1.0)
    )
    facts = ranking_facts({"router": [first, last]}, resamples=50)["router"]
    assert facts["cpt80"]["value"] == pytest.approx((0.4 + 0.9) / 2)
