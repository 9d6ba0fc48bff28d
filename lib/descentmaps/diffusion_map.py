"""The estimator: from points, through a Markov chain on them, to diffusion coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .distances import squared_distances
from .kernels import Rule, bandwidth, gaussian_kernel

__all__ = ["DiffusionMap"]

SMALL = 500  # up to this many points a dense eigensolve takes a tenth of a second, and it never fails to converge


class DiffusionMap(TransformerMixin, BaseEstimator):
    """Diffusion map of T points in R^D (Coifman and Lafon 2006).

    The kernel ``k = exp(-|x - y|^2 / (4 epsilon))`` is divided by powers ``alpha`` of its row sums, its rows are
    scaled to sum to one, and the leading right eigenvectors of that Markov matrix P are the coordinates.

    Parameters
    ----------
    n_components
        Number of coordinates, the constant one left out; there are T - 1 of them.
    alpha
        How much of the sampling density is removed, in [0, 1]: none at 0, all of it at 1 (Laplace-Beltrami), and at
        1/2 what turns samples of exp(-U) into the backward Fokker-Planck operator of dX = -grad U dt + sqrt(2) dW.
    epsilon
        Bandwidth, in the unit of a squared distance: a number, the name of a rule (see :func:`bandwidth`), or a
        function of the (T, T) squared distances.
    time
        Number t of steps of the chain, >= 0: coordinate k is scaled by ``lambda_k ** t``.
    metric
        ``"euclidean"``, or ``"precomputed"`` where X holds squared distances.
    random_state
        Seeds the start vector of the iterative eigensolver; the map depends on it by rounding only.

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
        ``-log(eigenvalues_) / epsilon_``: estimates the spectrum of the generator.
    epsilon_ : float
        The bandwidth used.
    stationary_ : (T,)
        The chain's stationary density; sums to one.

    Raises
    ------
    ValueError
        From ``fit``, naming what is wrong with X or with a parameter: X not 2-D, not finite, or with fewer points
        than ``n_components``; all points identical; a parameter out of range.

    Warns
    -----
    UserWarning
        The kernel falls apart into pieces, or has fewer eigenvalues above rounding than ``n_components``.

    References
    ----------
    R. R. Coifman and S. Lafon, Diffusion maps, Applied and Computational Harmonic Analysis 21 (2006) 5-30.
    """

    def __init__(
        self,
        n_components: int = 10,
        alpha: float = 1.0,
        epsilon: float | Rule | Callable[[NDArray[np.float64]], float] = "median",
        time: float = 1,
        metric: Literal["euclidean", "precomputed"] = "euclidean",
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.epsilon = epsilon
        self.time = time
        self.metric = metric
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the map to points X of shape (T, D), or to squared distances (T, T) where they are precomputed."""
        self._check_parameters()
        X = self._check_points(X, reset=True)
        d2 = _checked_distances(X) if self.metric == "precomputed" else squared_distances(X)
        self.epsilon_ = self._bandwidth(d2)
        kernel = gaussian_kernel(d2, self.epsilon_)
        self._density = kernel.sum(axis=1)
        kernel /= np.outer(self._density**self.alpha, self._density**self.alpha)
        degrees = kernel.sum(axis=1)
        self.stationary_ = degrees / degrees.sum()
        n_components = min(self.n_components, len(d2) - 1)
        noise = check_random_state(self.random_state).uniform(0.5, 1.5, len(d2))
        values, self.eigenvectors_ = _markov_eigenpairs(kernel, degrees, n_components, noise)
        self._warn_of_degenerate(values)
        self.eigenvalues_ = np.maximum(values, np.finfo(float).eps)
        self.embedding_ = self.eigenvectors_ * self.eigenvalues_**self.time
        self.generator_ = -np.log(self.eigenvalues_) / self.epsilon_
        self._points = None if self.metric == "precomputed" else X
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
        X = self._check_points(X, reset=False)
        d2 = X.astype(np.float64) if self._points is None else squared_distances(X, self._points)
        kernel = gaussian_kernel(d2, self.epsilon_)
        density = kernel.sum(axis=1)
        far = np.flatnonzero(density == 0)
        if len(far):
            raise ValueError(
                f"X must lie within reach of the fitted points, a few times sqrt(epsilon_); {len(far)} rows do not, "
                f"the first is row {far[0]}"
            )
        kernel /= self._density**self.alpha  # the new point's own density cancels when the row is normalised
        step = kernel / kernel.sum(axis=1, keepdims=True)
        # psi(x) = P psi / lambda, and the embedding scales it by lambda^time: one power of lambda cancels.
        return step @ (self.eigenvectors_ * self.eigenvalues_ ** (self.time - 1))

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

    def _check_parameters(self) -> None:
        if not isinstance(self.n_components, Integral) or self.n_components < 1:
            raise ValueError(f"n_components must be a whole number, at least 1, got {self.n_components!r}")
        if not (isinstance(self.alpha, Real) and 0 <= self.alpha <= 1):
            raise ValueError(f"alpha must be a number in [0, 1], got {self.alpha!r}")
        if not (isinstance(self.time, Real) and 0 <= self.time < np.inf):
            raise ValueError(f"time must be a finite number of steps, at least 0, got {self.time!r}")
        if self.metric not in ("euclidean", "precomputed"):
            raise ValueError(f"metric must be 'euclidean' or 'precomputed', got {self.metric!r}")
        check_random_state(self.random_state)

    def _check_points(self, X: Any, reset: bool) -> NDArray[Any]:
        shape = X.shape if hasattr(X, "shape") else np.asarray(X).shape
        if len(shape) == 1:
            raise ValueError(
                f"X must be 2-D (points, coordinates), got shape {shape}. Reshape your data: one point is "
                "X.reshape(1, -1), one coordinate of many points X.reshape(-1, 1)"
            )
        X = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2 if reset else 1,
            ensure_non_negative=self.metric == "precomputed",
        )
        if reset and len(X) < self.n_components:
            raise ValueError(
                f"X must have more points than n_components, got n_samples={len(X)} points and "
                f"n_components={self.n_components}"
            )
        return X

    def _bandwidth(self, d2: NDArray[np.float64]) -> float:
        if not d2.any():
            raise ValueError(f"X must hold points that differ, got {len(d2)} identical ones")
        if isinstance(self.epsilon, str) and self.epsilon in get_args(Rule):
            return bandwidth(d2, self.epsilon)
        epsilon = self.epsilon(d2) if callable(self.epsilon) else self.epsilon
        if not (isinstance(epsilon, Real) and 0 < epsilon < np.inf):
            raise ValueError(f"epsilon must be positive and finite, or one of {get_args(Rule)}, got {epsilon!r}")
        return float(epsilon)

    def _warn_of_degenerate(self, values: NDArray[np.float64]) -> None:
        noise = len(self.stationary_) * np.finfo(float).eps
        if values[0] > 1 - noise:
            warnings.warn(
                f"the kernel falls apart into pieces that no walk connects at epsilon={self.epsilon_:.3g}: "
                "coordinates only tell the pieces apart; try a larger epsilon, or look for outliers",
                stacklevel=3,
            )
        usable = int(np.count_nonzero(values > noise))
        if usable < self.n_components:
            warnings.warn(
                f"of n_components={self.n_components} only {usable} have an eigenvalue above rounding, at "
                f"epsilon={self.epsilon_:.3g}; the rest is noise: ask for fewer, or try a smaller epsilon",
                stacklevel=3,
            )


