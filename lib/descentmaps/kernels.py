"""From squared distances to affinities: the Gaussian kernel, rules for its bandwidth, and the scan behind them.

The kernel is ``exp(-d^2 / 4 epsilon)``, so that epsilon is a diffusion time: the generator of the Markov chain
estimates the Laplace-Beltrami operator with its usual eigenvalues (Coifman and Lafon 2006). Where density varies so
much that no one bandwidth serves all points, each gets a scale of its own (Berry and Harlim 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Epsilon",
    "KernelSumScan",
    "Rule",
    "bandwidth",
    "chosen_bandwidth",
    "gaussian_kernel",
    "kernel_sum_scan",
    "local_scales",
]

Rule = Literal["median", "max-slope", "nearest", "scan"]
Epsilon = float | Rule | Callable[[NDArray[np.float64]], float]
NEIGHBOR = 10  # the neighbor whose distance the rule "nearest" takes as scale
NEIGHBORS = 64  # how many neighbors the recommended bandwidth gives a point, itself included
ROWS = 512  # a rule looks at no more than about twice as many rows: it needs averages, not every pair


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
    n_points: int

    @property
    def recommended(self) -> float:
        """The bandwidth that gives a point 64 neighbors (n/4 where that is less).

        Fewer make the generator noisy, more blur it: on sampled manifolds the error is smallest near here.
        """
        return self.at(NEIGHBORS)

    def at(self, neighbors: float) -> float:
        """The bandwidth at which the affinities of a point, its own included, sum to ``neighbors`` on average."""
        share = min(neighbors / self.n_points, 0.25)
        return float(np.exp(np.interp(np.log(share), np.log(self.means), np.log(self.epsilons))))


def kernel_sum_scan(d2: NDArray[np.float64], n_epsilons: int = 61) -> KernelSumScan:
    """Scan bandwidths from below the nearest distance to above the farthest, evenly on a logarithmic grid.

    ``d2`` has shape (n, n). The scan follows Coifman, Shkolnisky, Sigworth and Singer (2008) and Berry and Harlim
    (2016). The slope ``d log mean / d log epsilon`` is exact, not a difference quotient: it is the kernel-weighted mean
    of ``d2 / 4 epsilon``.
    ValueError where d2 is not square, not finite, negative, or where no two points differ.
    """
    rows = _rows(d2)
    positive = rows[rows > 0]
    epsilons = np.geomspace(positive.min() / 16, positive.max() * 4, n_epsilons)
    means, slopes = np.empty(n_epsilons), np.empty(n_epsilons)
    for i, epsilon in enumerate(epsilons):
        kernel = gaussian_kernel(rows, epsilon)
        means[i] = kernel.mean()
        slopes[i] = np.vdot(kernel, rows) / (4 * epsilon * kernel.sum())
    return KernelSumScan(epsilons, means, slopes, len(d2))


def bandwidth(d2: NDArray[np.float64], rule: Rule = "median") -> float:
    """A bandwidth for the Gaussian kernel of square, symmetric ``d2``, by one of four rules.

    ``"median"``: the kernel falls to 1/e at the median distance. Wide, and right for trajectories.
    ``"nearest"``: it falls to 1/e at the median distance to the tenth neighbor.
    ``"max-slope"``: the epsilon at which the kernel sum grows fastest (see :func:`kernel_sum_scan`).
    ``"scan"``: the one that the scan recommends, with 64 neighbors to a point. Right for samples of a manifold.

    The result has the unit of ``d2``; no rule is right for all clouds. ValueError for an unknown rule, or where d2 is
    not square, not finite, negative, or where no two points differ.
    """
    rows = _rows(d2)
    if rule == "median":
        return float(np.median(rows[rows > 0])) / 4
    if rule == "nearest":
        neighbor = min(NEIGHBOR, len(d2) - 1)
        scale = float(np.median(np.partition(rows, neighbor, axis=1)[:, neighbor]))
        if scale == 0:
            raise ValueError(f"d2 has over half its points on top of {neighbor} others: rule 'nearest' finds no scale")
        return scale / 4
    if rule == "max-slope":
        scan = kernel_sum_scan(d2)
        return float(scan.epsilons[np.argmax(scan.slopes)])
    if rule == "scan":
        return kernel_sum_scan(d2).recommended
    raise ValueError(f"rule must be 'median', 'max-slope', 'nearest' or 'scan', got {rule!r}")


def chosen_bandwidth(epsilon: Epsilon, d2: NDArray[np.float64]) -> float:
    """The bandwidth that an estimator's ``epsilon`` stands for: a number, the name of a rule, or a function of d2.

    ValueError where it is none of these, or where what comes out is not a positive finite number.
    """
    value: object = epsilon
    if callable(epsilon):
        value = epsilon(d2)
    elif isinstance(epsilon, str) and epsilon in get_args(Rule):
        value = bandwidth(d2, epsilon)
    if not isinstance(value, Real):
        raise ValueError(f"epsilon must be a number, a function, or one of {get_args(Rule)}, got {value!r}")
    if not 0 < float(value) < np.inf:
        raise ValueError(f"epsilon must be a positive finite number, got {value!r}")
    return float(value)


def local_scales(neighbor_d2: NDArray[np.float64], dimension: int) -> NDArray[np.float64]:
    """Scale of each point for a kernel of variable bandwidth: wide where points are sparse.

    ``neighbor_d2`` has shape (n, k): squared distances to the k nearest points, the point itself included. Their root
    mean square falls with the density as ``density ** (-1 / dimension)``; the scale is ``density ** (-1/4)``, or that
    root mean square itself where the dimension is above four. ValueError where a point lies on top of all its k.
    """
    radius = np.sqrt(neighbor_d2.mean(axis=1))
    if not radius.all():
        raise ValueError(f"X must not have a point on top of {neighbor_d2.shape[1] - 1} others: it has no scale")
    return radius ** min(1, dimension / 4)


def _rows(d2: NDArray[np.float64]) -> NDArray[np.float64]:
    """All rows of d2, or evenly chosen ones where there are many; refused where they are no squared distances."""
    if np.ndim(d2) != 2 or d2.shape[0] != d2.shape[1]:
        raise ValueError(f"d2 must be a square matrix of squared distances, got shape {np.shape(d2)}")
    rows = d2[:: max(1, len(d2) // ROWS)]
    if not (np.isfinite(rows).all() and (rows >= 0).all()):
        raise ValueError("d2 must hold squared distances: finite and never negative")
    if not rows.any():
        raise ValueError(f"d2 must hold at least two points that differ, got {len(d2)} identical ones")
    return rows
