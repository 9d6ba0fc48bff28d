"""Functions on a map: extend them to new points, and lift coordinates back to parameters."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .distances import squared_distances
from .kernels import Epsilon, chosen_bandwidth, gaussian_kernel

__all__ = ["GeometricHarmonics"]

FAR = 1e-3  # affinity to the nearest point of the fit, below which an extension knows next to nothing
ALONE = 1 - 1e-8  # leverage of a point that no other reaches: its residual is rounding


class GeometricHarmonics(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Extends functions given at n points to new points (Coifman and Lafon 2006, Geometric harmonics).

    The functions are projected onto the leading eigenvectors of the Gaussian kernel matrix of the points, and each
    eigenvector is extended by the kernel itself: ``phi(x) = sum_j k(x, x_j) phi_j / mu``. Small eigenvalues mu would
    blow up what noise there is in the extension, so eigenvectors below a fraction of the largest are left out.

    Extend the loss over a map with ``fit(embedding, loss)``; lift coordinates to parameters with
    ``fit(embedding[:, :1], trajectory.points)``. Far from all points every extension falls to the mean.

    Parameters
    ----------
    epsilon
        Bandwidth of ``exp(-d^2 / (4 epsilon))``: a number, the name of a rule, or a function of squared distances.
    condition
        Keep the eigenvectors whose eigenvalue is above the largest divided by this, > 1. Larger follows the function
        closer at the points, and strays farther between them.

    Attributes
    ----------
    epsilon_ : float
        The bandwidth used.
    n_harmonics_ : int
        How many eigenvectors are kept.
    error_ : float
        Leave-one-out error of the projection, relative to the spread of the functions: root of the sum of squares of
        ``(f_i - projection_i) / (1 - h_ii)`` over that of ``f_i - mean``, where h projects onto the kept eigenvectors.
        A point that no other reaches (``h_ii = 1``) counts with ``f_i - mean``, since nothing else is known of it.
        0 is exact, 1 is no better than the mean. It speaks of points between the others, not of points beyond them.

    Raises
    ------
    ValueError
        From ``fit``, where X and y do not fit together, hold NaN or infinity, or a parameter is out of range.

    Warns
    -----
    UserWarning
        From ``predict``, where points are so far from all of the fit that only the mean is left there.
    """

    def __init__(
        self,
        epsilon: Epsilon = "median",
        condition: float = 1e6,
    ) -> None:
        self.epsilon = epsilon
        self.condition = condition

    def fit(self, X: Any, y: Any) -> Self:
        """Learn functions y, (n,) or (n, m), at points X of shape (n, d)."""
        if not self.condition > 1:
            raise ValueError(f"condition must be above 1, got {self.condition!r}")
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2)
        d2 = squared_distances(X)
        self.epsilon_ = chosen_bandwidth(self.epsilon, d2)
        values, vectors = eigh(gaussian_kernel(d2, self.epsilon_), driver="evd", overwrite_a=True)
        kept = values > values[-1] / self.condition
        values, vectors = values[kept], vectors[:, kept]
        self.n_harmonics_ = int(kept.sum())
        self._mean = y.mean(axis=0)
        weights = vectors.T @ (y - self._mean)
        self.error_ = _leave_one_out(y - self._mean, vectors @ weights, vectors)
        self._coefficients = vectors @ (weights.T / values).T
        self._points = X
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The functions, (n,) or (n, m), at new points X of shape (n, d)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        affinities = gaussian_kernel(squared_distances(X, self._points), self.epsilon_)
        far = np.flatnonzero(affinities.max(axis=1) < FAR)
        if len(far):
            warnings.warn(
                f"{len(far)} of {len(X)} points of X, the first at row {far[0]}, are so far from all points of the fit "
                f"(largest affinity below {FAR:g}) that what is said of them is little but the mean",
                stacklevel=2,
            )
        return affinities @ self._coefficients + self._mean


def _leave_one_out(y: NDArray[np.float64], projection: NDArray[np.float64], vectors: NDArray[np.float64]) -> float:
    leverage = np.einsum("ij,ij->i", vectors, vectors)
    alone = leverage > ALONE
    missed = np.where(alone, y.T, (y - projection).T / np.where(alone, 1, 1 - leverage))
    spread = np.linalg.norm(y)
    return float(np.linalg.norm(missed) / spread) if spread > 0 else 0.0