def _checked_distances(d2: NDArray[Any]) -> NDArray[np.float64]:
    if d2.shape[0] != d2.shape[1]:
        raise ValueError(f"X must be a square matrix of squared distances, got shape {d2.shape}")
    d2 = np.asarray(d2, dtype=np.float64)
    if d2.diagonal().any() or np.abs(d2 - d2.T).max() > 1e-6 * d2.max():
        raise ValueError("X must hold squared distances: symmetric, never negative, zero on the diagonal")
    return (d2 + d2.T) / 2


def _markov_eigenpairs(
    kernel: NDArray[np.float64], degrees: NDArray[np.float64], n_components: int, noise: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leading nontrivial eigenpairs of ``kernel / degrees[:, None]``, through its symmetric conjugate, in its place.

    The trivial pair is known: its eigenvalue is moved from 1 to -1, out of the way, so that it is this pair that is
    left out even where 1 comes more than once.
    """
    root = np.sqrt(degrees)
    outer = np.outer(root, root)
    kernel /= outer
    outer *= 2 / degrees.sum()
    kernel -= outer
    values, vectors = _top_eigenpairs(kernel, n_components, start=root * noise)
    order = np.argsort(values)[::-1]
    right = vectors[:, order] / root[:, None] * np.sqrt(degrees.sum())
    sizes = np.abs(right)
    largest = np.argmax(sizes > (1 - 1e-6) * sizes.max(axis=0), axis=0)  # the first, where rounding would choose one
    return values[order], right * np.sign(right[largest, np.arange(len(order))])


def _top_eigenpairs(
    symmetric: NDArray[np.float64], k: int, start: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The k largest eigenvalues and their vectors, iteratively where that pays and converges."""
    n = len(symmetric)
    if n > SMALL and k < n // 4:
        try:
            return eigsh(symmetric, k=k, which="LA", v0=start, tol=1e-14, maxiter=200)
        except ArpackNoConvergence:
            pass  # near-equal eigenvalues, as where a small bandwidth cuts the points apart: take the dense route
    values, vectors = eigh(symmetric, driver="evd")  # asked for a subset, LAPACK may return none of equal eigenvalues
    return values[-k:], vectors[:, -k:]
