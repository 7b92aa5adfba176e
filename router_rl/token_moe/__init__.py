"""Routing inside a language model: one linear router a layer, trained over frozen FFN experts."""

from . import bounds
from .backprop import GATES, joint, train_gate
from .counterfactual import OUTCOME_TABLE, CounterfactualSettings, train_counterfactual
from .measure import Measured, measure
from .reinforce import TokenReinforceSettings, train_reinforce
from .ridge import RidgeSettings, fit_ridge
from .routers import LayerRouters
from .training import Training

__all__ = [
    "GATES",
    "OUTCOME_TABLE",
    "CounterfactualSettings",
    "LayerRouters",
    "Measured",
    "RidgeSettings",
    "TokenReinforceSettings",
    "Training",
    "bounds",
    "fit_ridge",
    "joint",
    "measure",
    "train_counterfactual",
    "train_gate",
    "train_reinforce",
]
