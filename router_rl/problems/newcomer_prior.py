"""What the outcomes of the existing experts say about a new one, before it answers anything.

The new expert's quality on query t is a linear function of what is known about t:

    y_t = x_t . b + noise,    x_t = (m_t, 1, region of t as one-hot, z_t1, ..., z_tN)

m_t is the mean quality of the N existing experts on t, and z_te the deviation of expert e from it: the
experts are the factors, so b is the new expert's embedding in the space of their outcomes. The prior of b is
normal with mean (1, 0, ..., 0), "an average expert", and one variance for each of the four blocks. These
variances and that of the noise are estimated by empirical Bayes: each existing expert in turn is taken for
the new one, and the sum of their log marginal likelihoods is maximised.

The estimated prior knows experts like the existing ones. A new one may be better than all of them, and may be
a sibling of one, so `widened` makes the prior of the level nearly flat and that of the deviations wider.

Source: MacKay 1992, Bayesian Interpolation, https://doi.org/10.1162/neco.1992.4.3.415 (evidence); the linear
regression on all existing outcomes is kriging over experts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

__all__ = ["PriorVariances", "covariates", "estimated_variances", "log_evidence"]

_START = (0.1, 0.02, 0.01, 0.5, 0.12)
_BOUNDS = ((-12.0, 3.0),) * 4 + ((-8.0, 1.0),)  # of the logarithms
_LEVEL, _DEVIATIONS = 100.0, 10.0  # factors of `widened`


@dataclass(frozen=True, kw_only=True)
class PriorVariances:
    """Variances of the new expert's coefficients and of the noise; all above 0.

    Attributes:
        slope: of the coefficient of the mean quality, whose prior mean is 1.
        level: of the constant.
        region: of each region's coefficient.
        deviations: of the sum of the coefficients of the experts' deviations: each has this over N.
        noise: of a single outcome.
    """

    slope: float
    level: float
    region: float
    deviations: float
    noise: float

    def widened(self) -> PriorVariances:
        """Return a prior for a new expert that may be outside the range of the existing ones."""
        return replace(self, level=_LEVEL * self.level, deviations=_DEVIATIONS * self.deviations)

    def of_coefficients(self, regions: int, experts: int) -> np.ndarray:
        """Return the variance of each coefficient, [2 + G + N] float64.

        Args:
            regions: G.
            experts: N.
        """
        blocks = [self.slope, self.level], [self.region] * regions, [self.deviations / experts] * experts
        return np.concatenate(blocks)


def covariates(quality: np.ndarray, region: np.ndarray, regions: int) -> np.ndarray:
    """Return what is known about each query, x [T, 2 + G + N] float64.

    Args:
        quality: [T, N] float, quality of the existing experts.
        region: [T] int, region of each query, 0 to G - 1.
        regions: G.

    >>> covariates(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([0, 0]), 1)
    array([[ 0.5 ,  1.  ,  1.  ,  0.25, -0.25],
           [ 1.  ,  1.  ,  1.  , -0.25,  0.25]])
    """
    quality = np.asarray(quality, dtype=np.float64)
    mean = quality.mean(axis=1, keepdims=True)
    deviation = quality - mean
    one_hot = np.eye(regions)[region]
    return np.hstack([mean, np.ones_like(mean), one_hot, deviation - deviation.mean(axis=0)])


def estimated_variances(quality: np.ndarray, region: np.ndarray, regions: int) -> PriorVariances:
    """Estimate the prior by taking each existing expert for the new one.

    Args:
        quality: [T, N] float, N at least 2.
        region: [T] int, 0 to G - 1.
        regions: G.
    """
    experts = quality.shape[1]
    moments: list[tuple[np.ndarray, np.ndarray, float]] = []
    for expert in range(experts):
        x = covariates(np.delete(quality, expert, axis=1), region, regions)
        residual = quality[:, expert].astype(np.float64) - x[:, 0]
        moments.append((x.T @ x, x.T @ residual, float(residual @ residual)))
    gram = torch.from_numpy(np.stack([each[0] for each in moments]))
    cross = torch.from_numpy(np.stack([each[1] for each in moments]))
    square = torch.tensor([each[2] for each in moments], dtype=torch.float64)

    def loss(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.tensor(logarithms, dtype=torch.float64, requires_grad=True)
        value = -_evidence(free.exp(), gram, cross, square, (len(quality), regions)).sum()
        (gradient,) = torch.autograd.grad(value, free)
        return float(value.detach()), gradient.numpy()

    best = minimize(loss, np.log(_START), jac=True, method="L-BFGS-B", bounds=_BOUNDS)
    slope, level, in_region, deviations, noise = np.exp(best.x).tolist()
    return PriorVariances(slope=slope, level=level, region=in_region, deviations=deviations, noise=noise)


def log_evidence(variances: PriorVariances, x: np.ndarray, y: np.ndarray, regions: int) -> float:
    """Return the log marginal likelihood of an expert's outcomes, coefficients integrated out.

    Args:
        variances: of the prior and of the noise.
        x: [T, 2 + G + N] float64, from `covariates`.
        y: [T] float, its quality.
        regions: G.
    """
    residual = y.astype(np.float64) - x[:, 0]
    values = (variances.slope, variances.level, variances.region, variances.deviations, variances.noise)
    gram, cross = torch.from_numpy(x.T @ x)[None], torch.from_numpy(x.T @ residual)[None]
    square = torch.tensor([residual @ residual], dtype=torch.float64)
    size = len(y), regions
    return float(_evidence(torch.tensor(values, dtype=torch.float64), gram, cross, square, size))


def _evidence(values: Tensor, gram: Tensor, cross: Tensor, square: Tensor, size: tuple[int, int]) -> Tensor:
    """Log marginal likelihoods [E] of experts with moments x'x [E, P, P], x'r [E, P] and r'r [E]."""
    rows, regions = size
    others = gram.shape[-1] - 2 - regions
    variance = torch.cat([values[:2], values[2].expand(regions), (values[3] / others).expand(others)])
    noise, root = values[4], variance.sqrt()
    system = torch.eye(len(root), dtype=torch.float64) + root[:, None] * gram * root / noise
    factor = torch.linalg.cholesky(system)
    solved = torch.linalg.solve_triangular(factor, (root * cross / noise).unsqueeze(-1), upper=False)
    determinant = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    fit = square / noise - solved.squeeze(-1).square().sum(dim=-1)
    return -0.5 * (rows * (2.0 * torch.pi * noise).log() + determinant + fit)
