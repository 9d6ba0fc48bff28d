"""The estimator: from points, through a Markov chain on them, to diffusion coordinates."""

from __future__ import annotations

import warnings
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .distances import squared_distances
from .kernels import NEIGHBOR, Epsilon, Rule, chosen_bandwidth, gaussian_kernel, kernel_sum_scan, local_scales
from .markov import Affinities, DenseAffinities, SparseAffinities
from .neighbors import neighbor_distances, within_reach

__all__ = ["DiffusionMap"]

SCALE_NEIGHBORS = 32  # of which a point's own scale is the mean distance, for the variable kernel
VARIABLE_NEIGHBORS = 128  # what the scan's rule gives a point there: tails need more than the 64 of a fixed kernel
SAMPLE = 2000  # points from which a dimension is estimated
NEGLIGIBLE = 1e-2  # an affinity that may be cut off without being missed
BLOCK = 2**24  # distances from new points worked on at a time
LONELY = 1.1  # sum of the affinities, its own 1 included, of a point that has no neighbors to speak of
FEW = 8  # sum of the affinities of a point whose rates its neighbors are too few to tell
ALIKE = 0.95  # mean affinity of points that all look alike
EPS = float(np.finfo(np.float64).eps)  # eigenvalues nearer to 0 count as this much, since extensions divide by them
EQUAL = 1e-8  # rates that differ by less, relatively, belong to vectors that rounding chooses


