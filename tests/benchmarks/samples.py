"""Points whose map is known, and how far an answer is from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import subspace_angles

Array = NDArray[np.float64]
SPHERE_SCALE = 0.1  # of the kernel exp(-|x - y|^2 / scale), at every size
NOISE = 0.02  # distance of a point from its place on the sphere


def sphere(n: int, seed: int = 0) -> Array:
    """Points of the unit sphere, (n, 3), nine times as dense at one pole as at the other: (1 + 0.8 z) / 4 pi."""
    rng = np.random.default_rng(seed)
    z = (np.sqrt(0.01 + 0.8 * rng.random(n)) - 0.5) / 0.4  # inverts the distribution function 0.3 + 0.5 z + 0.2 z^2
    longitude, radius = rng.uniform(0, 2 * np.pi, n), np.sqrt(1 - z**2)
    return np.column_stack([radius * np.cos(longitude), radius * np.sin(longitude), z])


def sphere_spaces(points: Array) -> list[Array]:
    """The first two eigenspaces of the sphere: three linear functions, and five quadratic ones."""
    x, y, z = points.T
    return [points, np.column_stack([x * y, x * z, y * z, x**2 - y**2, 3 * z**2 - 1])]


def circle(n: int, seed: int = 0) -> Array:
    """Angles, (n,), of points of the unit circle at the density (1 + 0.8 cos) / 2 pi."""
    grid = np.linspace(0, 2 * np.pi, 20_001)
    return np.interp(np.random.default_rng(seed).random(n), (grid + 0.8 * np.sin(grid)) / (2 * np.pi), grid)


def circle_spaces(angles: Array) -> list[Array]:
    """The first three eigenspaces of the circle."""
    return [np.column_stack([np.cos(k * angles), np.sin(k * angles)]) for k in (1, 2, 3)]


def embed(points: Array, dimension: int, path: Path, seed: int = 1) -> None:
    """Save the points as float32 in (n, dimension): turned at random, with noise in every coordinate."""
    rng = np.random.default_rng(seed)
    frame, _ = np.linalg.qr(rng.standard_normal((dimension, points.shape[1])))
    saved = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(points), dimension))
    for start in range(0, len(points), 100):
        rows = saved[start : start + 100]
        rows[:] = rng.standard_normal(rows.shape, dtype=np.float32)
        rows *= np.float32(NOISE / dimension**0.5)
        rows += (points[start : start + 100] @ frame.T).astype(np.float32)
    saved.flush()


def trained_network(widths: Sequence[int], path: Path) -> int:
    """Save a network that has learned digits for 500 updates, with its training data, for a Hessian; its size."""
    import torch

    from descentmaps.problems import digits, mlp, train

    torch.set_num_threads(1)
    data, model = digits(), mlp(*widths, seed=0)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), data, 500)
    parameters = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    np.savez(path, widths=widths, parameters=parameters, inputs=data.inputs, targets=data.targets)
    return len(parameters)


def training_loop(name: str, path: Path, n: int = 1024, seed: int = 0) -> int:
    """Save a network's name, random images of 8 x 8 with labels, and a folder to write to; the network's size."""
    from capture_contenders import network

    rng = np.random.default_rng(seed)
    inputs, targets = rng.random((n, 64), dtype=np.float32), rng.integers(0, 10, n)
    np.savez(path, network=name, inputs=inputs, targets=targets, folder=str(path.parent))
    return sum(parameter.numel() for parameter in network(name).parameters())


def late_training(n: int = 300, dimension: int = 5000, seed: int = 0) -> NDArray[np.float32]:
    """Snapshots whose steps are a millionth of their norm, as late in training."""
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(dimension)
    steps = rng.standard_normal((n, dimension)) * 1e-6
    return np.asarray(start + steps.cumsum(axis=0), dtype=np.float32)


def step_error(points: NDArray[np.float32], squared: Array) -> float:
    """Largest relative error of the squared lengths of the steps, against differences taken in float64."""
    exact = (np.diff(points.astype(np.float64), axis=0) ** 2).sum(axis=1)
    return float(np.abs(squared.diagonal(1) / exact - 1).max())


def sines(vectors: Array, spaces: Sequence[Array]) -> list[float]:
    """For each true eigenspace the sine of its largest angle to the eigenvectors in its place: 0 right, 1 wrong."""
    found, start = [], 0
    for space in spaces:
        part = np.asarray(vectors[:, start : start + space.shape[1]], dtype=np.float64)
        usable = bool(np.isfinite(part).all()) and np.linalg.matrix_rank(part) == part.shape[1]
        found.append(float(np.sin(subspace_angles(space, part).max())) if usable else 1.0)
        start += space.shape[1]
    return found
