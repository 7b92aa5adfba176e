"""Routing inside a language model: one linear router a layer, trained over frozen FFN experts."""

from . import bounds
from .backprop import GATES, train_gate
from .counterfactual import CounterfactualSettings, train_counterfactual
from .measure import Measured, measure
from .reinforce import TokenReinforceSettings, train_reinforce
from .ridge import RidgeSettings, fit_ridge
from .routers import LayerRouters
from .training import Training

__all__ = [
    "GATES",
    "CounterfactualSettings",
    "LayerRouters",
    "Measured",
    "RidgeSettings",
    "TokenReinforceSettings",
    "Training",
    "bounds",
    "fit_ridge",
    "measure",
    "train_counterfactual",
    "train_gate",
    "train_reinforce",
]
