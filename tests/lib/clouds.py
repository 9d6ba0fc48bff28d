"""Samples of manifolds whose spectra are known, and the angles between spaces of functions on them."""

from __future__ import annotations

import numpy as np
from scipy.linalg import subspace_angles


def uneven_circle(n: int, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Points on the unit circle with density 1 + 0.8 cos, and their angles; evenly spread quantiles without a seed."""
    uniform = (np.arange(n) + 0.5) / n if seed is None else np.random.default_rng(seed).random(n)
    grid = np.linspace(-np.pi, np.pi, 20_001)
    angle = np.interp(uniform, (grid + 0.8 * np.sin(grid)) / (2 * np.pi) + 0.5, grid)
    return np.column_stack([np.cos(angle), np.sin(angle)]), angle


def sphere(n: int, seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def circle_harmonics(angle: np.ndarray, k: int) -> np.ndarray:
    return np.column_stack([np.cos(k * angle), np.sin(k * angle)])


def largest_sine(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sin(subspace_angles(first, second).max()))
