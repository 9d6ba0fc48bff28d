"""The narrow waist: everything after it sees only squared distances."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from math import ceil
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk, ssyrk

from .progress import progress
from .readahead import announce

__all__ = ["squared_distances"]

# Centered squared distances are good to a few units of rounding, relative to the squared distances from the mean.
ROUNDING = 8 * float(np.finfo(np.float64).eps)
SINGLE_ROUNDING = 8 * float(np.finfo(np.float32).eps)
ROWS = 32  # rows finished at a time: their temporaries stay in the processor's cache
TILE = 64  # rows and columns mirrored at a time, for the same reason
STRIPS = 8  # of rows, multiplied one by one on a device, which has no symmetric product
ROOM, PANEL = 2**23, 1024  # bytes and columns of a block; the greater is enough, and more memory costs time to touch
READY = 2  # blocks made ready while one is multiplied
AHEAD = 2**28  # bytes in float64 that the system is told of at a time: it takes them off the disk in large pieces
LONG = 1e11  # products from which on progress is shown: about two seconds of one core

Blocks = Iterator[list[Any]]


def squared_distances(
    X: Any,
    Y: Any = None,
    *,
    block_bytes: int = 2**26,
    device: Any = None,
    dtype: Literal["float64", "float32"] = "float64",
) -> NDArray[np.float64]:
    """Squared Euclidean distances between the rows of X, or from those of X to those of Y.

    The points are read once, in blocks of columns, centered on the mean of X and multiplied in float64:
    ``|x - y|^2 = |x|^2 + |y|^2 - 2 x.y``. Centering matters: late in training the distance between two snapshots is a
    millionth of their norm, and the products would swallow it. What remains is an error of a few 1e-16 of the squared
    distances from the mean; a distance below that counts as zero, so that equal points are at distance zero. While
    one block is multiplied the next ones are read.

    Parameters
    ----------
    X, Y
        Arrays of shape (n, D) and (m, D), of any real type: whatever can be sliced by columns, such as numpy arrays
        and memory maps, Zarr and Dask arrays, torch tensors on any device, or lists of rows. Arrays on disk are read
        fastest when they are stored in chunks of columns.
    block_bytes
        Memory in float64 for the blocks, at most: all that is needed beside the result, save for what is read from
        disk, a few blocks or chunks in their own type. Chunks larger than this are read in parts, each as often as it
        has parts.
    device
        A torch device, such as ``"cuda"``, to center and multiply on; its memory must hold three times the result and
        four times ``block_bytes``. Points that are there already stay there. Left out, it is where the points are, if
        that is a CUDA device, and else the processor.
    dtype
        Type of the centered blocks and of the products of each; the blocks' products are always summed in float64.
        ``"float32"`` takes half the time, for an error of a few 1e-7 of the squared distances from the mean: enough
        for a whole run, too coarse for its last steps.

    Returns
    -------
    ndarray of float64, shape (n, m)
        In the squared unit of the coordinates; never negative. Symmetric with exact zeros on the diagonal where Y is
        left out.

    Raises
    ------
    ValueError
        X or Y is empty or not 2-D, their dimensions differ, one of them holds NaN, infinity or numbers too large to
        square, ``block_bytes`` is not positive, or ``dtype`` is another type.
    """
    X, n, dimension = _points("X", X)
    arrays = [X]
    if Y is not None:
        Y, m, other = _points("Y", Y)
        if other != dimension:
            raise ValueError(f"Y must have the dimension of X, {dimension}, got {other}")
        arrays.append(Y)
    if not block_bytes > 0:
        raise ValueError(f"block_bytes must be positive, got {block_bytes!r}")
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype must be 'float64' or 'float32', got {dtype!r}")
    if device is None:
        device = next((array.device for array in arrays if getattr(array, "is_cuda", False)), None)
    prepare, rooms = (partial(_centered, dtype=dtype), READY + 1) if device is None else (_raw, 0)
    blocks = _blocks(arrays, dimension, int(block_bytes), prepare, rooms)
    rounding = ROUNDING if dtype == "float64" else SINGLE_ROUNDING
    if device is not None:
        return _on_device(blocks, device, dtype, rounding)
    return _among(blocks, n, rounding) if Y is None else _between(blocks, n, m, rounding)


def _among(blocks: Blocks, n: int, rounding: float) -> NDArray[np.float64]:
    gram = np.zeros((n, n), order="F")
    for (x,) in blocks:  # the lower triangle, in place
        if x.dtype == np.float64:
            gram = dsyrk(-2.0, x.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
        else:
            gram += ssyrk(-2.0, x.T, trans=1, lower=1)
    return _finish(gram.T, rounding)  # the upper triangle of its transpose, whose rows lie together in memory


def _finish(gram: NDArray[np.float64], rounding: float) -> NDArray[np.float64]:
    """Turn the upper triangle of -2 x.y into distances, and mirror it, in place."""
    norms = gram.diagonal() / -2
    _refuse("X", ~np.isfinite(norms))
    for start in range(0, len(gram), ROWS):
        rows = slice(start, start + ROWS)
        _from_products(gram[rows, start:], norms[rows], norms[start:], rounding)
    for start in range(0, len(gram), TILE):
        rows = slice(start, start + TILE)
        corner = np.triu(gram[rows, rows], 1)
        gram[rows, rows] = corner + corner.T
        for left in range(start + TILE, len(gram), TILE):
            gram[left : left + TILE, rows] = gram[rows, left : left + TILE].T
    return gram


def _between(blocks: Blocks, n: int, m: int, rounding: float) -> NDArray[np.float64]:
    product, x_norms, y_norms = np.zeros((n, m)), np.zeros(n), np.zeros(m)
    for x, y in blocks:
        with np.errstate(invalid="ignore", over="ignore"):  # refused below
            x_norms += np.einsum("ij,ij->i", x, x)
            y_norms += np.einsum("ij,ij->i", y, y)
            x *= -2
            product += x @ y.T
    _refuse("X", ~np.isfinite(x_norms))
    _refuse("Y", ~np.isfinite(y_norms))
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        _from_products(product[rows], x_norms[rows], y_norms, rounding)
    return product


def _from_products(
    products: NDArray[np.float64], x_norms: NDArray[np.float64], y_norms: NDArray[np.float64], rounding: float
) -> None:
    """Turn -2 x.y into |x|^2 + |y|^2 - 2 x.y, in place; what is below rounding is zero."""
    sums = x_norms[:, None] + y_norms
    products += sums
    sums *= rounding
    np.copyto(products, 0, where=products < sums)


def _on_device(blocks: Blocks, device: Any, dtype: str, rounding: float) -> NDArray[np.float64]:
    """The same, centered, multiplied and finished on a torch device."""
    import torch

    product: Any = None
    norms: list[Any] = [0, 0]
    for block in blocks:
        tensors = [torch.as_tensor(array, dtype=torch.float64, device=device) for array in block]
        mean = tensors[0].mean(dim=0)
        if not torch.isfinite(mean).all():
            _refuse_mean(tensors[0].cpu().numpy())
        centered = [(tensor - mean).to(getattr(torch, dtype)) for tensor in tensors]
        x, y = centered[0], centered[-1]
        if product is None:
            product = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
        _add_products(product, x, y)
        norms = [norm + z.double().square().sum(dim=1) for norm, z in zip(norms, (x, y), strict=True)]
    for name, norm in zip("XY", norms, strict=True):
        _refuse(name, ~torch.isfinite(norm).cpu().numpy())
    sums = norms[0][:, None] + norms[1]
    d2 = product.mul_(-2).add_(sums)
    d2[d2 < sums.mul_(rounding)] = 0
    if len(block) == 1:
        d2.triu_(1).add_(d2.T.clone())
    return d2.cpu().numpy()


def _add_products(product: Any, x: Any, y: Any) -> None:
    """Add x.y on a device; where x is y, strip by strip, and not much more than the upper triangle."""
    step = ceil(len(x) / STRIPS) if x is y else len(x)
    for start in range(0, len(x), step):
        rows, left = slice(start, start + step), start if x is y else 0
        strip = product[rows, left:]
        if x.dtype == strip.dtype:
            strip.addmm_(x[rows], y[left:].T)
        else:
            strip.add_(x[rows] @ y[left:].T)


def _points(name: str, points: Any) -> tuple[Any, int, int]:
    """The points, as they are where they can be sliced by columns, and their two sizes."""
    points = points if hasattr(points, "shape") else np.asarray(points)
    shape = tuple(points.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{name} must be 2-D (points, coordinates) and not empty, got shape {shape}")
    return points, *shape


def _blocks(
    arrays: list[Any], dimension: int, block_bytes: int, prepare: Callable[..., list[Any]], rooms: int
) -> Blocks:
    """Blocks of columns of all the arrays, prepared; the next ones are while one is used.

    The memory is cut into ``rooms`` to prepare them in, or is all for one block, which is prepared elsewhere.
    """
    rows = sum(array.shape[0] for array in arrays)
    most = block_bytes // (max(rooms, 1) * 8 * rows)
    if rooms:
        most = min(most, max(ROOM // (8 * rows), PANEL))
    most = max(1, min(dimension, most))
    reading = min(_columns_in_chunks(arrays, block_bytes) or most, dimension)
    width = ceil(reading / ceil(reading / most))  # cut into equal parts
    spare = cycle([np.empty(rows * width) for _ in range(rooms)] or [None])
    cut = (
        [array[:, start : start + width] for array in part]
        for part in _parts(arrays, dimension, reading)
        for start in range(0, part[0].shape[1], width)
    )
    with ThreadPoolExecutor(max_workers=READY) as workers:
        yield from _ahead(workers, READY, prepare, zip(cut, spare, strict=False))


def _parts(arrays: list[Any], dimension: int, reading: int) -> Blocks:
    """All the arrays, so many columns at a time, as they lie; the next ones are read while some are used."""
    rows = sum(array.shape[0] for array in arrays)
    ahead = max(1, AHEAD // (8 * rows * reading)) * reading

    def read(start: int) -> list[Any]:
        if start % ahead == 0:
            for array in arrays:
                announce(array, start + ahead if start else 0, start + 2 * ahead)
        return [_here(array[:, start : start + reading]) for array in arrays]

    starts: Iterable[int] = range(0, dimension, reading)
    if rows**2 * dimension > LONG:
        starts = progress(starts, "squared distances", "blocks")
    with ThreadPoolExecutor(max_workers=1) as reader:
        yield from _ahead(reader, 1, read, ((start,) for start in starts))


def _ahead(workers: Executor, count: int, function: Callable[..., list[Any]], tasks: Iterable[tuple]) -> Blocks:
    """What the function makes of each task, in order; ``count`` of them are worked on while one is used."""
    tasks = iter(tasks)
    coming = deque(workers.submit(function, *task) for task in islice(tasks, count))
    while coming:
        done = coming.popleft().result()
        coming.extend(workers.submit(function, *task) for task in islice(tasks, 1))
        yield done
        del done  # else one more of them would be in memory


def _columns_in_chunks(arrays: list[Any], block_bytes: int) -> int:
    """Columns in as many whole chunks of an array on disk as take half of the memory, or in one, which may take all.

    0 where not even that has room, so that chunks are read in parts, and where the first array is in no chunks.
    """
    chunks = getattr(arrays[0], "chunks", None)
    if not chunks:
        return 0
    columns = chunks[1][0] if isinstance(chunks[1], tuple) else chunks[1]  # Dask has the sizes of all chunks
    chunk_bytes = columns * sum(array.shape[0] * array.dtype.itemsize for array in arrays)
    return max(1, block_bytes // (2 * chunk_bytes)) * columns if chunk_bytes <= block_bytes else 0


def _here(part: Any) -> Any:
    """In memory; tensors stay where they are."""
    return part.detach() if hasattr(part, "detach") else np.asarray(part)


def _raw(blocks: list[Any], _: None) -> list[Any]:
    """The blocks as they are; those of a file, copied from there."""
    return [np.array(block) if isinstance(block, np.ndarray) else block for block in blocks]


def _centered(blocks: list[Any], room: NDArray[np.float64], dtype: str) -> list[NDArray[Any]]:
    """The blocks in float64 or float32, less the first one's mean, in the room for them."""
    arrays = [block if isinstance(block, np.ndarray) else block.cpu().double().numpy() for block in blocks]
    centered, room = [], room.view(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = arrays[0].mean(axis=0, dtype=np.float64)
        if not np.isfinite(mean).all():
            _refuse_mean(arrays[0])
        for array in arrays:
            mine, room = room[: array.size].reshape(array.shape), room[array.size :]
            centered.append(np.subtract(array, mean, out=mine, dtype=np.float64, casting="same_kind"))
    return centered


def _refuse_mean(x: NDArray[Any]) -> NoReturn:
    """One bad row spoils the mean row, so it is there that it is noticed, and here that it is found."""
    bad = ~np.isfinite(np.asarray(x, dtype=np.float64)).all(axis=1)
    _refuse("X", bad)
    _refuse("X", np.ones(len(x), dtype=bool))  # all finite, and yet too large to sum
    raise AssertionError("unreachable")


def _refuse(name: str, bad: Any) -> None:
    if bad.any():
        raise ValueError(
            f"{name} must be finite, and its squares too: NaN, infinity or too large in {np.count_nonzero(bad)} "
            f"points, the first at row {bad.argmax()}"
        )
