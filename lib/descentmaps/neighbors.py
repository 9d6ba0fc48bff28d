"""Squared distances between near points only, for more points than a dense matrix holds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

from .distances import ROUNDING

__all__ = ["neighbor_distances", "within_reach"]

TIES = 1 + 1e-9  # two ways to compute one distance differ by rounding: the farther of them is still within reach


def neighbor_distances(X: Any, k: int, metric: str) -> tuple[csr_matrix, NDArray[np.float64]]:
    """Squared distances of each point to its k nearest, itself included, and of each point to those it is near to.

    X has shape (T, D), or (T, T) with squared distances where ``metric`` is ``"precomputed"``. Returns a symmetric
    csr matrix (T, T), whose stored entries are the pairs, zeros on the diagonal included, and for each point the
    squared distance (T,) to the farthest of its k. The distances are those of points centered on their mean, in
    float64, as of :func:`descentmaps.squared_distances`.
    """
    near, values = _nearest_of_distances(X, k) if metric == "precomputed" else _nearest(X, k)
    n = len(near)
    own = np.arange(n)
    pairs = np.concatenate([np.ravel(own[:, None] * n + near), np.ravel(near * n + own[:, None]), own * (n + 1)])
    both = np.concatenate([values.ravel(), values.ravel(), np.zeros(n)])
    order = np.argsort(pairs, kind="stable")
    pairs, first = np.unique(pairs[order], return_index=True)
    rows, columns = np.divmod(pairs, n)
    d2 = csr_matrix((np.maximum.reduceat(both[order], first), (rows, columns)), shape=(n, n))
    reach = np.asarray([np.partition(d2.data[a:b], k - 1)[k - 1] for a, b in pairwise(d2.indptr)])
    return d2, reach


def within_reach(d2: NDArray[np.float64], k: int, reach: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the distances (n, T) from new points to the T old ones are between neighbors, from either side."""
    own = np.partition(d2, k - 1, axis=1)[:, k - 1]
    return d2 <= np.maximum(own[:, None], reach) * TIES


def _nearest_of_distances(d2: NDArray[Any], k: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    near = np.argpartition(d2, k - 1, axis=1)[:, :k]
    return near, np.take_along_axis(d2, near, axis=1).astype(np.float64)


def _nearest(X: NDArray[Any], k: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    centered = np.asarray(X, dtype=np.float64) - np.mean(X, axis=0, dtype=np.float64)
    distances, near = NearestNeighbors(n_neighbors=k - 1).fit(centered).kneighbors()  # beside the point itself
    values, norms = distances**2, np.einsum("ij,ij->i", centered, centered)
    values[values < ROUNDING * (norms[:, None] + norms[near])] = 0
    return near, values
