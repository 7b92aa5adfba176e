"""Training of experts: classifiers by gradient descent, mixtures by expectation-maximisation."""

from .em import EMFit, Mixture, e_step, fit_em
from .em_experts import EMExpert, LinearGaussianExpert, LogisticExpert, NetworkExpert
from .em_gates import GateTree
from .em_starts import kmeans_responsibilities, random_responsibilities
from .specialisation import mutual_information_bits
from .specialists import Recipe, train_classifier

__all__ = [
    "EMExpert",
    "EMFit",
    "GateTree",
    "LinearGaussianExpert",
    "LogisticExpert",
    "Mixture",
    "NetworkExpert",
    "Recipe",
    "e_step",
    "fit_em",
    "kmeans_responsibilities",
    "mutual_information_bits",
    "random_responsibilities",
    "train_classifier",
]