class DiffusionMap(TransformerMixin, BaseEstimator):
    """Diffusion map of T points in R^D (Coifman and Lafon 2006).

    The kernel ``k = exp(-|x - y|^2 / (4 epsilon))`` is divided by powers ``alpha`` of its row sums, its rows are
    scaled to sum to one, and the leading right eigenvectors of that Markov matrix P are the coordinates.

    With ``kernel="variable"`` the bandwidth at x is ``epsilon rho(x)^2``, wide where points are sparse (Berry and
    Harlim 2016): ``k = exp(-|x - y|^2 / (4 epsilon rho(x) rho(y)))`` is divided by ``q^alpha rho^((d + 2) / 2)`` at
    both ends, where ``q = (sum of the row) / rho^d`` estimates the density, so that the generator has the same limit
    at each alpha as for the fixed kernel. A step lasts, at each point, as long as its mean square says: ``sum_j P_ij
    |x_i - x_j|^2 / 2d``, which is ``epsilon rho^2`` for many points and stays right in thin tails.

    Parameters
    ----------
    n_components
        Number of coordinates, the constant one left out; there are T - 1 of them.
    alpha
        How much of the sampling density is removed, in [0, 1]: none at 0, all of it at 1 (Laplace-Beltrami), and at
        1/2 what turns samples of exp(-U) into the backward Fokker-Planck operator of dX = -grad U dt + sqrt(2) dW.
    epsilon
        Bandwidth, in the unit of a squared distance: a number, the name of a rule (see :func:`bandwidth`), or a
        function of the (T, T) squared distances. With the variable kernel rule and function see the distances divided
        by rho at both ends, where ``"scan"`` is the rule to use. With ``n_neighbors`` only part of the distances is
        known: leave ``"median"`` for the largest bandwidth that the neighbors support, or give a number.
    time
        Number t of steps of the chain, >= 0: coordinate k is scaled by ``lambda_k ** t``.
    kernel
        ``"gaussian"``, or ``"variable"`` where the density varies too much for one bandwidth.
    metric
        ``"euclidean"``, or ``"precomputed"`` where X holds squared distances.
    n_neighbors
        Keep only the affinities between points of which one is among the k nearest of the other, itself included, in
        a sparse matrix: for more points than a dense one holds.
    random_state
        Chooses the landmarks, and the start of the iterative eigensolver, on which the map depends by rounding only.
    n_landmarks
        Fit the map to so many points, drawn at random, and extend it to all: for more points than memory holds.
    dimension
        Of the manifold, for the variable kernel; left out, it is estimated from the slope of the kernel sum.

    Attributes
    ----------
    eigenvalues_ : (n_components,)
        Of P, the trivial 1 left out, descending; those below rounding are set to it.
    eigenvectors_ : (T, n_components)
        Right eigenvectors psi, with mean square one in the stationary density: ``stationary_ @ eigenvectors_**2`` is
        one. The largest entry is positive, the first one where several are largest.
    embedding_ : (T, n_components)
        ``eigenvectors_ * eigenvalues_ ** time``.
    generator_ : (n_components,)
        ``-log(eigenvalues_) / epsilon_``: estimates the spectrum of the generator. The variable kernel estimates the
        generator itself, and ``eigenvalues_`` are those of its exponential.
    epsilon_ : float
        The bandwidth used.
    stationary_ : (T,)
        The chain's stationary density; sums to one. Of the landmarks only, where there are some.
    landmarks_ : (n_landmarks,)
        Rows of X that the map was fitted to; all of them without ``n_landmarks``.
    dimension_ : int
        The dimension used, with the variable kernel.

    Raises
    ------
    ValueError
        From ``fit``, naming what is wrong with X or with a parameter: X not 2-D, not finite, or with fewer points
        than ``n_components``; all points identical; a parameter out of range.

    Warns
    -----
    UserWarning
        The kernel falls apart into pieces, is so narrow that points have no neighbors or so wide that they all look
        alike, is cut off by ``n_neighbors``, or has fewer eigenvalues above rounding than ``n_components``; points lie
        on top of one another; two rates are equal, so that their vectors are arbitrary. It says what to try.

    References
    ----------
    R. R. Coifman and S. Lafon, Diffusion maps, Applied and Computational Harmonic Analysis 21 (2006) 5-30.
    T. Berry and J. Harlim, Variable bandwidth diffusion kernels, Applied and Computational Harmonic Analysis 40 (2016)
    68-96.
    """

    n_features_in_: int

    def __init__(
        self,
        n_components: int = 10,
        alpha: float = 1.0,
        epsilon: Epsilon = "median",
        time: float = 1,
        kernel: Literal["gaussian", "variable"] = "gaussian",
        metric: Literal["euclidean", "precomputed"] = "euclidean",
        n_neighbors: int | None = None,
        random_state: Any = 0,
        n_landmarks: int | None = None,
        dimension: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.epsilon = epsilon
        self.time = time
        self.kernel = kernel
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.random_state = random_state
        self.n_landmarks = n_landmarks
        self.dimension = dimension

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the map to points X of shape (T, D), or to squared distances (T, T) where they are precomputed."""
        self._check_parameters()
        X = self._check_points(X, reset=True)
        self._measure(X)
        self._solve()
        self.eigenvectors_ = self._vectors if self.n_landmarks is None else self._extend(X)
        self.embedding_ = self.eigenvectors_ * self.eigenvalues_**self.time
        return self

    def refit(self, **parameters: Any) -> Self:
        """Fit again to the same points with another ``epsilon``, ``alpha``, ``time`` or ``n_components``.

        The distances are those of the last fit, which makes this cheap; they are kept for it. TypeError for any other
        parameter; ValueError after a fit to landmarks, which keeps the distances between those only.
        """
        check_is_fitted(self)
        other = sorted(set(parameters) - {"epsilon", "alpha", "time", "n_components"})
        if other:
            raise TypeError(f"refit takes epsilon, alpha, time and n_components, got {other}: call fit for those")
        if self.n_landmarks is not None:
            raise ValueError(f"n_landmarks must be None to refit, got {self.n_landmarks}: call fit")
        self.set_params(**parameters)
        self._check_parameters()
        self._solve()
        self.eigenvectors_ = self._vectors
        self.embedding_ = self.eigenvectors_ * self.eigenvalues_**self.time
        return self

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float64]:
        """Fit the map to X and return ``embedding_``."""
        return self.fit(X).embedding_

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Nystroem extension to new points X of shape (n, D): one more step of the chain, from each of them.

        Returns coordinates of shape (n, n_components), at the map's time; on the points of the fit they equal
        ``embedding_``. With precomputed distances X holds the squared distances (n, T) from the new points to those
        of the fit. ValueError where X does not fit the points of the fit, or is too far from them all for the kernel.
        """
        check_is_fitted(self)
        return self._extend(self._check_points(X, reset=False)) * self.eigenvalues_**self.time

    def diffusion_distance(self, i: int, j: int) -> float:
        """Distance of points i and j at the map's time: between their clouds of walkers, from the fitted components.

        It is ``sum_k lambda_k^(2 t) (psi_k(i) - psi_k(j))^2`` to the power one half, which with all ``T - 1``
        components is the distance between rows i and j of P^t, weighted by ``1 / stationary_`` (Coifman and Lafon
        2006); with fewer it is smaller. It has no unit. IndexError where i or j is no fitted point.
        """
        check_is_fitted(self)
        return float(np.linalg.norm(self.embedding_[i] - self.embedding_[j]))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names ``psi_1`` to ``psi_n`` of the coordinates."""
        check_is_fitted(self)
        return np.array([f"psi_{k}" for k in range(1, len(self.eigenvalues_) + 1)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = tags.input_tags.positive_only = self.metric == "precomputed"
        return tags

    def _measure(self, X: Any) -> None:
        """Everything that depends on the points alone: landmarks, distances, and each point's own scale."""
        rng, n = check_random_state(self.random_state), X.shape[0]
        self.landmarks_ = np.arange(n)
        if self.n_landmarks is not None:
            self.landmarks_ = np.sort(rng.choice(n, self.n_landmarks, replace=False))
            X = X[self.landmarks_][:, self.landmarks_] if self.metric == "precomputed" else X[self.landmarks_]
        self._noise = rng.uniform(0.5, 1.5, len(self.landmarks_))
        self._points = None if self.metric == "precomputed" else X
        self._reach = None
        if self.n_neighbors is not None:
            self._d2, self._reach = neighbor_distances(X, self.n_neighbors, self.metric)
        else:
            self._d2 = _checked_distances(X) if self.metric == "precomputed" else squared_distances(X)
        if not self._d2.max() > 0:
            raise ValueError(f"X must hold points that differ, got {len(self.landmarks_)} identical ones")
        self._warn_of_duplicates()
        if self.kernel == "variable":
            self.dimension_ = self.dimension or _estimated_dimension(X, self.metric)
            scales = local_scales(self._nearest(self._d2), self.dimension_)
            self._unit = np.exp(np.log(scales).mean())
            self._scales = scales / self._unit

    def _solve(self) -> None:
        """The map, from the distances."""
        self.epsilon_ = self._bandwidth()
        scales = self._scales if self.kernel == "variable" else None
        form = DenseAffinities if self._reach is None else SparseAffinities
        affinities = form(self._d2, self.epsilon_, scales)
        sums = affinities.sums()
        self._warn_of_scale(sums)
        self._weights = self._weigh(sums, scales)
        affinities.scale(self._weights)
        self._degrees = affinities.sums()
        n_components = min(self.n_components, affinities.n - 1)
        pairs = self._rates if self.kernel == "variable" else self._steps
        mass, vectors = pairs(affinities, n_components)
        self.stationary_ = mass / mass.sum()
        self._vectors = _with_fixed_signs(vectors / np.sqrt(self.stationary_)[:, None])
        self._warn_of_equal_rates()

    def _weigh(self, sums: NDArray[np.float64], scales: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """What a point's affinities are multiplied with, at both ends."""
        if scales is None:
            return sums**-self.alpha
        density = sums / scales**self.dimension_
        return density**-self.alpha * scales ** (-(self.dimension_ + 2) / 2)

    def _steps(self, affinities: Affinities, n_components: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenpairs of the Markov matrix, through its symmetric conjugate."""
        root = np.sqrt(self._degrees)
        affinities.scale(1 / root)
        values, vectors = affinities.top_eigenpairs(n_components, root, self._noise)
        self._warn_of_degenerate(values)
        self.eigenvalues_ = np.maximum(values, EPS)
        self.generator_ = -np.log(self.eigenvalues_) / self.epsilon_
        return self._degrees, vectors

    def _rates(self, affinities: Affinities, n_components: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenpairs of the generator (1 - P) / time of a step, through its symmetric conjugate."""
        mass = affinities.moments() / (2 * self.dimension_)
        if not mass.all():
            raise ValueError(f"epsilon must give every point a neighbor, got {self.epsilon_:.3g}: try a larger one")
        root = np.sqrt(mass)
        affinities.scale(1 / root)
        rates, vectors = affinities.slow_eigenpairs(n_components, self._degrees / mass, root, self._noise)
        self.generator_ = np.maximum(rates, 0)
        self.eigenvalues_ = np.maximum(np.exp(-self.generator_ * self.epsilon_), EPS)
        self._warn_of_degenerate(self.eigenvalues_)
        return mass, vectors

    def _extend(self, X: Any) -> NDArray[np.float64]:
        """Eigenvectors at new points, a block of them at a time."""
        step = max(1, BLOCK // len(self.landmarks_))
        blocks = [self._extend_block(X[start : start + step]) for start in range(0, X.shape[0], step)]
        return np.concatenate(blocks)

    def _extend_block(self, X: Any) -> NDArray[np.float64]:
        d2 = np.asarray(X, dtype=np.float64) if self._points is None else squared_distances(X, self._points)
        scaled = d2
        if self.kernel == "variable":
            scales = local_scales(self._nearest(d2), self.dimension_) / self._unit
            scaled = d2 / np.outer(scales, self._scales)
        kernel = gaussian_kernel(scaled, self.epsilon_)
        if self._reach is not None:
            kernel *= within_reach(d2, int(self.n_neighbors or 0), self._reach)
        sums = kernel.sum(axis=1)
        _refuse_far(sums)
        kernel *= self._weights  # the new point's own weight cancels
        degrees = kernel.sum(axis=1, keepdims=True)
        if self.kernel == "gaussian":
            return kernel @ self._vectors / degrees / self.eigenvalues_
        mass = np.einsum("ij,ij->i", kernel, d2)[:, None] / (2 * self.dimension_)
        left = 1 - mass / degrees * self.generator_  # of each coordinate, by a step from here
        left[np.abs(left) < EPS] = EPS
        return kernel @ self._vectors / degrees / left

    def _nearest(self, d2: Any) -> NDArray[np.float64]:
        """Squared distances to the nearest points of the fit, from which a point's own scale is taken."""
        k = min(SCALE_NEIGHBORS, len(self.landmarks_), self.n_neighbors or SCALE_NEIGHBORS)
        if issparse(d2):
            rows = (d2.data[start:stop] for start, stop in pairwise(d2.indptr))
            return np.array([np.partition(row, k - 1)[:k] for row in rows])
        return np.partition(d2, k - 1, axis=1)[:, :k]

    def _bandwidth(self) -> float:
        if isinstance(self.epsilon, Real):
            return float(self.epsilon)
        if self._reach is not None:
            if self.epsilon != "median":
                raise ValueError(f"epsilon must be a number or 'median' with n_neighbors, got {self.epsilon!r}")
            return self._supported_bandwidth()
        if self.kernel == "gaussian":
            return chosen_bandwidth(self.epsilon, self._d2)
        scaled = self._d2 / np.outer(self._scales, self._scales)
        if self.epsilon == "scan":
            return kernel_sum_scan(scaled).at(VARIABLE_NEIGHBORS)
        return chosen_bandwidth(self.epsilon, scaled)

    def _supported_bandwidth(self) -> float:
        """The largest epsilon at which what lies beyond the neighbors is negligible, save for 5 % of the points."""
        return float(np.quantile(self._scaled_reach(), 0.05) / (-4 * np.log(NEGLIGIBLE)))

    def _scaled_reach(self) -> Any:
        return self._reach / self._scales**2 if self.kernel == "variable" else self._reach

    def _check_parameters(self) -> None:
        if not isinstance(self.n_components, Integral) or self.n_components < 1:
            raise ValueError(f"n_components must be a whole number, at least 1, got {self.n_components!r}")
        if not (isinstance(self.alpha, Real) and 0 <= self.alpha <= 1):
            raise ValueError(f"alpha must be a number in [0, 1], got {self.alpha!r}")
        if not (isinstance(self.time, Real) and 0 <= self.time < np.inf):
            raise ValueError(f"time must be a finite number of steps, at least 0, got {self.time!r}")
        if not (callable(self.epsilon) or self.epsilon in get_args(Rule)):
            chosen_bandwidth(self.epsilon, np.empty((0, 0)))  # a number, and a good one
        for name, choices in {"kernel": ("gaussian", "variable"), "metric": ("euclidean", "precomputed")}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        for name, least in {"n_neighbors": 2, "n_landmarks": 2, "dimension": 1}.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Integral) and value >= least):
                raise ValueError(f"{name} must be None or a whole number, at least {least}, got {value!r}")
        check_random_state(self.random_state)

    def _check_points(self, X: Any, reset: bool) -> Any:
        shape = tuple(X.shape) if hasattr(X, "shape") else np.asarray(X).shape
        if len(shape) == 1:
            raise ValueError(
                f"X must be 2-D (points, coordinates), got shape {shape}. Reshape your data: one point is "
                "X.reshape(1, -1), one coordinate of many points X.reshape(-1, 1)"
            )
        if _is_lazy(X):
            if not reset and shape[1] != self.n_features_in_:
                raise ValueError(f"X must have the {self.n_features_in_} coordinates of the fit, got {shape[1]}")
            self.n_features_in_ = shape[1]
        else:
            X = validate_data(
                self,
                X,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite=self.metric == "precomputed",  # else the distances look, in the one pass they make
                ensure_min_samples=2 if reset else 1,
                ensure_non_negative=self.metric == "precomputed",
            )
        if reset:
            self._check_sizes(shape[0])
        return X

    def _check_sizes(self, n: int) -> None:
        if n < self.n_components:
            raise ValueError(
                f"X must have more points than n_components, got n_samples={n} points and "
                f"n_components={self.n_components}"
            )
        fitted = n if self.n_landmarks is None else self.n_landmarks
        if not self.n_components <= fitted <= n:
            raise ValueError(
                f"n_landmarks must be at least n_components={self.n_components} and at most the {n} points of X, "
                f"got {self.n_landmarks}"
            )
        if self.n_neighbors is not None and self.n_neighbors > fitted:
            raise ValueError(f"n_neighbors must be at most the {fitted} points of the fit, got {self.n_neighbors}")

    def _warn_of_duplicates(self) -> None:
        rows = [self._d2.data] if issparse(self._d2) else self._d2
        zeros = sum(int(np.count_nonzero(row == 0)) for row in rows)
        copies = (zeros - len(self._noise)) // 2
        if copies > 0:
            warnings.warn(
                f"X has {copies} pairs of points on top of one another, which weigh double: drop the copies "
                "unless you mean them",
                stacklevel=4,
            )

    def _warn_of_scale(self, sums: NDArray[np.float64]) -> None:
        if np.median(sums) < LONELY:
            warnings.warn(
                f"at epsilon={self.epsilon_:.3g} half of the points have no neighbor to speak of: the map will show "
                "single points; try a larger epsilon",
                stacklevel=4,
            )
        elif self._reach is None and sums.mean() > ALIKE * len(sums):
            warnings.warn(
                f"at epsilon={self.epsilon_:.3g} all points look alike, with a mean affinity of "
                f"{sums.mean() / len(sums):.3f}: the map will show little but principal components; try a smaller "
                "epsilon",
                stacklevel=4,
            )
        elif self._reach is not None and np.quantile(sums, 0.05) < FEW:
            warnings.warn(
                f"n_neighbors={self.n_neighbors} is so few where points are dense that at epsilon={self.epsilon_:.3g} "
                "some have next to no neighbors where they are sparse: try more neighbors, or kernel='variable'",
                stacklevel=4,
            )
        if self._reach is not None:
            cut = np.exp(self._scaled_reach() / (-4 * self.epsilon_))
            if np.quantile(cut, 0.9) > 10 * NEGLIGIBLE:
                warnings.warn(
                    f"n_neighbors={self.n_neighbors} cuts off affinities of up to {np.quantile(cut, 0.9):.2g} at "
                    f"epsilon={self.epsilon_:.3g}, so that alpha no longer removes the sampling density: try more "
                    f"neighbors, or epsilon below {self._supported_bandwidth():.3g}",
                    stacklevel=4,
                )

    def _warn_of_degenerate(self, values: NDArray[np.float64]) -> None:
        noise = len(self._degrees) * np.finfo(float).eps
        if values[0] > 1 - noise:
            warnings.warn(
                f"the kernel falls apart into pieces that no walk connects at epsilon={self.epsilon_:.3g}: "
                "coordinates only tell the pieces apart; try a larger epsilon, or look for outliers",
                stacklevel=5,
            )
        usable = int(np.count_nonzero(values > noise))
        if usable < self.n_components:
            warnings.warn(
                f"of n_components={self.n_components} only {usable} have an eigenvalue above rounding, at "
                f"epsilon={self.epsilon_:.3g}; the rest is noise: ask for fewer, or try a smaller epsilon",
                stacklevel=5,
            )

    def _warn_of_equal_rates(self) -> None:
        rates = self.generator_[self.eigenvalues_ > len(self._degrees) * np.finfo(float).eps]
        equal = np.flatnonzero(np.diff(rates) <= EQUAL * rates[1:]) if len(rates) > 1 else np.array([])
        if len(equal):
            pairs = ", ".join(f"{k + 1} and {k + 2}" for k in equal)
            warnings.warn(
                f"the rates of coordinates {pairs} are equal to rounding, so that any rotation of these coordinates "
                "into each other is as good: compare the spaces they span, not the coordinates",
                stacklevel=4,
            )


def _is_lazy(X: Any) -> bool:
    """Arrays on disk or on a device, which are not to be read into memory for a look at them."""
    return type(X).__module__.partition(".")[0] in ("zarr", "dask", "torch")


def _estimated_dimension(X: Any, metric: str) -> int:
    """Twice the largest slope of the log kernel sum, each point at its own scale (Berry and Harlim 2016)."""
    step = -(-X.shape[0] // SAMPLE)
    d2 = _checked_distances(X[::step, ::step]) if metric == "precomputed" else squared_distances(X[::step])
    radius = np.sqrt(np.partition(d2, min(NEIGHBOR, len(d2) - 1), axis=1)[:, : NEIGHBOR + 1].mean(axis=1))
    radius[radius == 0] = radius[radius > 0].min()
    return max(1, round(2 * kernel_sum_scan(d2 / np.outer(radius, radius)).slopes.max()))


def _checked_distances(d2: NDArray[Any]) -> NDArray[np.float64]:
    if d2.shape[0] != d2.shape[1]:
        raise ValueError(f"X must be a square matrix of squared distances, got shape {d2.shape}")
    d2 = np.asarray(d2, dtype=np.float64)
    if d2.diagonal().any() or np.abs(d2 - d2.T).max() > 1e-6 * d2.max():
        raise ValueError("X must hold squared distances: symmetric, never negative, zero on the diagonal")
    return (d2 + d2.T) / 2


def _refuse_far(sums: NDArray[np.float64]) -> None:
    far = np.flatnonzero(sums == 0)
    if len(far):
        raise ValueError(
            f"X must lie within reach of the fitted points, a few times sqrt(epsilon_); {len(far)} rows do not, "
            f"the first is row {far[0]}"
        )


def _with_fixed_signs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest entry of each positive; the first of them, where rounding would choose one."""
    sizes = np.abs(vectors)
    largest = np.argmax(sizes > (1 - 1e-6) * sizes.max(axis=0), axis=0)
    return vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
