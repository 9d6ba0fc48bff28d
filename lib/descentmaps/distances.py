"""The narrow waist: everything after it sees only squared distances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk

__all__ = ["squared_distances"]

#: Below this part of |x|^2 + |y|^2 the difference of products is rounding alone, and two points count as one.
ROUNDING = 8 * np.finfo(np.float64).eps


def squared_distances(X: Any, Y: Any = None, *, block_bytes: int = 2**27) -> NDArray[np.float64]:
    """Squared Euclidean distances between the rows of X, or from those of X to those of Y.

    The points are read once, in blocks of columns, centred on the mean of X and multiplied in float64:
    ``|x - y|^2 = |x|^2 + |y|^2 - 2 x.y``. Centring matters: late in training the distance between two snapshots is a
    millionth of their norm, and the products would swallow it. What remains is an error of a few 1e-16 of the squared
    distances from the mean; a distance below that counts as zero, so that equal points are at distance zero.

    Parameters
    ----------
    X, Y
        Arrays of shape (n, D) and (m, D), of any real type: whatever can be sliced by columns, such as arrays in
        memory or on disk and torch tensors, or lists of rows.
    block_bytes
        Size of one block of columns in float64; the memory needed beside the result.

    Returns
    -------
    ndarray of float64, shape (n, m)
        In the squared unit of the coordinates; never negative. Symmetric with exact zeros on the diagonal where Y is
        left out.

    Raises
    ------
    ValueError
        X or Y is empty or not 2-D, their dimensions differ, one of them holds NaN, infinity or numbers too large to
        square, or ``block_bytes`` is not positive.
    """
    X, n, dimension = _points("X", X)
    if Y is None:
        return _self_distances(X, block_bytes)
    Y, m, other = _points("Y", Y)
    if other != dimension:
        raise ValueError(f"Y must have the dimension of X, {dimension}, got {other}")
    product, x_norms, y_norms = np.zeros((n, m)), np.zeros(n), np.zeros(m)
    for columns in _column_blocks(n + m, dimension, block_bytes):
        x, y = _block(X, columns), _block(Y, columns)
        mean = _mean(x)
        x -= mean
        y -= mean
        with np.errstate(invalid="ignore", over="ignore"):  # refused below
            product += x @ y.T
            x_norms += np.einsum("ij,ij->i", x, x)
            y_norms += np.einsum("ij,ij->i", y, y)
    _refuse("X", ~np.isfinite(x_norms))
    _refuse("Y", ~np.isfinite(y_norms))
    return _from_products(product, x_norms, y_norms)


def _self_distances(X: Any, block_bytes: int) -> NDArray[np.float64]:
    n, dimension = X.shape
    gram = np.zeros((n, n), order="F")
    for columns in _column_blocks(n, dimension, block_bytes):
        x = _block(X, columns)
        x -= _mean(x)
        gram = dsyrk(1.0, x.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)  # the lower triangle, in place
    norms = gram.diagonal().copy()
    _refuse("X", ~np.isfinite(norms))
    lower = np.tril(_from_products(gram, norms, norms), -1)
    return lower + lower.T


def _from_products(
    products: NDArray[np.float64], x_norms: NDArray[np.float64], y_norms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Turn x.y into |x|^2 + |y|^2 - 2 x.y, in place."""
    sums = x_norms[:, None] + y_norms
    products *= -2
    products += sums
    products[products < ROUNDING * sums] = 0
    return products


def _points(name: str, points: Any) -> tuple[Any, int, int]:
    """The points, as they are where they can be sliced by columns, and their two sizes."""
    points = points if hasattr(points, "shape") else np.asarray(points)
    shape = tuple(points.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{name} must be 2-D (points, coordinates) and not empty, got shape {shape}")
    return points, *shape


def _column_blocks(rows: int, dimension: int, block_bytes: int) -> Iterator[slice]:
    if not block_bytes > 0:
        raise ValueError(f"block_bytes must be positive, got {block_bytes!r}")
    width = max(1, int(block_bytes) // (8 * rows))
    return (slice(start, start + width) for start in range(0, dimension, width))


def _block(points: Any, columns: slice) -> NDArray[np.float64]:
    block = points[:, columns]
    if hasattr(block, "detach"):  # a torch tensor, whose gradient, device or type numpy may not know
        block = block.detach().cpu().double()
    return np.array(block, dtype=np.float64, order="C")  # always a copy: it is centred in place


def _mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean row; one bad row spoils it for all of them, so it is here that it is found."""
    with np.errstate(invalid="ignore", over="ignore"):
        mean = x.mean(axis=0)
    if not np.isfinite(mean).all():
        _refuse("X", ~np.isfinite(x).all(axis=1))
        _refuse("X", np.ones(len(x), dtype=bool))  # all finite, and yet too large to sum
    return mean


def _refuse(name: str, bad: Any) -> None:
    if bad.any():
        raise ValueError(
            f"{name} must be finite, and its squares too: NaN, infinity or too large in {np.count_nonzero(bad)} "
            f"points, the first at row {bad.argmax()}"
        )
