"""From squared distances to affinities: the Gaussian kernel, rules for its bandwidth, and the scan behind them.

The kernel is ``exp(-d^2 / 4 epsilon)``, so that epsilon is a diffusion time: the generator of the Markov chain
estimates the Laplace-Beltrami operator with its usual eigenvalues (Coifman and Lafon 2006).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KernelSumScan", "Rule", "bandwidth", "gaussian_kernel", "kernel_sum_scan"]

Rule = Literal["median", "max-slope", "nearest"]
NEIGHBOR = 10  # the neighbor whose distance the rule "nearest" takes as scale


def gaussian_kernel(d2: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """Affinities ``exp(-d2 / (4 epsilon))`` in the shape of ``d2``.

    ``epsilon`` has the unit of a squared distance. An affinity is 1 at distance zero, and 0 in float64
    beyond ``d2 = 2980 epsilon``. ValueError where epsilon is not a positive finite number.
    """
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be a positive finite number, got {epsilon!r}")
    kernel = np.asarray(np.divide(d2, -4 * epsilon))
    return np.exp(kernel, out=kernel)


class KernelSumScan(NamedTuple):
    """Mean affinity at each bandwidth of a grid, and the slope of its logarithm: half the dimension that it sees."""

    epsilons: NDArray[np.float64]
    means: NDArray[np.float64]
    slopes: NDArray[np.float64]


def kernel_sum_scan(d2: NDArray[np.float64], n_epsilons: int = 61) -> KernelSumScan:
    """Scan bandwidths from below the nearest distance to above the farthest, evenly on a logarithmic grid.

    ``d2`` has shape (n, n). The scan follows Coifman, Shkolnisky, Sigworth and Singer (2008) and Berry and Harlim
    (2016). The slope ``d log mean / d log epsilon`` is exact, not a difference quotient: it is the kernel-weighted mean
    of ``d2 / 4 epsilon``.
    ValueError where d2 is not square, not finite, negative, or where no two points differ.
    """
    positive = _positive_distances(d2)
    epsilons = np.geomspace(positive.min() / 16, positive.max() * 4, n_epsilons)
    means, slopes = np.empty(n_epsilons), np.empty(n_epsilons)
    for i, epsilon in enumerate(epsilons):
        kernel = gaussian_kernel(d2, epsilon)
        means[i] = kernel.mean()
        slopes[i] = np.vdot(kernel, d2) / (4 * epsilon * kernel.sum())
    return KernelSumScan(epsilons, means, slopes)


def bandwidth(d2: NDArray[np.float64], rule: Rule = "median") -> float:
    """A bandwidth for the Gaussian kernel of square, symmetric ``d2``, by one of three rules.

    ``"median"``: the kernel falls to 1/e at the median distance. Wide, and right for trajectories.
    ``"nearest"``: it falls to 1/e at the median distance to the tenth neighbor.
    ``"max-slope"``: the epsilon at which the kernel sum grows fastest (see :func:`kernel_sum_scan`).

    The result has the unit of ``d2``; no rule is right for all clouds. ValueError for an unknown rule, or where d2 is
    not square, not finite, negative, or where no two points differ.
    """
    positive = _positive_distances(d2)
    if rule == "median":
        return float(np.median(positive)) / 4
    if rule == "nearest":
        neighbor = min(NEIGHBOR, len(d2) - 1)
        scale = float(np.median(np.partition(d2, neighbor, axis=1)[:, neighbor]))
        if scale == 0:
            raise ValueError(f"d2 has over half its points on top of {neighbor} others: rule 'nearest' finds no scale")
        return scale / 4
    if rule == "max-slope":
        scan = kernel_sum_scan(d2)
        return float(scan.epsilons[np.argmax(scan.slopes)])
    raise ValueError(f"rule must be 'median', 'max-slope' or 'nearest', got {rule!r}")


def _positive_distances(d2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances of all pairs of points that differ, each pair once."""
    if np.ndim(d2) != 2 or d2.shape[0] != d2.shape[1]:
        raise ValueError(f"d2 must be a square matrix of squared distances, got shape {np.shape(d2)}")
    pairs = d2[np.tri(len(d2), k=-1, dtype=bool)]
    if not (np.isfinite(pairs) & (pairs >= 0)).all():
        raise ValueError("d2 must hold squared distances: finite and never negative")
    positive = pairs[pairs > 0]
    if len(positive) == 0:
        raise ValueError(f"d2 must hold at least two points that differ, got {len(d2)} identical ones")
    return positive
