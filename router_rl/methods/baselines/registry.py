"""Every baseline by its name on the command line. A new one is a file and a line here."""

from __future__ import annotations

from ..method import Method
from . import centroid, constants, group_label, hashing, knn, linucb, ridge, thompson

__all__ = ["BASELINES"]

BASELINES: dict[str, Method] = {
    method.name: method
    for method in (
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
