"""Squared distances between near points only, for more points than a dense matrix holds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

__all__ = ["neighbor_distances", "within_reach"]

PAIRS = 2**16  # pairs whose differences are formed at a time
TIES = 1 + 1e-9  # two ways to compute one distance differ by rounding: the farther of them is still within reach


def neighbor_distances(X: Any, k: int, metric: str) -> tuple[csr_matrix, NDArray[np.float64]]:
    """Squared distances of each point to its k nearest, itself included, and of each point to those it is near to.

    X has shape (T, D), or (T, T) with squared distances where ``metric`` is ``"precomputed"``. Returns a symmetric
    csr matrix (T, T), whose stored entries are the pairs, zeros on the diagonal included, and for each point the
    squared distance (T,) to the farthest of its k. The distances are exact differences in float64.
    """
    near = np.argpartition(X, k - 1, axis=1)[:, :k] if metric == "precomputed" else _nearest(X, k)
    n = len(near)
    rows = np.repeat(np.arange(n), k)
    pairs = csr_matrix((np.ones(n * k, dtype=bool), (rows, near.ravel())), shape=(n, n))
    pairs = (pairs + pairs.T + csr_matrix((np.ones(n, dtype=bool), (range(n), range(n))))).tocsr()
    rows, columns = np.repeat(np.arange(n), np.diff(pairs.indptr)), pairs.indices
    values = X[rows, columns].astype(float) if metric == "precomputed" else _differences(X, rows, columns)
    d2 = csr_matrix((values, columns, pairs.indptr), shape=(n, n))
    reach = np.asarray([np.partition(d2.data[a:b], k - 1)[k - 1] for a, b in pairwise(d2.indptr)])
    return d2, reach


def within_reach(d2: NDArray[np.float64], k: int, reach: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the distances (n, T) from new points to the T old ones are between neighbors, from either side."""
    own = np.partition(d2, k - 1, axis=1)[:, k - 1]
    return d2 <= np.maximum(own[:, None], reach) * TIES


def _nearest(X: NDArray[Any], k: int) -> NDArray[np.intp]:
    centred = np.asarray(X, dtype=np.float64) - np.mean(X, axis=0, dtype=np.float64)
    return NearestNeighbors(n_neighbors=k).fit(centred).kneighbors(centred, return_distance=False)


def _differences(X: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    values = np.empty(len(rows))
    step = max(1, PAIRS // X.shape[1])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        difference = X[rows[block]].astype(np.float64) - X[columns[block]]
        values[block] = np.einsum("ij,ij->i", difference, difference)
    return values
