"""The narrow waist: everything after it sees only squared distances."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk

__all__ = ["squared_distances"]

# Centred squared distances are good to a few units of rounding, relative to the squared distances from the mean.
ROUNDING = 8 * np.finfo(np.float64).eps
ROWS = 256  # rows finished at a time: their temporaries stay small beside the result


def squared_distances(X: Any, Y: Any = None, *, block_bytes: int = 2**27, device: Any = None) -> NDArray[np.float64]:
    """Squared Euclidean distances between the rows of X, or from those of X to those of Y.

    The points are read once, in blocks of columns, centred on the mean of X and multiplied in float64:
    ``|x - y|^2 = |x|^2 + |y|^2 - 2 x.y``. Centring matters: late in training the distance between two snapshots is a
    millionth of their norm, and the products would swallow it. What remains is an error of a few 1e-16 of the squared
    distances from the mean; a distance below that counts as zero, so that equal points are at distance zero. While
    one block is multiplied the next is read.

    Parameters
    ----------
    X, Y
        Arrays of shape (n, D) and (m, D), of any real type: whatever can be sliced by columns, such as numpy arrays
        and memory maps, Zarr and Dask arrays, torch tensors on any device, or lists of rows. Arrays on disk are read
        fastest when they are stored in chunks of columns.
    block_bytes
        Memory in float64 for the blocks: all that is needed beside the result.
    device
        A torch device, such as ``"cuda"``, to multiply on; its memory must hold the result and the blocks. Left out,
        the processor multiplies.

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
    blocks = [X]
    if Y is not None:
        Y, m, other = _points("Y", Y)
        if other != dimension:
            raise ValueError(f"Y must have the dimension of X, {dimension}, got {other}")
        blocks.append(Y)
    if not block_bytes > 0:
        raise ValueError(f"block_bytes must be positive, got {block_bytes!r}")
    pieces = _centred_blocks(blocks, dimension, int(block_bytes))
    if Y is not None:
        return _between(pieces, n, m, device)
    return _among(pieces, n) if device is None else _among_on_device(pieces, n, device)


def _among(pieces: Iterator[list[NDArray[np.float64]]], n: int) -> NDArray[np.float64]:
    gram = np.zeros((n, n), order="F")
    for (x,) in pieces:
        gram = dsyrk(1.0, x.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)  # the lower triangle, in place
    return _finish(gram.T)  # which is the upper triangle of its transpose, whose rows lie together in memory


def _among_on_device(pieces: Iterator[list[NDArray[np.float64]]], n: int, device: Any) -> NDArray[np.float64]:
    import torch

    gram = torch.zeros(n, n, dtype=torch.float64, device=device)
    for (x,) in pieces:
        block = torch.from_numpy(x).to(device)
        gram.addmm_(block, block.T)
    return _finish(gram.cpu().numpy())


def _finish(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the upper triangle of products into distances, and mirror it, in place."""
    norms = gram.diagonal().copy()
    _refuse("X", ~np.isfinite(norms))
    for start in range(0, len(gram), ROWS):
        rows = slice(start, start + ROWS)
        _from_products(gram[rows, start:], norms[rows], norms[start:])
        corner = gram[rows, rows]
        corner[...] = np.triu(corner, 1) + np.triu(corner, 1).T
        gram[rows, :start] = gram[:start, rows].T
    return gram


def _between(pieces: Iterator[list[NDArray[np.float64]]], n: int, m: int, device: Any) -> NDArray[np.float64]:
    product, x_norms, y_norms = np.zeros((n, m)), np.zeros(n), np.zeros(m)
    for x, y in pieces:
        with np.errstate(invalid="ignore", over="ignore"):  # refused below
            product += x @ y.T if device is None else _product_on_device(x, y, device)
            x_norms += np.einsum("ij,ij->i", x, x)
            y_norms += np.einsum("ij,ij->i", y, y)
    _refuse("X", ~np.isfinite(x_norms))
    _refuse("Y", ~np.isfinite(y_norms))
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        _from_products(product[rows], x_norms[rows], y_norms)
    return product


def _product_on_device(x: NDArray[np.float64], y: NDArray[np.float64], device: Any) -> NDArray[np.float64]:
    import torch

    return (torch.from_numpy(x).to(device) @ torch.from_numpy(y).to(device).T).cpu().numpy()


def _from_products(products: NDArray[np.float64], x_norms: NDArray[np.float64], y_norms: NDArray[np.float64]) -> None:
    """Turn x.y into |x|^2 + |y|^2 - 2 x.y, in place."""
    sums = x_norms[:, None] + y_norms
    products *= -2
    products += sums
    sums *= ROUNDING
    products[products < sums] = 0


def _points(name: str, points: Any) -> tuple[Any, int, int]:
    """The points, as they are where they can be sliced by columns, and their two sizes."""
    points = points if hasattr(points, "shape") else np.asarray(points)
    shape = tuple(points.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{name} must be 2-D (points, coordinates) and not empty, got shape {shape}")
    return points, *shape


def _centred_blocks(arrays: list[Any], dimension: int, block_bytes: int) -> Iterator[list[NDArray[np.float64]]]:
    """Blocks of columns of all the arrays, centred on the first one's mean; the next is read while one is used."""
    rows = sum(array.shape[0] for array in arrays)
    width = max(1, block_bytes // (2 * 8 * rows))  # two blocks are in memory at a time

    def read(start: int) -> list[NDArray[np.float64]]:
        blocks = [_block(array, slice(start, start + width)) for array in arrays]
        mean = _mean(blocks[0])
        for block in blocks:
            block -= mean
        return blocks

    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(read, 0)
        for start in range(width, dimension, width):
            blocks, coming = coming.result(), reader.submit(read, start)
            yield blocks
        yield coming.result()


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
