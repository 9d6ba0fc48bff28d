"""How many coordinates are new: estimates of dimension, each of which counts something else."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .distances import squared_distances
from .kernels import kernel_sum_scan

__all__ = ["kernel_dimension", "maximum_likelihood_dimension", "new_coordinates", "participation_ratio", "two_nn"]

Metric = Literal["euclidean", "precomputed"]


def participation_ratio(X: Any, metric: Metric = "euclidean") -> float:
    """Number of directions that share the variance of points X (n, D): ``(sum h)^2 / sum h^2`` of covariances h.

    It counts linear directions, noise included: D for isotropic noise, 1 for a straight line, and more than 1 for a
    line that bends. With ``metric="precomputed"`` X holds squared distances (n, n). Between 1 and min(n - 1, D).
    ValueError where no two points differ.
    """
    d2 = _distances(X, metric)
    rows = d2.mean(axis=1)
    gram = (rows[:, None] + rows - d2 - rows.mean()) / 2  # products of the centred points
    total = np.trace(gram)
    if not total > 0:
        raise ValueError(f"X must hold points that differ, got {len(d2)} identical ones")
    gram /= total
    return float(1 / np.vdot(gram, gram))


def kernel_dimension(X: Any, metric: Metric = "euclidean") -> float:
    """Twice the largest slope of the log kernel sum against log epsilon, for points X of shape (n, D).

    It counts how the number of neighbors grows with distance, at the scale where it grows fastest (Coifman,
    Shkolnisky, Sigworth and Singer 2008; Berry and Harlim 2016).
    """
    return float(2 * kernel_sum_scan(_distances(X, metric)).slopes.max())


def two_nn(X: Any, metric: Metric = "euclidean") -> float:
    """TwoNN estimate (Facco, d'Errico, Rodriguez and Laio 2017) for points X (n, D), from scikit-dimension.

    It counts from the ratio of each point's second to its first neighbor's distance, so it sees the finest scale:
    the noise, if there is any, and nonsense where points are evenly spaced. Points on top of others are left out, with
    a warning. With ``metric="precomputed"`` X holds squared distances (n, n). ValueError for fewer than three points.
    """
    import skdim  # compiled at import, which takes a second that other users of this module need not wait

    return float(skdim.id.TwoNN(dist=True).fit(_nearest(X, 2, metric)).dimension_)


def maximum_likelihood_dimension(X: Any, n_neighbors: int = 20, metric: Metric = "euclidean") -> float:
    """Maximum-likelihood estimate (Levina and Bickel 2004) for points X (n, D), from scikit-dimension.

    With ``metric="precomputed"`` X holds squared distances (n, n). ValueError where ``n_neighbors`` is not above 2 and
    below n, or where points lie on top of one another.
    """
    import skdim

    if not 2 < n_neighbors < len(X):
        raise ValueError(f"n_neighbors must be above 2 and below the {len(X)} points, got {n_neighbors!r}")
    near = _nearest(X, n_neighbors, metric)
    if not near[:, 0].all():
        raise ValueError(
            f"X must not hold points on top of one another, got {np.sum(near[:, 0] == 0)}: leave out all but one"
        )
    # The distances are all that it needs: it would compute others, which late in training are mostly rounding.
    found = skdim.id.MLE(K=n_neighbors).fit(near, n_neighbors=n_neighbors, precomputed_knn_arrays=(near, near))
    return float(found.dimension_)


def new_coordinates(psi: Any, bandwidth_share: float = 1 / 3) -> NDArray[np.float64]:
    """How new each coordinate is, given those before it: residuals of local linear regression.

    Each column of ``psi`` (n, m) is predicted at each point from the columns before it, by linear regression on the
    other points with Gaussian weights ``exp(-d^2 / h^2)``, h being ``bandwidth_share`` of the median distance (Dsilva,
    Talmon, Coifman and Kevrekidis 2018). The residual is the root mean square error relative to the column's: near 0
    for a function of the columns before, such as a horseshoe's arch, and large for a new direction. The first is 1.

    Where over half of the pairs coincide, as in a column that singles out one point, h is 0, and a point is predicted
    from the nearest ones alone. A column of zeros is not new.

    Returns an array (m,). ValueError where psi is not 2-D, not finite, or of fewer than two points.
    """
    psi = np.asarray(psi, dtype=np.float64)
    if psi.ndim != 2 or len(psi) < 2 or not np.isfinite(psi).all():
        raise ValueError(f"psi must be a finite 2-D array (points, coordinates) of 2 points or more, got {psi.shape}")
    psi = psi / (np.abs(psi).max(initial=0) or 1)  # the unit makes no difference, but squares could overflow
    residuals = [1.0]
    for k in range(1, psi.shape[1]):
        missed = psi[:, k] - _predict_locally(psi[:, :k], psi[:, k], bandwidth_share)
        residuals.append(float(np.linalg.norm(missed) / (np.linalg.norm(psi[:, k]) or 1)))
    return np.array(residuals)


def _predict_locally(
    known: NDArray[np.float64], target: NDArray[np.float64], bandwidth_share: float
) -> NDArray[np.float64]:
    """Leave-one-out predictions of local linear regression."""
    distances = np.sqrt(squared_distances(known))
    scale = bandwidth_share * np.median(distances[np.tri(len(known), k=-1, dtype=bool)])
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(axis=1, keepdims=True)
    if scale > 0:  # a common factor of a point's weights makes no difference: the nearest gets 1, so none underflow
        weights = np.exp((nearest - distances) / scale * ((nearest + distances) / scale))
    else:
        weights = np.where(distances > nearest, 0.0, 1.0)
    design = np.column_stack([np.ones(len(known)), known])
    moments = np.einsum("ij,jk,jl->ikl", weights, design, design, optimize=True)
    sides = np.einsum("ij,jk,j->ik", weights, design, target, optimize=True)
    coefficients = np.einsum("ikl,il->ik", np.linalg.pinv(moments, rcond=1e-10, hermitian=True), sides)
    return np.einsum("ik,ik->i", design, coefficients)


def _nearest(X: Any, k: int, metric: Metric) -> NDArray[np.float64]:
    """Distances (n, k) of each point to its k nearest others, rising."""
    d2 = _distances(X, metric)
    d2 = d2.copy() if metric == "precomputed" else d2  # the caller's stay as they are
    if len(d2) <= k:
        raise ValueError(f"X must hold more than {k} points, got {len(d2)}")
    np.fill_diagonal(d2, np.inf)
    d2.partition(k - 1, axis=1)
    return np.sqrt(np.sort(d2[:, :k], axis=1))


def _distances(X: Any, metric: Metric) -> NDArray[np.float64]:
    if metric not in ("euclidean", "precomputed"):
        raise ValueError(f"metric must be 'euclidean' or 'precomputed', got {metric!r}")
    return squared_distances(X) if metric == "euclidean" else np.asarray(X, dtype=np.float64)
